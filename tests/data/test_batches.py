"""Batches against a plain loop; the order of training against its definition; the thread against faults."""

import itertools
import threading
import time

import numpy as np
import pytest
import torch
from builders import write_prepared

from cluemap.data.batches import (
    RawBatch,
    batch_indexes,
    bucketed,
    covariance,
    load,
    load_raw,
    normalise,
    statistics,
    stream,
)
from cluemap.data.prefetch import ahead
from cluemap.data.windows import Windows
from cluemap.errors import DataError

COUNTS = {"train": 11, "validation": 5, "test": 3}


@pytest.fixture(scope="module")
def windows(tmp_path_factory) -> Windows:
    return Windows.open(write_prepared(tmp_path_factory.mktemp("data") / "prepare", COUNTS, size=12))


def slow_batch(windows: Windows, indexes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """images b t c h w, day b t, valid b t, one number at a time."""
    longest = max(windows.dates[i] for i in indexes)
    images = np.zeros((len(indexes), longest, 10, 12, 12), np.float32)
    day, valid = np.zeros((len(indexes), longest), int), np.zeros((len(indexes), longest), bool)
    for b, index in enumerate(indexes):
        series, days, seen = windows.series(index)
        for t in range(len(days)):
            day[b, t], valid[b, t] = days[t], seen[t]
            for c in range(10):
                value = (series[t, c].astype(np.float32) - windows.card.mean[c]) / windows.card.std[c]
                images[b, t, c] = np.where(series[t, c] == -10000, 0, value)
    return images, day, valid


def test_a_batch_is_what_a_plain_loop_makes(windows):
    indexes = windows.indexes("train")[[7, 2, 3]]
    batch = load(windows, indexes, windows.masks("train"))
    images, day, valid = slow_batch(windows, indexes)
    np.testing.assert_allclose(batch.images, images, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(batch.day, day)
    np.testing.assert_array_equal(batch.valid, valid)
    np.testing.assert_array_equal(batch.image_labels, windows.image_labels[indexes])
    np.testing.assert_array_equal(batch.index, indexes)
    np.testing.assert_array_equal(batch.mask, windows.masks("train")[[7, 2, 3]])
    kinds = [getattr(batch, name).dtype for name in ("images", "day", "valid", "image_labels", "index", "mask")]
    assert kinds == [torch.float32, torch.int64, torch.bool, torch.bool, torch.int64, torch.int64]
    assert len(batch) == 3
    assert (valid.sum(1) < longest_of(batch)).any(), "the sample should hold padding or a date without data"


def test_probabilities_go_with_their_window_and_are_nothing_where_labels_are_hidden(windows):
    train = windows.indexes("train")
    shares = np.random.default_rng(5).integers(0, 256, (len(train), 12, 12, 4), dtype=np.uint8)
    batch = load_raw(windows, train[[7, 2]], windows.masks("train"), probabilities=shares)
    found = normalise(batch, *statistics(windows)).probabilities
    np.testing.assert_allclose(found, np.moveaxis(shares[[7, 2]], -1, 1) / 255, rtol=1e-6)
    hiding = windows.hiding(train[[2]], image_labels=False)
    found = next(stream(hiding, [train[[2, 7]]], probabilities=np.delete(shares, 2, axis=0))).probabilities
    assert (found[0] == 0).all()
    np.testing.assert_allclose(found[1], np.moveaxis(shares[7], -1, 0) / 255, rtol=1e-6)
    with pytest.raises(DataError, match="masks for 3 windows, not for the 11 train windows"):
        load_raw(windows, train[:1], probabilities=shares[:3])


def longest_of(batch) -> int:
    return batch.day.shape[1]


def test_masks_follow_the_split_they_belong_to(windows):
    indexes = windows.indexes("validation")[[4, 0]]
    masks = windows.masks("validation")
    np.testing.assert_array_equal(load(windows, indexes, masks).mask, masks[[4, 0]])
    with pytest.raises(DataError, match="masks for 11 windows, not for the 5 validation windows"):
        load(windows, indexes, windows.masks("train"))


def test_normalise_hides_no_data_and_keeps_the_raw_batch():
    images = torch.tensor([[[[[7, -10000]], [[30, 10]]]]], dtype=torch.int16)  # b t c h w = 1 1 2 1 2
    raw = RawBatch(images, torch.ones(1, 1), torch.ones(1, 1) > 0, torch.ones(1, 3) > 0, torch.zeros(1))
    batch = normalise(raw, torch.tensor([5.0, 10.0]), torch.tensor([2.0, 5.0]))
    assert batch.images.flatten().tolist() == [1.0, 0.0, 4.0, 0.0]
    assert images.flatten().tolist() == [7, -10000, 30, 10]


def test_padding_changes_nothing(windows):
    """A window alone and the same window beside a longer one: the same numbers, then zeros without a date."""
    short, long = np.argsort(windows.dates)[[0, -1]]
    alone, beside = load(windows, np.array([short])), load(windows, np.array([short, long]))
    length = windows.dates[short]
    assert windows.dates[long] > length
    torch.testing.assert_close(beside.images[0, :length], alone.images[0], rtol=0, atol=0)
    assert not beside.images[0, length:].any()
    assert not beside.day[0, length:].any()
    assert not beside.valid[0, length:].any()


def test_an_empty_share_is_an_empty_batch(windows):
    batch = load(windows, np.array([], np.int64), windows.masks("train"))
    assert batch.images.shape == (0, 1, 10, 12, 12)
    assert batch.mask.shape == (0, 12, 12)


def test_moving_keeps_every_field(windows):
    raw = load_raw(windows, np.array([1, 4]))
    moved = raw.to("meta")
    assert moved.images.device.type == moved.valid.device.type == "meta"
    assert moved.mask is None
    assert raw.images.device.type == "cpu"


def test_stream_gives_the_same_batches_in_order(windows):
    order = [np.array([1, 2]), np.array([5]), np.array([0, 9, 3])]
    for indexes, batch in zip(order, stream(windows, order), strict=True):
        torch.testing.assert_close(batch.images, load(windows, indexes).images, rtol=0, atol=0)
        np.testing.assert_array_equal(batch.index, indexes)


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "cluemap-ahead"]


def test_stream_raises_what_its_thread_met(windows):
    order = [np.array([1]), np.array([len(windows)])]
    batches = stream(windows, order)
    next(batches)
    with pytest.raises(IndexError):
        next(batches)
    assert not workers()


def test_stream_ends_its_thread_when_the_caller_stops(windows):
    endless = (np.array([step % 19]) for step in itertools.count())
    for batch in stream(windows, endless):
        assert batch.index.tolist() == [0]
        break
    del batch
    deadline = time.monotonic() + 5
    while workers() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not workers()


def test_ahead_never_runs_further_than_asked():
    made = []
    items = ahead((made.append(i) or i for i in itertools.count()), prefetch=2)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    time.sleep(0.2)
    assert len(made) == 3 + 2  # taken, ahead
    items.close()


def slow_order(count: int, places: int, seed: int) -> list[int]:
    row: list[int] = []
    for epoch in itertools.count():
        if len(row) >= places:
            return row[:places]
        row += np.random.default_rng([seed, epoch]).permutation(count).tolist()
    return row


@pytest.mark.parametrize(("count", "batch"), [(11, 3), (11, 11), (5, 13), (1, 2), (7, 1)])
def test_training_order_is_shuffled_epochs_end_to_end(count, batch):
    row = slow_order(count, 20 * batch, seed=7)
    steps = [batch_indexes(count, batch, step, seed=7).tolist() for step in range(20)]
    assert list(itertools.chain(*steps)) == row
    assert sorted(row[:count]) == list(range(count))
    assert [batch_indexes(count, batch, step, seed=7).tolist() for step in reversed(range(20))] == steps[::-1]


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_ranks_share_the_batch_of_one_process(world):
    whole = batch_indexes(11, 5, 6, seed=3)
    shares = [batch_indexes(11, 5, 6, 3, rank, world) for rank in range(world)]
    assert sorted(itertools.chain(*shares)) == sorted(whole)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for rank, share in enumerate(shares):
        np.testing.assert_array_equal(share, whole[rank::world])


def test_seed_and_epoch_change_the_order():
    first = batch_indexes(97, 97, 0, seed=1).tolist()
    assert first != batch_indexes(97, 97, 0, seed=2).tolist()
    assert first != batch_indexes(97, 97, 1, seed=1).tolist()


def test_buckets_hold_each_window_once_and_similar_lengths():
    dates = np.array([5, 61, 33, 5, 40, 61, 7, 33, 33, 12, 50])
    indexes = np.array([10, 1, 2, 4, 5, 6, 7, 8, 9, 0])
    batches = bucketed(dates, indexes, 4)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(itertools.chain(*batches)) == sorted(indexes)
    lengths = [dates[batch].tolist() for batch in batches]
    assert list(itertools.chain(*lengths)) == sorted(dates[indexes], reverse=True)
    assert all((a == b).all() for a, b in zip(batches, bucketed(dates, indexes, 4), strict=True))
    assert bucketed(dates, np.array([], int), 4) == []


def test_covariance_of_the_bands_counts_every_pixel_with_data_once(windows, monkeypatch):
    pixels = []
    for index in windows.indexes("train"):
        images, _, _ = slow_batch(windows, [index])
        seen = (windows.series(index)[0] != -10000).all(axis=1)  # t h w
        pixels.append(images[0].transpose(0, 2, 3, 1)[seen])
    expected = np.cov(np.concatenate(pixels).astype(np.float64).T, bias=True)
    np.testing.assert_allclose(covariance(windows).numpy(), expected, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr("cluemap.data.batches.SAMPLED", 4)
    assert not np.allclose(covariance(windows).numpy(), expected, rtol=1e-5)
