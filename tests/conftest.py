"""Loaded before all tests: whatever they import then, OpenMP waits as cluemap has it (runtime/threads.py)."""

import cluemap  # noqa: F401
