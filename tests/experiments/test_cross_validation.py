"""Cross-validation: pixels once, fields as they are, and a whole scene through two folds."""

import importlib
import json
import sys

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML
from runs import database, root
from scenes import make_region, write_fields, write_files, write_scene
from tiny import write_params

import crossvalidate
from cluemap.data.patches import VOID
from cluemap.experiments import cross_validation
from cluemap.experiments.pooled_predictions import FieldNumbers, once
from cluemap.params import load_params
from cluemap.stages.stage import run_stage
from cluemap.tracking import open_store

__all__ = ["database", "root"]  # fixtures
FEW = {"steps": 6, "validate_every": 3, "batch": 4}


def windows_of(*corners):
    """A table of windows: (patch, row, column)."""
    return pd.DataFrame(corners, columns=["patch", "row", "column"])


def test_every_pixel_counts_once():
    size = 5
    table = windows_of(("a", 0, 0), ("b", 0, 0), ("a", 0, 3), ("a", 3, 0), ("a", 3, 3), ("b", 0, 5))
    kept, counts = once(table, size), {}
    for window, (patch, row, column) in enumerate(table.itertuples(index=False)):
        for r in range(size):
            for c in range(size):
                key = (patch, row + r, column + c)
                counts[key] = counts.get(key, 0) + kept[window, r, c]
    assert set(counts.values()) == {1}
    assert kept[0].all()
    assert kept[2].sum() == 15


def test_fields_without_polygons_hang_together_over_windows():
    truth = np.full((2, 4, 4), 2, np.uint8)
    truth[:, 2] = VOID
    truth[1, :, 3] = 0
    truth[0, 0, 0] = 1
    found = FieldNumbers(load_params("demo")).of(windows_of(("a", 0, 0), ("a", 0, 4)), truth)
    assert (found == -1).sum() == (truth == VOID).sum() + (truth == 0).sum()
    upper, lower = found[:, :2][truth[:, :2] == 2], found[:, 3][truth[:, 3] == 2]
    assert len(set(upper.tolist())) == len(set(lower.tolist())) == 1
    assert upper[0] != lower[0] != found[0, 0, 0]


def run_here(wanted, jobs):
    """The stages in this process: eighteen of their own would start torch eighteen times."""
    for pipeline, stages in wanted:
        for stage in stages:
            if not pipeline.done(stage):
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(sys, "argv", pipeline.command(stage)[1:])
                    assert run_stage(stage, "", importlib.import_module(stage).work) == 0, stage


@pytest.fixture
def scene(root, monkeypatch):
    """A scene whose fields are kept whole, and the arguments that cross-validate it in two folds."""
    monkeypatch.setattr(cross_validation, "run_all", run_here)
    monkeypatch.setenv("CLUEMAP_DEVICE", "cpu")
    scene, region = root / "data" / "tiny", make_region()
    write_files(scene / "images", region)
    write_fields(scene / "fields.gpkg", region)
    write_scene(scene, {"kind": "files", "path": "images"}, split={"kind": "auto", "seed": 0})
    overrides = {"windows": {"size": 12, "stride": 12}, "classifier": FEW, "segmenter": FEW, "clues": {"start_step": 3}}
    file = write_params(root / "params.yaml", overrides, datasets={"tiny": str(scene)})
    tree = YAML().load(file.read_text())
    tree["tiny"]["source"] = {"format": "scene"}
    with file.open("w") as handle:
        YAML().dump(tree, handle)
    line = ["--dataset", "tiny", "--params", str(file), "--out", str(root / "out"), "--draws", "50"]
    return [*line, "--folds", "1", "2"]


@pytest.mark.slow
def test_two_folds_of_a_scene(root, scene, capsys):
    assert crossvalidate.main(scene) == 0
    folder = root / "out" / "tiny" / "crossvalidate"
    said = capsys.readouterr().out
    assert "segmenter, image labels" in said
    assert "majority" in said
    metrics = json.loads((folder / "metrics.json").read_text())
    table = pd.read_csv(folder / "scores.csv", keep_default_na=False)
    fields = pd.read_csv(folder / "fields.csv")
    truth = {}
    for fold in (1, 2):
        windows = folder / f"fold_{fold}" / "tiny" / "prepare" / "windows"
        masks = np.load(windows / "masks_test.npy")
        maps = np.load(folder / f"fold_{fold}" / "tiny" / "train_baselines" / "maps" / "trees_weak_test.npy")
        known = masks != VOID
        truth[fold] = ((masks == maps)[known].sum(), known.sum())
    right, count = np.sum(list(truth.values()), axis=0)
    assert metrics["pooled"]["trees_weak"]["pixels"]["overall accuracy"]["value"] == pytest.approx(right / count)
    assert set(table["model"]) >= {"segmenter_weak", "segmenter_full", "trees_weak", "trees_full", "majority"}
    assert len(fields) == len(set(fields["field"])) > 4
    share = (fields["class"] == fields["trees_weak"]).mean()
    assert metrics["pooled"]["trees_weak"]["fields"]["overall accuracy"]["value"] == pytest.approx(share)
    store = open_store()
    rows = {run.id: run for run in store.runs(["tiny/results"])}
    parent = json.loads((folder / "run.json").read_text())["run_id"]
    children = [run for run in rows if rows[run].tags.get("mlflow.parentRunId") == parent]
    assert len(rows) == 3
    assert len(children) == 2
    assert rows[parent].metrics["test_miou"] == pytest.approx(metrics["test_miou"])
    before = sorted((folder / "fold_1").rglob("*"))
    assert crossvalidate.main(scene) == 0  # nothing is left to do
    assert len(list(store.runs(["tiny/results"]))) == 3
    assert sorted((folder / "fold_1").rglob("*")) == before


@pytest.mark.parametrize(("more", "text"), [(["--folds", "3"], "give two folds or more")])
def test_what_is_refused(scene, capsys, more, text):
    assert crossvalidate.main([*scene[:-3], *more]) == 2
    assert text in capsys.readouterr().err
