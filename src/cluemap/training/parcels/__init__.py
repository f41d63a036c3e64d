"""Training on parcels: the task, labels voted for by image labels, baselines, scores."""
