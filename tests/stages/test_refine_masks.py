"""Rounds under the image label: their start, what they obey, what a stop keeps, when they end, what they never read."""

import json
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from safetensors.torch import load
from tiny import pipeline

from cluemap.data.series_features import SeriesFeatures
from cluemap.data.windows import Windows
from cluemap.errors import DataError, Interrupted, TrainingError
from cluemap.model.method.refinement import allowed
from cluemap.params import load_params
from cluemap.runtime.distributed import Ranks
from cluemap.stages import refine_masks as stage_module
from cluemap.stages.make_masks import open_masks, read_masks, read_probabilities, undecided, write_masks
from cluemap.stages.refine_masks import (
    best_round,
    drifts,
    folds_of,
    one_round,
    refine_masks,
    stops,
    with_rest,
    without_rest,
)
from cluemap.stages.stage import Stage
from cluemap.training.learners.network_learner import RoundTask
from cluemap.training.learners.pixel_learners import LinearLearner, trees

__all__ = ["pipeline"]  # fixture


LTAE = {"width": 10, "heads": 2, "key_width": 3, "value_width": 5, "convolutions": 1}


def noise_of(windows: Windows, split: str) -> np.ndarray:
    """Every pixel the background or a class of its image label."""
    may = allowed(windows.image_labels[windows.indexes(split)])
    draw = np.random.default_rng(5)
    return np.stack([draw.choice(np.flatnonzero(row), (windows.card.size,) * 2) for row in may]).astype(np.uint8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Windows, two of a patch, and pseudo masks that are wrong or undecided here and there, under the image labels."""
    root = tiny.make_project(tmp_path_factory.mktemp("made"), {"ltae": LTAE})
    file = root / "out/tiny/prepare/windows/windows.parquet"
    table = pd.read_parquet(file)
    table.assign(patch=[str(number // 2) for number in range(len(table))]).to_parquet(file)
    windows, masks = Windows.open(file.parent), {}
    for split in ("train", "validation"):
        noise, draw = noise_of(windows, split), np.random.default_rng(6).uniform(size=(2, 14, 14))
        masks[split] = np.where(draw[0] < 0.3, noise, np.where(draw[1] < 0.1, 255, windows.masks(split)))
        masks[split] = masks[split].astype(np.uint8)
    write_masks(root / "out/tiny/make_masks/masks", masks, windows, {"threshold": 0.3, "source": "clue"})
    return root


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    monkeypatch.setattr(stage_module, "TREES", {**stage_module.TREES, "rounds": 7})


@pytest.fixture
def copy(made, tmp_path):
    """A project with pseudo masks, to work on."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def stage_of(root, **refine) -> Stage:
    params = load_params("tiny", root / "params.yaml")
    params = params.model_copy(update={"refine": params.refine.model_copy(update=refine)})
    return Stage("refine_masks", params, Ranks(0, 1, torch.device("cpu")), root / "out", root / "out/tiny/prepare")


SMALL = {"steps": 5, "batch": 4}  # of a network's training


def published(stage: Stage) -> np.ndarray:
    return np.load(stage.folder / "masks" / "masks_train.npy")


def test_without_a_learner_the_masks_pass_as_they_are(copy):
    stage = stage_of(copy, learner="none")
    assert refine_masks(stage, stage.windows())["rounds"] == 0
    for split in ("train", "validation"):
        file = f"masks/masks_{split}.npy"
        assert (stage.folder / file).read_bytes() == (stage.folder_of("make_masks") / file).read_bytes()
    assert read_masks(stage.folder / "masks", stage.windows())[0].shape == published(stage).shape


@pytest.mark.parametrize("learner", ["linear", "trees", "network"])
@pytest.mark.parametrize("folds", [1, 2])
def test_no_pixel_gets_a_class_that_is_not_in_its_image_label(copy, learner, folds):
    stage = stage_of(copy, **SMALL, learner=learner, folds=folds, confidence=0.0)
    windows = stage.windows()
    found = refine_masks(stage, windows)
    assert 1 <= found["rounds"] <= 2
    for split in ("train", "validation"):
        masks, labels = open_masks(stage.folder / "masks", split, windows), windows.image_labels[windows.indexes(split)]
        for mask, label in zip(masks, labels, strict=True):
            assert {*np.unique(mask)} <= {0, 255, *(np.flatnonzero(label) + 1)}


@pytest.mark.parametrize(("learner", "start"), [("trees", "masks"), ("network", "masks"), ("linear", "image_labels")])
def test_the_same_again_and_no_trace_of_the_truth(copy, learner, start):
    """The training truth, the validation truth and the test truth are noise: the masks keep their bits."""
    first = stage_of(copy, **SMALL, learner=learner, start=start, keep_probabilities=True)
    refine_masks(first, first.windows())
    before, shares = published(first), read_probabilities(first.folder / "masks", first.windows())
    for split in ("train", "validation", "test"):
        file = copy / "out/tiny/prepare/windows" / f"masks_{split}.npy"
        truth = np.load(file)
        np.save(file, np.random.default_rng(1).integers(0, 4, truth.shape, dtype=np.uint8))
    refine_masks(first, first.windows())
    assert np.array_equal(published(first), before)
    assert read_probabilities(first.folder / "masks", first.windows())[1] == shares[1]
    assert (before != 255).any()


def test_a_stopped_try_goes_on_after_its_last_round(copy, monkeypatch):
    whole = stage_of(copy)
    refine_masks(whole, whole.windows())
    expected = published(whole)
    made = []

    def stopping(*given, real=one_round):
        if made:
            raise KeyboardInterrupt
        made.append(given[3])
        return real(*given)

    monkeypatch.setattr(stage_module, "one_round", stopping)
    monkeypatch.setattr(stage_module, "stops", lambda course: False)
    with pytest.raises(KeyboardInterrupt):
        refine_masks(whole, whole.windows())
    assert np.array_equal(published(whole), expected)  # what was published stands
    monkeypatch.setattr(stage_module, "one_round", lambda *given: made.append("again") or one_round(*given))
    refine_masks(whole, whole.windows())
    assert made == [0, "again"]
    assert np.array_equal(published(whole), expected)
    assert not whole.state.exists()


@pytest.mark.parametrize("stopped", [(0, 2), (1, 3)])
def test_a_stopped_fit_of_a_network_goes_on_within_its_round(copy, monkeypatch, stopped):
    """SIGTERM comes at a step of a round; the next try makes the steps that are left, and the same bits."""
    stage = stage_of(copy, **SMALL, learner="network", keep_probabilities=True)
    refine_masks(stage, stage.windows())
    expected = [file.read_bytes() for file in sorted((stage.folder / "masks").iterdir())]
    made, kill = [], [stopped]

    def losses(self, forward, batch, step, real=RoundTask.losses):
        made.append((self.params.seed - stage.params.seed, step))
        if made[-1] in kill:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, forward, batch, step)

    monkeypatch.setattr(RoundTask, "losses", losses)
    shutil.rmtree(stage.folder)
    with pytest.raises(Interrupted):
        refine_masks(stage, stage.windows())
    assert made[-1] == stopped
    kill.clear()
    refine_masks(stage, stage.windows())
    assert len(made) == 2 * SMALL["steps"] == len(set(made))  # none was made twice
    assert [file.read_bytes() for file in sorted((stage.folder / "masks").iterdir())] == expected


@pytest.mark.parametrize("folds", [1, 2])
def test_probabilities_are_those_of_the_published_masks(copy, folds, monkeypatch):
    """Those of the round that is published, also where the rounds drift; under the image labels, summing to 1."""
    for drift in (False, True):
        monkeypatch.setattr(stage_module, "best_round", lambda course, drift=drift: len(course) - drift)
        stage = stage_of(copy, learner="linear", keep_probabilities=True, folds=folds)
        windows = stage.windows()
        assert refine_masks(stage, windows)["rounds"] == 2
        shares, masks = read_probabilities(stage.folder / "masks", windows)[0] / 255, published(stage)
        clear = np.abs(shares.max(axis=-1) - 0.4) > 0.01  # refine.confidence
        assert ((masks == 255) == (shares.max(axis=-1) < 0.4))[clear].all()
        named = np.take_along_axis(shares, np.where(masks == 255, 0, masks)[..., None].astype(int), axis=-1)[..., 0]
        assert (named >= shares.max(axis=-1) - 1 / 255)[masks != 255].all()
        assert np.abs(shares.sum(axis=-1) - 1).max() <= 2 / 255
        assert not shares[:, :, :, 1:][
            np.broadcast_to(~windows.image_labels[windows.indexes("train")][:, None, None], shares[..., 1:].shape)
        ].any()
    plain = stage_of(copy, learner="linear", folds=folds)
    monkeypatch.setattr(stage_module, "best_round", lambda course: len(course) - 1)
    refine_masks(plain, windows)
    assert np.array_equal(published(plain), masks)  # keeping them changes no mask
    with pytest.raises(DataError, match=r"no probabilities beside the masks: set refine\.keep_probabilities: true"):
        read_probabilities(plain.folder / "masks", windows)


def test_rounds_of_other_params_are_not_gone_on_with(copy, monkeypatch):
    stage = stage_of(copy, confidence=0.3)
    monkeypatch.setattr(stage_module.shutil, "rmtree", lambda *_, **__: None)  # the state stays, as after a kill
    refine_masks(stage, stage.windows())
    monkeypatch.undo()
    other = stage_of(copy, confidence=0.6)
    refine_masks(other, other.windows())
    resumed = published(other)
    fresh = stage_of(copy, confidence=0.6)
    shutil.rmtree(fresh.state, ignore_errors=True)
    refine_masks(fresh, fresh.windows())
    assert np.array_equal(resumed, published(fresh))


def test_folds_keep_patches_together_and_no_learner_is_asked_of_its_own_windows(copy, monkeypatch):
    stage = stage_of(copy, folds=2)
    windows = stage.windows()
    indexes = windows.indexes("train")
    fold = folds_of(windows, indexes, 2)
    patches = windows.table["patch"].to_numpy()[indexes]
    assert {*fold} == {0, 1}
    assert all(len({*fold[patches == patch]}) == 1 for patch in {*patches})
    fitted, asked = {}, []

    def learner(features, given, *more, real=stage_module._learner):
        made = real(features, given, *more)
        fitted[id(made)] = {*given.tolist()}
        return made

    def ask(learners, windows, given, *more, real=stage_module.asked):
        asked.extend(({*given.tolist()}, fitted[id(one)]) for one in learners if {*given} <= {*indexes})
        return real(learners, windows, given, *more)

    monkeypatch.setattr(stage_module, "_learner", learner)
    monkeypatch.setattr(stage_module, "asked", ask)
    masks = {split: np.asarray(open_masks(stage.folder_of("make_masks") / "masks", split, windows))
             for split in ("train", "validation")}  # fmt: skip
    one_round(SeriesFeatures(windows), masks, stage.params.refine, 0)
    assert len(asked) == 2
    assert all(not (given & known) for given, known in asked)


def test_a_start_without_cams_owes_nothing_to_them(copy):
    stage = stage_of(copy, learner="linear", start="image_labels", starts=2)
    windows = stage.windows()
    found = refine_masks(stage, windows)
    assert found["rounds"] >= 1
    assert len(found["foretold"]) == 2
    before = published(stage)
    masks = stage.folder_of("make_masks") / "masks" / "masks_train.npy"
    np.save(masks, np.zeros_like(np.load(masks)))
    shutil.rmtree(stage.folder)
    refine_masks(stage, windows)
    np.testing.assert_array_equal(published(stage), before)


def about(*changed: float) -> list[dict[str, float]]:
    return [{"agreement": 1.0, "kept": 1.0, "changed": value} for value in changed]


def test_rounds_end_where_they_drift_or_settle():
    assert not stops(about())
    assert not stops(about(0.3))
    assert not stops(about(0.3, 0.1))
    assert stops(about(0.3, 0.1, 0.004))  # settled: this round is published
    assert best_round(about(0.3, 0.1, 0.004)) == 3
    assert drifts(about(0.3, 0.1, 0.2))  # they move away again: the round before it is published
    assert best_round(about(0.3, 0.1, 0.2)) == 2
    assert best_round(about()) == 0


def test_learners_learn_what_series_tell(copy):
    """Pixels of the training windows, taught by their truth, are told apart better than by the commonest class."""
    windows = Windows.open(copy / "out/tiny/prepare/windows")
    indexes = windows.indexes("train")
    truth = np.asarray(windows.masks("train"))
    known = truth != 255
    commonest = np.bincount(truth[known]).max() / known.sum()
    features = SeriesFeatures(windows)
    for learner in (LinearLearner(features), trees(features, 2000, 0, 10, 7)):
        maps = learner.fit(indexes, truth).maps(indexes)
        assert maps.dtype == np.uint8
        assert (maps == truth)[known].mean() > commonest + 0.05
        total = np.concatenate([found for _, found in learner.probabilities(indexes)]).sum(axis=-1)
        np.testing.assert_allclose(total, 1, atol=1e-5)
    for learner in (LinearLearner(features), trees(features, 200, 0, 3, 3)):
        alone = learner.fit(indexes, np.full_like(truth, 2))
        assert (alone.maps(indexes[:2]) == 2).all()  # a single class: all of it
    with pytest.raises(TrainingError, match=r"no pixel of the masks is labelled: lower masks\.threshold"):
        LinearLearner(features).fit(indexes, np.full_like(truth, 255))


def test_masks_of_other_windows_are_refused(copy):
    stage = stage_of(copy)
    card = stage.folder_of("make_masks") / "masks" / "card.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "windows": "1" * 32}))
    with pytest.raises(DataError, match="was made from other windows"):
        refine_masks(stage, stage.windows())


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["weighted", "soft"])
def test_a_segmenter_of_unsure_labels_of_a_network_never_sees_training_masks(copy, labels):
    """The scripts from end to end: the same bits whatever the training masks hold, and not those of hard labels."""
    refine = {**SMALL, "learner": "network", "rounds": 2, "confidence": 0.4, "keep_probabilities": True}
    file = copy / "out/tiny/prepare/windows/masks_train.npy"
    found = []
    for kind, seed in (("hard", 0), (labels, 0), (labels, 1)):
        segmenter = {"kind": "ltae", "steps": 6, "validate_every": 6, "labels": kind}
        tiny.write_params(copy / "params.yaml", {"ltae": LTAE, "refine": refine, "segmenter": segmenter})
        np.save(file, np.random.default_rng(seed).integers(0, 4, np.load(file).shape, dtype=np.uint8))
        for stage in ("refine_masks", "train_segmenter"):
            shutil.rmtree(copy / "out/tiny" / stage, ignore_errors=True)
            tiny.run(stage, copy)
        weights = load((copy / "out/tiny/train_segmenter/model/segmenter.safetensors").read_bytes())
        found.append(torch.cat([weights[name].flatten() for name in sorted(weights)]))
    assert torch.equal(found[1], found[2])
    assert not torch.equal(found[0], found[1])


@pytest.mark.slow
def test_segmenter_and_refined_masks_do_not_depend_on_training_masks(pipeline, tmp_path):
    shutil.copytree(pipeline / "out", tmp_path / "out")
    shutil.copy(pipeline / "params.yaml", tmp_path)
    file = tmp_path / "out/tiny/prepare/windows/masks_train.npy"
    truth = np.load(file)
    np.save(file, np.random.default_rng(0).integers(0, 4, truth.shape, dtype=np.uint8))
    kept = ("refine_masks/masks/masks_train.npy", "train_segmenter/model/segmenter.safetensors")
    for stage in ("make_masks", "refine_masks", "train_segmenter"):
        shutil.rmtree(tmp_path / "out/tiny" / stage)
        tiny.run(stage, tmp_path)
    for name in kept:
        assert (tmp_path / "out/tiny" / name).read_bytes() == (pipeline / "out/tiny" / name).read_bytes(), name
    scores = [json.loads((root / "out/tiny/refine_masks/metrics.json").read_text())["train"]["miou"]
              for root in (pipeline, tmp_path)]  # fmt: skip
    assert scores[0] != scores[1]  # the report does read the (corrupted) truth


def test_where_there_is_no_background_the_rest_is_a_class_between_rounds_and_255_outside():
    masks = np.array([[[1, 255, 3]]], np.uint8)
    assert with_rest(masks).tolist() == [[[1, 0, 3]]]
    assert without_rest(with_rest(masks)).tolist() == masks.tolist()


def test_what_is_unknown_is_possible(copy):
    """A round may give a window's pixels a class of which its label does not say whether it is there, and no other."""
    stage = stage_of(copy, learner="linear", confidence=0.0)
    windows = stage.windows()
    train, first = windows.indexes("train"), np.asarray(read_masks(stage.folder_of("make_masks") / "masks", windows)[0])
    held = windows.image_labels.copy()
    held[train[::2]] &= np.arange(held.shape[1]) != 0  # class 1 is no longer named
    silent, source = replace(windows, image_labels=held), stage.folder_of("make_masks") / "masks"
    masks = {"train": first, "validation": np.asarray(open_masks(source, "validation", windows))}
    known = np.ones_like(held)
    known[train[::2], 0] = False
    partial = replace(windows, image_labels=held, known=known)
    found = {name: one_round(SeriesFeatures(one), masks, stage.params.refine, 0)["train"][::2]
             for name, one in (("silent", silent), ("partial", partial))}  # fmt: skip
    assert not (found["silent"] == 1).any()
    assert (found["partial"] == 1).any()
    for mask, classes in zip(found["partial"], held[train[::2]], strict=True):
        assert set(np.unique(mask)) <= {0, 1, 255, *(np.flatnonzero(classes) + 1)}


def test_background_is_left_open_where_a_label_is_incomplete(copy):
    windows = stage_of(copy).windows()
    train = windows.indexes("train")
    known = np.ones_like(windows.image_labels)
    known[train[1], 0] = False
    masks = np.zeros((len(train), 4, 4), np.uint8)
    masks[:, 0] = 2
    assert (undecided(masks, windows, "train") == masks).all()
    found = undecided(masks, replace(windows, known=known), "train")
    assert (found[1, 1:] == 255).all()
    assert (found[1, 0] == 2).all()
    assert (np.delete(found, 1, axis=0) == np.delete(masks, 1, axis=0)).all()
