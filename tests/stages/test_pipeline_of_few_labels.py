"""The whole pipeline where few training windows have labels: only those are learned from."""

import json

import numpy as np
import pandas as pd
import pytest
import tiny

from cluemap.model.networks.stand_in import StandInSegmenter
from cluemap.model.storage.trained_models import load_segmenter

KEPT = [f"{10000 + number}_0" for number in (0, 1, 3, 4, 7, 9, 10, 14, 15)]
HIDDEN = [number for number in range(17) if f"{10000 + number}_0" not in KEPT]


def pipeline(root, changed: bool) -> dict:
    """Every stage's metrics; `changed`: the hidden windows' masks and image labels are others."""
    tiny.make_project(root, {**tiny.FAST, "labelled": {"file": "kept.txt"}})
    (root / "kept.txt").write_text("\n".join(KEPT))
    folder = root / "out/tiny/prepare/windows"
    if changed:
        masks, table = np.load(folder / "masks_train.npy"), pd.read_parquet(folder / "windows.parquet")
        masks[HIDDEN] = 2
        np.save(folder / "masks_train.npy", masks)
        labels = table["labels"].to_list()
        table["labels"] = [~np.array(row) if number in HIDDEN else row for number, row in enumerate(labels)]
        table.to_parquet(folder / "windows.parquet")
    for stage in tiny.STAGES:
        tiny.run(stage, root)
    assert np.load(root / "out/tiny/make_masks/masks/masks_train.npy").shape == (9, 14, 14)
    return {stage: json.loads((root / f"out/tiny/{stage}/metrics.json").read_text()) for stage in tiny.STAGES}


@pytest.mark.slow
def test_no_hidden_label_reaches_any_stage(tmp_path):
    found, other = (pipeline(tmp_path / name, name == "changed") for name in ("plain", "changed"))
    for name in ("test", "baselines", "refined_masks"):
        assert found["evaluate"][name] == other["evaluate"][name]
    assert found["make_masks"]["train"] == other["make_masks"]["train"]
    assert found["train_classifier"]["validation"] == other["train_classifier"]["validation"]


@pytest.mark.slow
def test_a_student_goes_through_every_stage_into_the_registry(tmp_path):
    told = {"kind": "fixmatch", "threshold": 0.5, "ratio": 1}
    tiny.make_project(tmp_path, {**tiny.FAST, "labelled": {"count": 9}, "semisupervised": told})
    for stage in (*tiny.STAGES, "register"):
        tiny.run(stage, tmp_path)
    for kind, stage in (("weak", "train_segmenter"), ("full", "train_reference")):
        network, _ = load_segmenter(tmp_path / f"out/tiny/{stage}/model/segmenter.safetensors")
        assert isinstance(network, StandInSegmenter)
        found = json.loads((tmp_path / "out/tiny/evaluate/metrics.json").read_text())
        assert 0 <= found["test"][kind]["miou"] <= 1
