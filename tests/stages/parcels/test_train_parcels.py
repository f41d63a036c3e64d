"""Stages prepare_parcels and train_parcels as scripts: their outputs, weak labels without truth, several processes."""

import json
import shutil
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from builders import write_pastis

from cluemap.data.parcels.parcels import Parcels
from cluemap.data.patches import VOID
from cluemap.data.windows import Windows
from cluemap.model.storage import checkpoints
from cluemap.model.storage.parcel_models import FILE
from cluemap.params import load_params
from cluemap.runtime.distributed import ALONE
from cluemap.stages.make_cams import cam_file
from cluemap.stages.make_masks import write_masks
from cluemap.stages.parcels.pixel_majority import majority
from cluemap.stages.parcels.train_parcels import train_parcels
from cluemap.stages.stage import Stage

pytestmark = pytest.mark.slow
STEPS = {"steps": 12, "validate_every": 6}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Prepared windows and parcels, and masks and CAMs that know nothing: what labels need beside image labels."""
    root = tmp_path_factory.mktemp("parcels") / "project"
    write_pastis(root / "data/tiny", patches=5, size=28, dates=7)
    for file in (root / "data/tiny/ANNOTATIONS").glob("TARGET_*.npy"):
        target = np.load(file)[0]
        rows, columns = np.indices(target.shape) // 6
        np.save(str(file).replace("TARGET_", "ParcelIDs_"), ((rows * 9 + columns + 1) * (target > 0)).astype(np.int32))
    told(root, "parcels")
    for stage in ("prepare", "prepare_parcels"):
        tiny.run(stage, root)
    generator, table = np.random.default_rng(1), root / "out/tiny/prepare/windows/windows.parquet"
    held = pd.read_parquet(table)  # image labels of two classes each: made up, so that something is left open
    held["labels"] = [(np.arange(3) != absent).tolist() for absent in generator.integers(0, 3, len(held))]
    held.to_parquet(table)
    windows = Windows.open(root / "out/tiny/prepare/windows")
    shapes = {split: (len(windows.indexes(split)), 7, 7) for split in ("train", "validation")}
    masks = {split: generator.integers(0, 4, shape, np.uint8) for split, shape in shapes.items()}
    masks = {split: found.repeat(2, axis=1).repeat(2, axis=2) for split, found in masks.items()}
    write_masks(root / "out/tiny/refine_masks/masks", masks, windows, {})
    (root / "out/tiny/make_cams/cams").mkdir(parents=True)
    for split, (count, *side) in shapes.items():
        cams = generator.random((count, 3, *side)).astype(np.float16)
        np.save(cam_file(root / "out/tiny/make_cams/cams", "clue", split), cams)
    return root


def told(root, labels):
    """Params with this way of labelling."""
    changed = {"parcels": {**STEPS, "labels": labels, "least_votes": 0.0}}
    tiny.write_params(root / "params.yaml", {**tiny.FAST, "windows": {"size": 14, "stride": 14}, **changed})


def copy_of(made, root, labels):
    shutil.copytree(made, root)
    told(root, labels)
    return root


def weights(root):
    return checkpoints.load(root / "out/tiny/train_parcels/model" / FILE).tensors


def metrics(root):
    return json.loads((root / "out/tiny/train_parcels/metrics.json").read_text())


def test_from_parcel_labels(made, tmp_path):
    root = copy_of(made, tmp_path / "a", "parcels")
    said = tiny.run("train_parcels", root).stdout
    assert "pse_tae of step" in said
    found, folder = metrics(root), root / "out/tiny/train_parcels"
    assert set(found["test"]) == {"pse_tae", "trees", "forest"}
    assert found["training_labels"]["accuracy"] == found["training_labels"]["labelled_share"] == 1.0
    for one in found["test"].values():
        assert 0 <= one["accuracy_interval"][0] <= one["accuracy"] <= one["accuracy_interval"][1] <= 1
        assert np.array(one["confusion"]).sum() == one["parcels"] > 5
        assert one["calibration_error"] >= 0
    table = pd.read_parquet(folder / "predictions/parcels.parquet")
    parcels = Parcels.open(root / "out/tiny/prepare_parcels/parcels")
    assert len(table) == len(parcels)
    assert table["truth"].isna().sum() == (parcels.truth() == VOID).sum()
    test = table[(table["split"] == "test") & table["truth"].notna()]
    assert (test["crop"] == test["truth"]).mean() == pytest.approx(found["test"]["pse_tae"]["accuracy"])
    assert {file.name for file in (folder / "figures").iterdir()} == {"training.png", "confusion.png"}


@pytest.mark.parametrize("labels", ["image_labels", "instances", "masks", "cams"])
def test_from_image_labels_without_any_training_truth(made, tmp_path, labels):
    """Other true classes of the training parcels: the same votes, the same weights."""
    one, other = (copy_of(made, tmp_path / name, labels) for name in ("one", "other"))
    file = other / "out/tiny/prepare_parcels/parcels/parcels.parquet"
    table = pd.read_parquet(file)
    train = Parcels.open(file.parent).splits(1) == "train"
    table["crop"] = np.where(train, np.where(table["crop"] == 1, 2, 1), table["crop"]).astype(np.int32)
    table.to_parquet(file)
    for root in (one, other):
        tiny.run("train_parcels", root)
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    here, there = (metrics(root)["training_labels"] for root in (one, other))
    assert here["labelled"] == there["labelled"] > 3
    assert here["accuracy"] != there["accuracy"]


def test_a_training_is_not_gone_on_with_from_other_labels(made, tmp_path, monkeypatch):
    """The same folder of CAMs, of which another source votes."""
    root, found = copy_of(made, tmp_path / "a", "cams"), []
    clue, fused = (cam_file(root / "out/tiny/make_cams/cams", source, "train") for source in ("clue", "fused"))
    np.save(fused, 1 - np.load(clue))

    @contextmanager
    def begun(self, task, data, course, blocks, upstream, extra=None, before=None):
        found.append(extra)
        raise InterruptedError
        yield

    monkeypatch.setattr(Stage, "training", begun)
    for source in ("clue", "fused", "fused"):
        params = load_params("tiny", root / "params.yaml")
        params = params.model_copy(update={"cams": params.cams.model_copy(update={"source": source})})
        stage = Stage("train_parcels", params, ALONE, root / "out", root / "out/tiny/prepare")
        with pytest.raises(InterruptedError):
            train_parcels(stage)
    assert found[0] != found[1] == found[2]


def test_two_processes_are_one(made, tmp_path):
    """Apart from biases that a batch norm takes off again: their gradient is rounding, which Adam makes large."""
    found = []
    for processes in ("1", "2"):
        root = copy_of(made, tmp_path / processes, "parcels")
        text = (root / "params.yaml").read_text().replace("dropout: 0.2 ", "dropout: 0.0 ")
        text = text.replace("dropout: 0.2\n", "dropout: 0.0\n").replace("kind: pse_tae", "kind: pse_ltae")
        (root / "params.yaml").write_text(text.replace("select: miou #", "select: last #"))
        tiny.run("train_parcels", root, CLUEMAP_PROCESSES=processes)
        found.append(weights(root))
    for name, value in found[0].items():
        if value.is_floating_point() and not name.endswith(("0.bias", "out.3.bias", "running_mean")):
            torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=5e-4, msg=name)


def test_labels_of_one_class_are_refused(made, tmp_path):
    root = copy_of(made, tmp_path / "a", "parcels")
    file = root / "out/tiny/prepare_parcels/parcels/parcels.parquet"
    pd.read_parquet(file).assign(crop=1).to_parquet(file)
    done = tiny.run("train_parcels", root, check=False)
    assert done.returncode == 2
    assert "training wants two classes or more" in done.stderr
    assert not (root / "out/tiny/train_parcels/model").exists()


def test_image_labels_that_leave_no_class_alone_name_the_masks(made, tmp_path):
    root = copy_of(made, tmp_path / "a", "image_labels")
    file = root / "out/tiny/prepare/windows/windows.parquet"
    held = pd.read_parquet(file)
    held["labels"] = [[True, True, True]] * len(held)
    held.to_parquet(file)
    done = tiny.run("train_parcels", root, check=False)
    assert done.returncode == 2
    assert "0 of the training parcels" in done.stderr
    assert "leave a single class to too few parcels; set parcels.labels to masks" in done.stderr


def test_majority_of_a_parcels_pixels(made):
    """Maps that are the true masks give every parcel its class; a parcel outside all test windows gives none."""
    windows = Windows.open(made / "out/tiny/prepare/windows")
    parcels = Parcels.open(made / "out/tiny/prepare_parcels/parcels")
    test = np.flatnonzero((parcels.splits(1) == "test") & (parcels.truth() != VOID))
    shares = majority(parcels, test, windows, windows.masks("test"))
    assert (shares.argmax(axis=1) + 1 == parcels.truth()[test]).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    train = np.flatnonzero(parcels.splits(1) == "train")
    assert (majority(parcels, train, windows, windows.masks("test")) == 0).all()
