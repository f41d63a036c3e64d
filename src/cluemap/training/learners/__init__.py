"""Learners that see one pixel's series at a time: what masks are refined with, and the baselines."""
