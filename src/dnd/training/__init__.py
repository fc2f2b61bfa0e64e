"""One training loop for all stages."""
