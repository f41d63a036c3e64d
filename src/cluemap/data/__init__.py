"""Raw series in, windows and batches out (floor 1): readers, the common form, loaders."""
