"""Loaded before all tests: how many threads each process gets and how they wait, where the tests write, which files
come first, and what the garbage collector looks at.
"""

import gc
import os
import shutil
import sys
from pathlib import Path

import psutil
import pytest

import cluemap  # noqa: F401  (before the tests import torch: it says how threads wait)
from cluemap.runtime import threads

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:
    os.environ.update(threads.share(WORKERS, os.environ))

# Containers often forbid compiled files: then every process of a test compiles the project and each worker all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
MEMORY, ROOM = Path("/dev/shm"), 6 * 2**30  # bytes; a whole run leaves less than 1 GiB


def in_memory() -> bool:
    """Whether the tests' files fit into memory: thousands of them are synced, which a disk takes milliseconds for."""
    if not os.access(MEMORY, os.W_OK) or os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
        return False
    return min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available) > ROOM


if "PYTEST_DEBUG_TEMPROOT" not in os.environ and in_memory():
    os.environ["PYTEST_DEBUG_TEMPROOT"] = str(MEMORY)


LONGEST = (  # a minute of a core or more each, the longest first; the order of a run of 2026-11-26
    *("tuner", "two_clones", "distributed", "pipeline_of_few_labels", "slurm", "pipeline", "train_parcels", "ranks"),
    *("temporary_experiments", "context_task", "tune_at_scale", "mlflow_store", "pipelines", "raw_data"),
    "refine_masks",
)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """One process a core; two where slow tests run: half of their time they wait for servers, signals, schedulers."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # xdist itself knows what to do
    return (os.cpu_count() or 1) * (1 if "not slow" in config.option.markexpr else 2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, then others with slow tests: what is left for the end keeps one process busy while the others
    wait.
    """
    for item in items:
        if "pipeline" in item.fixturenames:  # a whole tiny pipeline: a minute, whoever asks for it first
            item.add_marker("slow")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    ranks = {f"test_{name}.py": rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (item.path not in slow, ranks.get(item.path.name, len(ranks))))


def pytest_sessionstart() -> None:
    """Modules are no garbage: while they are loaded the collector would look through all of them again and again."""
    gc.disable()


def pytest_collection_finish() -> None:
    """From now on it looks at what the tests make, not at the modules, which takes half a second each time."""
    gc.freeze()
    gc.enable()
