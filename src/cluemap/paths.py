"""Where things lie: one folder per data set and stage, anchored at the project's root and never at the caller's cwd."""

import os
from pathlib import Path

# The copy of the project that this code lies in, also where DVC runs it in a temporary copy (`dvc exp run --temp`).
# CLUEMAP_ROOT: another folder to work in with this code, for tests and benchmarks.
ROOT = Path(os.environ.get("CLUEMAP_ROOT") or Path(__file__).resolve().parents[2])
OUT = ROOT / "out"
STAGES = (
    *("prepare", "train_classifier", "make_cams", "make_masks", "refine_masks"),
    *("train_segmenter", "train_reference", "train_baselines", "evaluate"),
)

PARCEL_STAGES = ("prepare_parcels", "train_parcels")  # of the data sets under `parcel_datasets` in params.yaml


def stage_folder(dataset: str, stage: str, out: Path = OUT) -> Path:
    """The output folder of a stage: `out/<data set>/<stage>`."""
    return Path(out) / dataset / stage


def state_folder(dataset: str, stage: str, out: Path = OUT) -> Path:
    """Where an unfinished run keeps what it needs to continue; outside the stage's output, which DVC empties."""
    return Path(out) / dataset / ".state" / stage
