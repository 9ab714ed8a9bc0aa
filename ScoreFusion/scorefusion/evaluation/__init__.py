"""How good is a model: simulated scans, classical baselines, metrics, tables and pictures (`scorefusion evaluate`)."""
