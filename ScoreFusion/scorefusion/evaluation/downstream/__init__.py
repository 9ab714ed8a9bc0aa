"""What a model does to a segmentation: a tissue segmenter, any MONAI bundle as a segmenter, Dice before and after
(`scorefusion downstream`)."""
