"""What a segmenter learns of masks and of their probabilities: sure ones are the masks, with and without background."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from torch.nn import functional as F

from cluemap.data.windows import Windows
from cluemap.params import load_params
from cluemap.runtime.distributed import ALONE
from cluemap.training.segmenter_task import SegmenterTask, new_segmenter

B, K, SIDE = 5, 3, 14


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tiny.make_project(tmp_path_factory.mktemp("segmenter"), {"segmenter": {"select": "last"}})
    return Windows.open(root / "out/tiny/prepare/windows"), load_params("tiny", root / "params.yaml")


def task_of(made, labels: str, background: bool, power: float = 0.0) -> SegmenterTask:
    windows, params = made
    legend = replace(windows.card.legend, background=background)
    windows = replace(windows, card=replace(windows.card, legend=legend))
    told = params.segmenter.model_copy(update={"labels": labels, "class_weights": power})
    params = params.model_copy(update={"segmenter": told})
    return SegmenterTask(new_segmenter(windows, params), windows, params, ALONE)


def drawn(background: bool) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    logits = torch.randn(B, K + background, SIDE, SIDE, generator=draw)
    truth = torch.randint(1 - background, K + 1, (B, SIDE, SIDE), generator=draw)
    return logits, torch.where(torch.rand(truth.shape, generator=draw) < 0.2, 255, truth)


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("labels", ["weighted", "soft"])
@pytest.mark.parametrize("power", [0.0, 0.7])
def test_sure_probabilities_are_the_masks(made, labels, background, power):
    logits, truth = drawn(background)
    sure = torch.stack([truth == k for k in range(K + 1)], dim=1).float()
    hard, task = task_of(made, "hard", background, power), task_of(made, labels, background, power)
    hard.weigh(truth.numpy())
    task.weigh(truth.numpy(), (255 * np.moveaxis(sure.numpy(), 1, -1)).astype(np.uint8))
    torch.testing.assert_close(task.pixel_loss(logits, truth, sure), hard.pixel_loss(logits, truth, None))


@pytest.mark.parametrize("background", [True, False])
def test_half_a_chance_is_half_a_pixel(made, background):
    """A pixel that is 0.5 the rest: a class where that is one, and else no pixel by half."""
    logits, truth = drawn(background)
    half = torch.zeros(B, K + 1, SIDE, SIDE)
    half[:, 2], half[0, 2], half[0, 0] = 1.0, 0.5, 0.5
    share = F.log_softmax(logits, dim=1)
    mass = (B if background else B - 0.5) * SIDE**2
    expected = -(half[:, 1 - background :] * share).sum() / mass
    torch.testing.assert_close(task_of(made, "soft", background).pixel_loss(logits, truth, half), expected)
    trusted = task_of(made, "weighted", background).pixel_loss(logits, torch.full_like(truth, 2), half)
    picked = -share[:, 1 + background]
    torch.testing.assert_close(trusted, (picked.sum() - 0.5 * picked[0].sum()) / ((B - 0.5) * SIDE**2))
