"""The published idea and its baselines: planes in, scores out, one fused score."""
