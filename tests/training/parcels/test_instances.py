"""Multiple-instance learning of parcels: its losses against a slow oracle, and which parcels make a window."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from cluemap.data.parcels.parcels import Parcels
from cluemap.training.parcels.instances import WindowBatch, WindowData, WindowTask, parcels_of_windows

CLASSES, WINDOWS = 5, 3
WINDOW = torch.tensor([0, 0, 0, 1, 1, 2, 2])  # of each row; row 3 is the parcel of row 2 again
LEFT = ([0, 1, 4], [0], [1, 2], [1, 2], [0, 1, 2, 3, 4], [], [3])  # classes of each row
MAY = torch.tensor([[crop in left for crop in range(CLASSES)] for left in LEFT])
WHOLE = torch.tensor([1, 1, 1, 1, 0, 1, 1]).bool()
PRESENT = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 0, 0], [1, 0, 0, 1, 0]]).bool()  # class 0 of the last: of no parcel


def batch_of(rows=slice(None), windows=slice(None)) -> WindowBatch:
    nothing = torch.zeros(0)
    first = windows.start or 0
    return WindowBatch(
        nothing, nothing, nothing, nothing, nothing, nothing, torch.arange(WINDOWS)[windows],
        window=WINDOW[rows] - first, may=MAY[rows], whole=WHOLE[rows], present=PRESENT[windows],
    )  # fmt: skip


def losses(logits, batch, total=lambda x: x):
    task = WindowTask.__new__(WindowTask)
    task.ranks = SimpleNamespace(total=total)
    return task.losses(lambda given: logits, batch, 0)


def oracle(logits):
    """Window after window, class after class, parcel after parcel."""
    present, excluded = [], []
    for window in range(WINDOWS):
        for crop in range(CLASSES):
            rows = [row for row in range(len(WINDOW)) if WINDOW[row] == window and MAY[row, crop]]
            if not PRESENT[window, crop] or not rows:
                continue
            none = 1.0
            for row in rows:
                left = sum(math.exp(logits[row, other]) for other in range(CLASSES) if MAY[row, other])
                none *= 1 - math.exp(logits[row, crop]) / left
            present.append(-math.log(1 - none))
    for row in range(len(WINDOW)):
        if WHOLE[row] and MAY[row].any():
            exponents = [math.exp(logits[row, crop]) for crop in range(CLASSES)]
            left = sum(value for value, may in zip(exponents, MAY[row], strict=True) if may)
            excluded.append(-math.log(left / sum(exponents)))
    return sum(present) / len(present), sum(excluded) / len(excluded)


@pytest.fixture
def logits():
    return torch.randn(len(WINDOW), CLASSES, generator=torch.Generator().manual_seed(1), dtype=torch.float64).mul(2)


def test_losses_are_the_oracles(logits):
    found, (present, excluded) = losses(logits, batch_of()), oracle(logits)
    assert found["present"].item() == pytest.approx(present, rel=1e-4)
    assert found["excluded"].item() == pytest.approx(excluded, rel=1e-4)
    assert found["total"].item() == pytest.approx(present + excluded, rel=1e-4)


def test_shares_of_two_processes_sum_to_the_whole(logits):
    whole = losses(logits, batch_of())
    counts = iter(
        [(PRESENT.sum() - 1).float(), torch.tensor(5.0)] * 2
    )  # of all: class 0 of the last window is left out
    parts = [
        losses(logits[rows], batch_of(rows, windows), lambda mine: next(counts))["total"]
        for rows, windows in ((slice(0, 3), slice(0, 1)), (slice(3, None), slice(1, None)))
    ]
    assert sum(parts).item() == pytest.approx(whole["total"].item(), rel=1e-5)


def test_gradients_are_finite_where_the_network_is_sure(logits):
    sure = (100 * logits).float().requires_grad_()
    losses(sure, batch_of())["total"].backward()
    assert torch.isfinite(sure.grad).all()


def test_labels_alone_tell_parcels_apart():
    """Three kinds of parcels; no window has one class, and one logit per kind and class is learned from them."""
    kinds, present = torch.tensor([0, 1, 1, 2, 0, 2]), torch.tensor([[1, 1, 0], [0, 1, 1], [1, 0, 1]]).bool()
    window = torch.tensor([0, 0, 1, 1, 2, 2])
    nothing, table = torch.zeros(0), torch.zeros(3, 3, requires_grad=True)
    batch = WindowBatch(nothing, nothing, nothing, nothing, nothing, nothing, torch.arange(3), window=window,
                        may=present[window], whole=torch.ones(6).bool(), present=present)  # fmt: skip
    optimiser = torch.optim.Adam([table], lr=0.1)
    for _ in range(100):
        optimiser.zero_grad()
        losses(table[kinds], batch)["total"].backward()
        optimiser.step()
    assert table.argmax(dim=1).tolist() == [0, 1, 2]


class FakeWindows:
    """Two windows of 4 x 4 side by side in patch 7; the last row is of another split."""

    table = pd.DataFrame({"patch": ["7"] * 3, "row": [0] * 3, "column": [0, 4, 8], "name": list("abc")})
    card = SimpleNamespace(size=4)
    image_labels = np.array([[1, 0], [1, 1], [0, 1]], bool)

    def indexes(self, split):
        return np.arange(2)


class FakeParcels(Parcels):
    def __init__(self, places):
        self.__dict__.update(
            table=pd.DataFrame({"patch": ["7", "7", "7", "8"], "cut": [False, True, False, False]}),
            card=SimpleNamespace(background=True, names=["background", "x", "y"], digest="d"),
            places=[np.array(place, np.int32) for place in places],
        )

    def positions(self, index):
        return self.places[index]


PLACES = [
    [(0, 2), (0, 3), (0, 4), (1, 3)],  # three pixels in the first window, one (too few) in the second
    [(2, 2), (2, 3), (2, 4), (2, 5)],  # two in both
    [(3, 8), (3, 9)],  # in the window of another split
    [(0, 0), (0, 1)],  # in another patch
]


def test_a_window_is_its_parcels_that_are_in_its_label():
    found = parcels_of_windows(FakeParcels(PLACES), np.arange(4), FakeWindows(), 0.1)
    assert {window: parcels.tolist() for window, parcels in found.items()} == {0: [0, 1], 1: [1]}


def test_a_batch_of_windows():
    parcels = FakeParcels(PLACES)
    asked = []

    def batch(rows, pixels, draw):
        asked.append((rows.tolist(), pixels, draw))
        return SimpleNamespace(**dict.fromkeys(("pixels", "seen", "day", "valid", "geometry", "target", "index")))

    may = np.array([[1, 1, 0], [1, 0, 1], [0, 0, 0], [0, 0, 0]], bool)
    held = {0: np.array([0, 1]), 1: np.array([1])}
    data = WindowData(SimpleNamespace(parcels=parcels, batch=batch), FakeWindows(), held, may, 11, 5)
    found = data.batch(np.array([1, 0]), 3)
    assert asked == [([1, 0, 1], 11, (5, 3))]
    assert found.window.tolist() == [0, 1, 1]
    assert found.may.tolist() == may[[1, 0, 1]].tolist()
    assert found.whole.tolist() == [False, True, False]
    assert found.present.tolist() == [[False, True, True], [False, True, False]]  # background: in no label
    assert (found.index.tolist(), data.names(found.index.numpy()), data.indexes.tolist()) == (
        [1, 0],
        ["b", "a"],
        [0, 1],
    )
