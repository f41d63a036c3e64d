"""For the tests of tracking: a fresh run store per test (making one takes seconds, so one is made and copied)."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from locations import SOURCE, TESTS
from shared_folders import made_once

from cluemap import paths
from cluemap.tracking import open_run

NOBODY = "http://127.0.0.1:9"  # the discard port: refuses at once
PARAMS = {"seed": 0, "clues.count": 2, "windows.flush_edge": False, "source.classes": [1, 2, 3]}
EXPERIMENT = "demo/training"


def use_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make `root` the project's root for this test, and the default store its store."""
    monkeypatch.setattr(paths, "ROOT", root)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_DEFAULT_ARTIFACT_ROOT", "CLUEMAP_ROOT", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    return root


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh SQLite store without experiments, one for all files of tests."""
    return made_once(tmp_path_factory, "store", make_store) / "mlflow.db"


def make_store(root: Path) -> None:
    """A project folder with an empty store."""
    with pytest.MonkeyPatch.context() as patch:
        use_root(root, patch)
        from cluemap.tracking.store.mlflow_store import Store

        Store()


@pytest.fixture
def root(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with a store of its own."""
    shutil.copyfile(database, tmp_path / "mlflow.db")
    return use_root(tmp_path, monkeypatch)


def journal_of(root: Path) -> Path:
    return root / "out" / "demo" / ".state" / "train_classifier" / "journal.jsonl"


def opened(root: Path, **options: Any) -> Any:
    """`open_run` of a stage as the tests use it."""
    options = {"experiment": EXPERIMENT, "name": "train_classifier", "params": PARAMS, **options}
    return open_run(journal=options.pop("journal", journal_of(root)), **options)


def loss(step: int) -> float:
    """A deterministic training's loss."""
    return 1.0 / (step + 3)


def cut(root: Path, error: BaseException, steps: int = 0, **options: Any) -> Any:
    """A run that `error` ends after so many steps; gives it, closed."""
    try:
        with opened(root, **options) as run:
            train(run, 0, steps)
            raise error
    except type(error):
        return run


def train(run: Any, first: int, last: int) -> None:
    """Log the steps first..last-1."""
    for step in range(first, last):
        run.log(step, {"loss/total": loss(step)})


def curve(steps: int) -> list[tuple[int, float]]:
    """The history that a training of so many steps should have, each once."""
    return [(step, loss(step)) for step in range(steps)]


def environment(root: Path, **more: str) -> dict[str, str]:
    """For child processes: the project at `root`, the code from here."""
    source = SOURCE
    path = os.pathsep.join([str(source), str(TESTS), os.environ.get("PYTHONPATH", "")])
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DVC_", "CLUEMAP_ROOT"))
    }
    return {**clean, "CLUEMAP_ROOT": str(root), "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}
