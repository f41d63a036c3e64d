"""Training: the loop and its state, what is trained, forward passes over prepared windows, scores."""
