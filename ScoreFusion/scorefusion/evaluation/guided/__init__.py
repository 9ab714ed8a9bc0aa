"""What sharp scans of other contrasts are worth to a coarse one, what wrong or moved ones do, and whether lesions of a
guide leak (`scorefusion evaluate guided`)."""
