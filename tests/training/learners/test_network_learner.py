"""The network as learner of the rounds: what it is taught, what it answers, how it is held back."""

from dataclasses import replace

import numpy as np
import pytest
import tiny

from cluemap.data.windows import Windows
from cluemap.errors import TrainingError
from cluemap.params import load_params
from cluemap.runtime.distributed import ALONE
from cluemap.tracking import NoRun
from cluemap.training.learners.network_learner import NetworkFit, NetworkLearner, params_of_round

REFINE = {
    "learner": "network",
    "steps": 50,
    "batch": 4,
    "dropout": 0.1,
    "learning_rate": 2e-2,
    "flips": False,
    "weight_averaging": 0.8,
}
LTAE = {"width": 34, "heads": 4, "key_width": 5, "value_width": 7, "convolutions": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny.make_project(tmp_path_factory.mktemp("network"), {"refine": REFINE, "ltae": LTAE})


@pytest.fixture(scope="module")
def windows(root) -> Windows:
    return Windows.open(root / "out/tiny/prepare/windows")


def learner(root, windows, folder, seed=3, identity=None, steps=50, **more) -> NetworkLearner:
    params = load_params("tiny", root / "params.yaml")
    params = params.model_copy(update={"refine": params.refine.model_copy(update={"steps": steps})})
    told = NetworkFit(params, folder, identity or {"round": 0}, NoRun(), **more)
    return NetworkLearner(windows, told, seed, ALONE)


def test_it_learns_a_part_of_the_windows_and_answers_for_every_pixel(root, windows, tmp_path):
    indexes, truth = windows.indexes("train"), np.asarray(windows.masks("train"))
    known = truth != 255
    commonest = np.bincount(truth[known]).max() / known.sum()
    chosen = np.array([16, 2, 3, 5, 7, 11, 13, 0, 8, 9])
    found = learner(root, windows, tmp_path).fit(indexes[chosen], truth[chosen]).of(indexes)
    assert found.shape == (*truth.shape, 4)
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-5)
    right = (found.argmax(axis=-1) == truth)[chosen][known[chosen]].mean()
    assert right > commonest + 0.05


def test_the_same_again_and_nothing_of_windows_that_were_not_chosen(root, windows, tmp_path):
    indexes, truth = windows.indexes("train"), np.asarray(windows.masks("train"))
    chosen = np.array([16, 2, 3, 5, 7])
    others = truth.copy()
    others[np.setdiff1d(np.arange(17), chosen)] = 1
    found = [
        learner(root, windows, tmp_path / name, steps=7).fit(indexes[chosen], masks[chosen]).of(indexes)
        for name, masks in (("once", truth), ("again", truth), ("others", others))
    ]
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_probabilities_are_learned_in_place_of_masks(root, windows, tmp_path):
    """Masks that say 1 everywhere, probabilities that say the truth: the truth is what is answered."""
    indexes, truth = windows.indexes("train"), np.asarray(windows.masks("train"))
    shares = (255 * (truth[..., None] == np.arange(4))).astype(np.uint8)
    found = learner(root, windows, tmp_path, probabilities=shares).fit(indexes, np.ones_like(truth)).of(indexes)
    assert len(np.unique(found.argmax(axis=-1))) > 2


def test_zero_is_a_class_where_there_is_no_background(root, windows, tmp_path):
    legend = replace(windows.card.legend, background=False)
    bare = replace(windows, card=replace(windows.card, legend=legend))
    masks = np.zeros((17, 14, 14), np.uint8)
    found = learner(root, bare, tmp_path, steps=23).fit(bare.indexes("train"), masks).of(bare.indexes("train")[:2])
    assert (found.argmax(axis=-1) == 0).all()
    assert found.shape[-1] == 4


def test_a_state_of_another_fit_is_not_gone_on_with(root, windows, tmp_path):
    indexes, truth = windows.indexes("train"), np.asarray(windows.masks("train"))
    learner(root, windows, tmp_path, steps=7).fit(indexes, truth)
    found = [learner(root, windows, folder, seed=4, identity={"round": 1}, steps=7).fit(indexes, truth).of(indexes)
             for folder in (tmp_path, tmp_path / "fresh")]  # fmt: skip
    assert np.array_equal(*found)


def test_no_label_at_all_is_said(root, windows, tmp_path):
    with pytest.raises(TrainingError, match="no pixel of the masks is labelled"):
        learner(root, windows, tmp_path).fit(windows.indexes("train"), np.full((17, 14, 14), 255, np.uint8))


def test_the_block_refine_decides_and_not_the_segmenters(root):
    """Whatever train_segmenter is told, the rounds' network stays the same: DVC does not look there either."""
    params = load_params("tiny", root / "params.yaml")
    told = {"steps": 7, "learning_rate": 0.5, "weight_averaging": 0.7, "whitening": 0.3, "class_weights": 0.5,
            "kind": "tsvit", "labels": "soft", "init": "somewhere", "select": "miou", "warmup": 0.4, "batch": 11,
            "final_learning_rate": 0.1, "weight_decay": 0.2}  # fmt: skip
    jitter = params.augmentation.model_copy(update={"light": 0.4, "shifted_days": 9, "flips": True})
    other = params.model_copy(update={"segmenter": params.segmenter.model_copy(update=told), "augmentation": jitter})
    one, same = (params_of_round(given, 5, soft=False) for given in (params, other))
    assert one == same
    assert one.segmenter.steps == one.segmenter.validate_every == 50
    assert (one.seed, one.segmenter.kind, one.ltae.dropout) == (5, "ltae", 0.1)
    assert params_of_round(params, 5, soft=True).segmenter.labels == "soft"
