"""Windows on the device as a whole against windows read from the files: the same batches, to the bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import write_prepared

from cluemap.data.batches import stream
from cluemap.data.windows import Windows
from cluemap.errors import DataError
from cluemap.training import device_windows as module
from cluemap.training.device_windows import DeviceWindows, size_in_bytes, windows_on_device

FIELDS = ("images", "day", "valid", "image_labels", "index", "mask", "known", "probabilities")


@pytest.fixture(scope="module")
def windows(tmp_path_factory) -> Windows:
    counts = {"train": 13, "validation": 5, "test": 3}
    return Windows.open(write_prepared(tmp_path_factory.mktemp("data") / "prepare", counts, size=12))


def test_what_is_not_known_goes_with_the_windows(windows, tmp_path):
    partial = replace(windows, known=windows.image_labels | (windows.dates % 2 == 0)[:, None])
    train = partial.indexes("train")
    (found,), (wanted,) = (list(way([train[[4, 2]]])) for way in (DeviceWindows(partial, train, "cpu").stream,
                                                                  lambda order: stream(partial, order)))  # fmt: skip
    assert torch.equal(found.known, wanted.known)
    np.testing.assert_array_equal(found.known.numpy(), partial.known[train[[4, 2]]])


@pytest.mark.parametrize("with_masks", [False, True])
@pytest.mark.parametrize("together", [1, 4, 256])
def test_the_same_batches_as_from_the_files(windows, monkeypatch, with_masks, together):
    monkeypatch.setattr(module, "TOGETHER", together)
    train = windows.indexes("train")[::-1][:11]  # any order, not all
    masks = windows.masks("train") if with_masks else None
    shares = np.random.default_rng(3).integers(0, 256, (13, 12, 12, 4), dtype=np.uint8) if with_masks else None
    order = [train[[7, 2, 3]], train[[0]], train[[10, 10, 1]], train[[]]]
    held = DeviceWindows(windows, train, "cpu")
    files = stream(windows, order, masks=masks, probabilities=shares)
    for found, wanted in zip(held.stream(order, masks, shares), files, strict=True):
        for name in FIELDS:
            one, other = getattr(found, name), getattr(wanted, name)
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert wanted.images.shape[0] == 0, "the last batch was meant to be empty"


def test_a_window_that_is_not_there_is_refused(windows):
    train = windows.indexes("train")
    held = DeviceWindows(windows, train[:4], "cpu")
    with pytest.raises(ValueError, match=f"window {train[5]} does not lie on cpu"):
        next(held.stream([train[[1, 5]]]))


def test_masks_of_another_split_are_refused(windows):
    train = windows.indexes("train")
    with pytest.raises(DataError, match="masks for 5 windows, not for the 13 train windows"):
        next(DeviceWindows(windows, train, "cpu").stream([train[:2]], windows.masks("validation")))


def test_only_a_gpu_with_room_holds_the_windows(windows, monkeypatch):
    train = windows.indexes("train")
    wanted = size_in_bytes(windows, train)
    assert wanted == sum(windows.series(int(index))[0].nbytes for index in train)
    assert windows_on_device(windows, train, torch.device("cpu")) is None
    free = {"bytes": 2 * wanted - 1}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (free["bytes"], 10 * wanted))
    monkeypatch.setattr(module, "DeviceWindows", lambda *given: given)
    assert windows_on_device(windows, train, torch.device("cuda")) is None
    free["bytes"] = 2 * wanted
    more = np.concatenate([train, train[:3]])  # some are drawn more often than others, and lie there once
    held, indexes, device = windows_on_device(windows, more, torch.device("cuda"))
    assert (held, device) == (windows, torch.device("cuda"))
    assert indexes.tolist() == train.tolist()
