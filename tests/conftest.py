"""Loaded before all tests: how many threads each process gets and how they wait, and which files come first."""

import os

import pytest

import cluemap  # noqa: F401  (before the tests import torch: it says how threads wait)
from cluemap.runtime import threads

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:
    os.environ.update(threads.share(WORKERS, os.environ))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: one that is left for the end keeps one process busy while the others wait."""
    for item in items:
        if "pipeline" in item.fixturenames:  # a whole tiny pipeline: a minute, whoever asks for it first
            item.add_marker("slow")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
