"""What a scan is and what a scanner does to it; knows nothing of networks."""
