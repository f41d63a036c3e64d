"""Which fields train, validate and test."""
