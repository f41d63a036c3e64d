"""Raw series in, windows and batches out (floor 1): the common form, its loader, and what fills it."""
