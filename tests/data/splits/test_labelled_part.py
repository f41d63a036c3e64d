"""Few labels: which windows keep them, that the hidden ones are hidden, and that nothing else moves."""

import numpy as np
import pytest
from builders import write_prepared

from cluemap.data.batches import load
from cluemap.data.splits.labelled_part import even_order, with_known_labels
from cluemap.data.windows import UNLABELLED, Windows
from cluemap.errors import DataError
from cluemap.params import LabelledParams

ALL = {"kind": "image_labels", "share": 1.0, "count": 0, "file": "", "seed": 0}
COUNTS = {"train": 23, "validation": 5, "test": 3}


def asked(**changes) -> LabelledParams:
    return LabelledParams.model_validate({**ALL, **changes})


@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    return Windows.open(write_prepared(tmp_path_factory.mktemp("prepared"), COUNTS, size=7, bands=2))


def random_labels(seed: int, n: int = 61, k: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).random((n, k)) < np.array([0.6, 0.3, 0.1, 0.05, 0.0])


@pytest.mark.parametrize("seed", range(5))
def test_every_beginning_holds_even_shares_of_the_classes(seed):
    labels = random_labels(seed)
    order = even_order(labels, seed)
    assert sorted(order.tolist()) == list(range(61))
    held = labels.sum(axis=0)
    there = held > 0
    assert labels[order[: there.sum() + 1]].any(axis=0)[there].all()  # a few windows hold every class
    for count in (13, 29, 47):
        taken = labels[order[:count]].sum(axis=0)
        others = [labels[np.random.default_rng([seed, i]).permutation(61)[:count]].sum(axis=0) for i in range(99)]
        wanted = held * count / 61
        away = lambda found, wanted=wanted: np.abs(found - wanted)[there].max() / held[there].min()
        assert away(taken) < np.mean([away(other) for other in others])
    assert not np.array_equal(order, even_order(labels, seed + 1))
    assert np.array_equal(order, even_order(labels, seed))


def test_nothing_is_hidden_by_default(windows, tmp_path):
    assert with_known_labels(windows, asked(), tmp_path) is windows
    assert with_known_labels(windows, asked(kind="masks", count=3), tmp_path, masks=False) is windows


@pytest.mark.parametrize("kind", ["image_labels", "masks"])
def test_hidden_windows_are_in_a_split_of_their_own(windows, tmp_path, kind):
    found = with_known_labels(windows, asked(kind=kind, share=0.35), tmp_path)
    train, hidden = found.indexes("train"), found.indexes(UNLABELLED)
    assert (len(train), len(hidden)) == (8, 15)
    assert sorted([*train, *hidden]) == windows.indexes("train").tolist()
    assert found.card.counts == {**COUNTS, "train": 8}
    truth, whole = found.masks("train"), windows.masks("train")
    assert truth.shape == (8, 7, 7)
    batch = load(found, train[[2, 5]], truth)
    expected = load(windows, train[[2, 5]], whole)
    for name in ("images", "day", "valid", "mask", "image_labels", "index"):
        assert (getattr(batch, name) == getattr(expected, name)).all(), name
    mixed = load(found, np.array([hidden[3], train[1]]), truth)
    assert (mixed.mask[0] == 255).all()
    assert (mixed.mask[1] == load(windows, train[[1]], whole).mask[0]).all()
    known = kind == "masks"
    assert found.image_labels[hidden].any() == known
    assert found.image_labels[train].any()
    assert (found.known is None) == known
    assert known or (found.possible[hidden].all() and found.known[train].all() and not found.known[hidden].any())
    assert (found.card.digest == windows.card.digest) == known
    for split in ("validation", "test"):
        assert (found.indexes(split) == windows.indexes(split)).all()
        assert (found.masks(split) == windows.masks(split)).all()
    assert (windows.image_labels.sum(), windows.part) == (windows.table["labels"].map(sum).sum(), "")


def test_more_labels_keep_those_of_fewer_and_a_count_counts(windows, tmp_path):
    few, more = (with_known_labels(windows, asked(count=count), tmp_path) for count in (3, 9))
    assert len(few.indexes("train")) == 3
    assert set(few.indexes("train")) < set(more.indexes("train"))
    assert len({few.part, more.part, with_known_labels(windows, asked(count=3, seed=2), tmp_path).part}) == 3
    with pytest.raises(DataError, match=r"labelled.count is 24, the training split holds 23 windows"):
        with_known_labels(windows, asked(count=24), tmp_path)
    least = with_known_labels(windows, asked(share=0.001), tmp_path)
    assert len(least.indexes("train")) == 1


def test_a_file_names_windows_or_patches(windows, tmp_path):
    (tmp_path / "names.txt").write_text("10004_0\n\n10011\n")
    found = with_known_labels(windows, asked(file="names.txt", share=0.5), tmp_path)
    assert found.table["name"].iloc[found.indexes("train")].tolist() == ["10004_0", "10011_0"]
    (tmp_path / "names.txt").write_text("10004_0\n10025_0\n")
    with pytest.raises(DataError, match="names '10025_0', no window or patch of the training split"):
        with_known_labels(windows, asked(file="names.txt"), tmp_path)
    (tmp_path / "names.txt").write_text("\n")
    with pytest.raises(DataError, match="names no window"):
        with_known_labels(windows, asked(file="names.txt"), tmp_path)
    with pytest.raises(DataError, match=r"absent.txt cannot be read.*give a text file"):
        with_known_labels(windows, asked(file="absent.txt"), tmp_path)
