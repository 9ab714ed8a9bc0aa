"""How good is a translation between contrasts: baselines, fusion rules, scores on slices, what becomes of lesions."""
