"""The classifier's scores on validation, against the masks that the later stages would make of the same CAMs."""

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
