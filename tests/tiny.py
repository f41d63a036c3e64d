"""A pipeline small enough for tests: prepared windows, a params file, and the real stage scripts run on them."""

import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import stage_forks
from builders import write_pastis, write_prepared
from locations import PROJECT
from ruamel.yaml import YAML
from shared_folders import made_once

from cluemap import paths
from cluemap.params import METHOD_BLOCKS

BLOCKS = (
    *("windows", "labelled", "classifier", "losses", "clues", "temporal_weighting", "affinity"),
    *("cams", "masks", "refine", "segmenter", "ltae", "cscl", "augmentation", "semisupervised", "baselines"),
    "parcels",
    *("compute", "checkpoint", "figures", "registry"),
)
SIZES = {"width": 11, "temporal_depth": 2, "spatial_depth": 1, "heads": 2, "head_width": 3, "feed_forward": 2}
OVERRIDES: dict[str, dict[str, Any]] = {
    "windows": {"size": 14},
    "classifier": {**SIZES, "batch": 8, "steps": 30, "validate_every": 15},
    "segmenter": {**SIZES, "batch": 8, "steps": 30, "validate_every": 15},
    "clues": {"start_step": 12, "momentum": 0.9},
    "checkpoint": {"minutes": 0.0},
    "compute": {"inference_batch": 5},
    "refine": {"learner": "trees", "rounds": 2, "pixels": 500, "confidence": 0.4},
    "baselines": {"pixels": 500, "rounds": 3, "leaves": 5, "forest": 3},
    "parcels": {"batch": 8, "steps": 30, "validate_every": 15, "pixels": 5},
    "figures": {"windows": 2},
}
STAGES = paths.STAGES[1:]
FAST: dict[str, dict[str, Any]] = {
    "classifier": {"steps": 16, "validate_every": 16},
    "segmenter": {"steps": 16, "validate_every": 16},
    "clues": {"start_step": 6},
    "checkpoint": {"minutes": 5.0},
    "cams": {"compare": ["fused", "refined", "spatial", "temporal"]},
}


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole pipeline on a tiny published PASTIS, raw data first; one for all files of tests, so work on copies."""
    return made_once(tmp_path_factory, "pipeline", make_pipeline)


def make_pipeline(root: Path) -> None:
    """Raw data, params and the outputs of every stage."""
    write_pastis(root / "data" / "tiny", patches=5, size=28, dates=7)
    write_params(root / "params.yaml", {**FAST, "windows": {"size": 14, "stride": 14}})
    for stage in ("prepare", *STAGES):
        run(stage, root)


@cache
def method_texts() -> dict[str, str]:
    """Name -> text, with its comments, of every block of the project's params.yaml but those of its data sets."""
    tree = YAML().load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    return {
        name: text_of({name: block})
        for name, block in tree.items()
        if name in METHOD_BLOCKS or not isinstance(block, Mapping) or "source" not in block
    }


def text_of(tree: Mapping[str, Any]) -> str:
    """A tree as YAML."""
    with StringIO() as handle:
        YAML().dump(tree, handle)
        return handle.getvalue()


def write_params(file: Path, overrides: Mapping[str, Mapping[str, Any]] | None = None, **top: Any) -> Path:
    """The project's params.yaml with one data set, `tiny`; `overrides` are laid over OVERRIDES, block by block."""
    block = {name: {**OVERRIDES.get(name, {}), **(overrides or {}).get(name, {})} for name in BLOCKS}
    tiny = {"source": {"format": "pastis", "classes": [1, 2, 3], "folds": "metadata"}, **block}
    mine = {"datasets": {"tiny": "data/tiny"}, "tiny": tiny, **top}
    kept = [text for name, text in method_texts().items() if name not in mine]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join([*kept, text_of(mine)]), encoding="utf-8")
    return file


def make_project(root: Path, overrides: Mapping[str, Mapping[str, Any]] | None = None, **top: Any) -> Path:
    """A project folder with tiny prepared windows and their params."""
    write_params(root / "params.yaml", overrides, **top)
    write_prepared(
        root / "out" / "tiny" / "prepare" / "windows",
        counts={"train": 17, "validation": 7, "test": 5}, classes=3, size=14, bands=5, dataset="tiny",
    )  # fmt: skip
    return root


def environment(root: Path, **more: str) -> dict[str, str]:
    """The environment of a stage that works in `root`, on the CPU, one thread a process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLUEMAP_", "MLFLOW_", "DVC_"))}
    return {**kept, "CLUEMAP_ROOT": str(root), "CLUEMAP_DEVICE": "cpu", "OMP_NUM_THREADS": "1", **more}


def command(stage: str, root: Path) -> list[str]:
    script = str(PROJECT / "src" / f"{stage}.py")
    return [
        sys.executable,
        script,
        "--dataset",
        "tiny",
        "--params",
        str(root / "params.yaml"),
        "--out",
        str(root / "out"),
    ]


def run(stage: str, root: Path, check: bool = True, **more: str) -> subprocess.CompletedProcess:
    """Run one stage script to its end."""
    done = stage_forks.run(command(stage, root)[1:], environment(root, **more))
    if check and done.returncode:
        raise AssertionError(f"{stage} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done
