"""Training: the loop, one process or many, checkpoints, scores."""
