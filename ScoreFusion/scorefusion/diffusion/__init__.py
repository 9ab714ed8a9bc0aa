"""Noise levels and the one loop over them; knows nothing of images."""
