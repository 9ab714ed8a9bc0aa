"""Synthetic heads with several contrasts, made from label maps: training data without anyone's images."""
