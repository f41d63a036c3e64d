"""Splits of fields: laws for all kinds of land, and what is refused."""

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cluemap.data.splits.field_split import LEFT_OUT, field_size, propose_split, split_fields, with_gap
from cluemap.errors import DataError


def land(rows, columns, side, seed, classes):
    """Fields in rows, of unequal size, some turned; 6 m between them."""
    generator = np.random.default_rng(seed)
    y, x = np.divmod(np.arange(rows * columns), columns)
    kept = generator.random(rows * columns) < 0.9
    width, height = generator.uniform(0.4, 0.95, (2, rows * columns)) * side
    fields = shapely.box(x * side, y * side, x * side + width, y * side + height)[kept]
    return np.array(fields), generator.choice(classes, kept.sum(), p=weights(classes))


def weights(classes):
    share = 0.6 ** np.arange(classes)
    return share / share.sum()


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(4, 16), columns=st.integers(4, 16), side=st.sampled_from([60.0, 150.0]),
    seed=st.integers(0, 999), fields_a_gap=st.floats(1.0, 2.0), fields_a_block=st.floats(2.5, 5.0),
    folds=st.sampled_from([2, 3, 5]),
)  # fmt: skip
def test_nothing_near_a_tested_field_is_learned_from(rows, columns, side, seed, fields_a_gap, fields_a_block, folds):
    fields, classes = land(rows, columns, side, seed, 5)
    gap = fields_a_gap * field_size(fields)
    try:
        found = split_fields(fields, classes, fields_a_block * side, gap, folds, seed)
        kept = {test: with_gap(fields, found.folds, test, gap) for test in range(1, folds + 1)}
    except DataError:
        assume(False)
    assert found.folds.shape == classes.shape  # one fold each
    assert set(found.folds.tolist()) == set(range(1, folds + 1))
    for block in np.unique(found.blocks):
        assert len(set(found.folds[found.blocks == block].tolist())) == 1
    for test, left in kept.items():
        tested, others = found.folds == test, found.folds != test
        assert (left[tested] == test).all()  # every field is tested in its turn
        away = shapely.distance(fields[others][:, None], fields[tested][None]).min(axis=1)
        np.testing.assert_array_equal(left[others], np.where(away < gap, LEFT_OUT, found.folds[others]))
    again = split_fields(fields, classes, fields_a_block * side, gap, folds, seed)
    np.testing.assert_array_equal(found.folds, again.folds)


def test_classes_are_spread_over_the_folds():
    """Crops that grow in regions of their own: blocks dealt without a look at the classes would be uneven."""
    fields, _ = land(40, 40, 100.0, 1, 4)
    classes = (shapely.get_x(shapely.centroid(fields)) // 800).astype(int) % 3
    found = split_fields(fields, classes, 400, 100)
    table = found.table(classes)
    dealt = np.random.default_rng(0).permutation(found.blocks.max() + 1) % 5
    assert spread(table.to_numpy()) < 0.5 * spread(np.stack([
        np.bincount(classes[dealt[found.blocks] == fold], minlength=3) for fold in range(5)
    ]))  # fmt: skip
    assert table.sum(axis=1).max() / table.sum(axis=1).min() < 1.4


def spread(counts):
    """fold class -> how much a class's share differs between folds, at most."""
    shares = counts / counts.sum(axis=1, keepdims=True)
    return float(np.ptp(shares, axis=0).max())


def test_rare_classes_are_no_obstacle():
    fields, classes = land(12, 12, 100.0, 0, 3)
    classes[:2], classes[2] = 7, 8
    assert set(split_fields(fields, classes, 300, 100).folds.tolist()) >= {1, 2, 3, 4, 5}


def test_a_gap_that_leaves_nothing_to_learn_from_is_refused():
    fields = np.array([shapely.box(120 * i, 0, 120 * i + 100, 100) for i in range(2)])
    with pytest.raises(DataError, match="gap of 119 m round the fields of fold 2 leaves no field to train on"):
        with_gap(fields, np.array([1, 2]), 2, 119)


def test_another_seed_gives_another_split():
    fields, classes = land(30, 30, 100.0, 1, 4)
    one, other = (split_fields(fields, classes, 500, 100, seed=seed).folds for seed in (0, 1))
    assert (one != other).any()


@pytest.mark.parametrize(
    ("block", "gap", "text"),
    [
        (500, 20, r"split\.gap 20 m is less than a field \(\d+ m a side.*set split\.gap to \d+ or more"),
        (100, 100, r"split\.block 100 m is no more than split\.gap"),
        (5000, 100, r"lie in 1 blocks of 5000 m, too few for 5 folds"),
    ],
)
def test_impossible_splits_are_refused(block, gap, text):
    fields, classes = land(12, 12, 100.0, 0, 3)
    with pytest.raises(DataError, match=text):
        split_fields(fields, classes, block, gap)


def test_no_fields():
    with pytest.raises(DataError, match="0 fields with 0 classes"):
        split_fields(np.array([], object), np.array([]), 500, 100)


@pytest.mark.parametrize(("rows", "side"), [(11, 200.0), (55, 150.0), (30, 60.0)])
def test_a_proposal_can_be_split_and_holds_windows(rows, side):
    """120 fields of a small region, 3,000 of a large one, small fields."""
    fields, classes = land(rows, rows, side, 5, 8)
    proposal = propose_split(fields, 10.0)
    assert proposal.gap >= field_size(fields)
    assert proposal.block - proposal.gap >= proposal.window * 10
    assert 8 <= proposal.window <= 24
    found = split_fields(fields, classes, proposal.block, proposal.gap)
    assert (found.table(classes).sum(axis=1) > 0).all()
