"""The classifier's scores on validation, against the masks that the later stages would make of the same CAMs."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from cluemap.data.windows import Windows
from cluemap.model.method.pseudo_masks import best_class, pseudo_mask, upsample
from cluemap.params import load_params
from cluemap.runtime.distributed import Ranks
from cluemap.training.classifier_task import ClassifierTask, new_classifier
from cluemap.training.inference import cams, scan

ALONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture
def task(tmp_path):
    root = tiny.make_project(tmp_path)
    windows = Windows.open(root / "out" / "tiny" / "prepare" / "windows")
    params = load_params("tiny", root / "params.yaml")
    network, clues = new_classifier(windows, params)
    network.eval()
    return ClassifierTask(network, clues, windows, params, ALONE)


def masks_of(task, source):
    """Masks at 0.30 of the validation windows, in the order of their truth."""
    windows, found = task.windows, {}
    for batch in scan(windows, windows.indexes("validation"), 5, ALONE):
        maps, _ = cams(task.network, task.clues, batch, [source], task.params)
        score, winner = best_class(upsample(maps[source], windows.card.size), batch.image_labels)
        found.update(zip(batch.index.tolist(), pseudo_mask(score, winner, 0.30, True).numpy(), strict=True))
    return np.stack([found[index] for index in windows.indexes("validation").tolist()])


def miou(one, other, classes):
    """Mean over the classes that either map has, pixel by pixel; 255 in the first counts nowhere."""
    scored = one != 255
    one, other = one[scored], other[scored]
    both = [((one == k) & (other == k)).sum() / ((one == k) | (other == k)).sum() for k in classes
            if ((one == k) | (other == k)).any()]  # fmt: skip
    return float(np.mean(both))


def test_the_score_at_the_fixed_threshold_is_that_of_the_masks_themselves(task):
    wanted = miou(task.windows.masks("validation"), masks_of(task, "clue"), range(4))
    assert task.validate()["clue_cam_miou_fixed"] == pytest.approx(wanted, abs=1e-6)


def test_agreement_compares_two_cams_and_reads_no_truth(task, monkeypatch):
    wanted = miou(masks_of(task, "clue"), masks_of(task, "refined"), range(4))
    before = task.validate()
    assert before["cam_agreement"] == pytest.approx(wanted, abs=1e-6)
    empty = np.zeros_like(task.windows.masks("validation"))
    monkeypatch.setattr(Windows, "masks", lambda *_: empty)
    after = task.validate()
    assert after["cam_agreement"] == before["cam_agreement"]
    assert after["clue_cam_miou_fixed"] != before["clue_cam_miou_fixed"]


@pytest.mark.parametrize("step", [0, 99])
def test_unknown_classes_give_no_gradient(task, step):
    """Neither to a window's logits of the class, nor to its maps, nor (where there are clues) to its tokens."""
    windows = task.windows
    known = windows.image_labels | (np.arange(len(windows)) % 3 == 0)[:, None]
    task.windows = replace(windows, known=known)
    (batch,) = list(scan(task.windows, windows.indexes("train")[:6], 6, ALONE))
    kept = {}

    def forward(batch):
        out = task.network(batch.images, batch.day, batch.valid)
        kept.update(logits=out.logits, temporal=out.temporal, spatial=out.spatial, dense=out.watched.dense)
        for tensor in kept.values():
            tensor.retain_grad()
        return out

    task.network.train()
    parts = task.losses(forward, batch, step)
    wanted = [kept[name] for name in ("logits", "temporal", "spatial")]
    gradients = torch.autograd.grad(parts["total"], wanted, retain_graph=True)
    told = torch.from_numpy(known[batch.index.numpy()])
    assert (~told).any()
    for gradient in gradients:
        per_class = gradient.flatten(2).abs().sum(dim=2) if gradient.dim() > 2 else gradient.abs()
        assert (per_class[~told] == 0).all()
        assert (per_class[told] > 0).any()
    if step:
        (dense,) = torch.autograd.grad(parts["clue"], [kept["dense"]])
        per_class = dense.abs().sum(dim=(1, 3))
        assert (per_class[~told] == 0).all()
        assert (per_class[told] > 0).any()


def test_what_is_unknown_changes_no_loss(task):
    """A batch whose unknown labels were flipped gives the same losses but for those of present classes."""
    (batch,) = list(scan(task.windows, task.windows.indexes("train")[:5], 5, ALONE))
    known = torch.rand(batch.image_labels.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    forward = lambda batch: task.network(batch.images, batch.day, batch.valid)
    one, other = (
        task.losses(forward, replace(batch, known=known, image_labels=labels), 0)
        for labels in (batch.image_labels & known, batch.image_labels | ~known)
    )
    assert one["classification"] == other["classification"]
    assert one["auxiliary"] == other["auxiliary"]
    every = task.losses(forward, replace(batch, image_labels=batch.image_labels & known), 0)
    assert one["classification"] != every["classification"]
