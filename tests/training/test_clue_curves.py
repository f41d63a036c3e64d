"""What the classifier's curves say of its clues."""

import math

import pytest
import tiny
import torch

from cluemap.data.batches import load
from cluemap.data.windows import Windows
from cluemap.model.method.clues import Used
from cluemap.params import load_params
from cluemap.runtime.distributed import Ranks
from cluemap.training.classifier_task import ClassifierTask, evenness, new_classifier, positions_taken


@pytest.fixture
def task(tmp_path):
    root = tiny.make_project(tmp_path, {"clues": {"start_step": 0, "count": 3}})
    params = load_params("tiny", root / "params.yaml")
    windows = Windows.open(root / "out" / "tiny" / "prepare" / "windows")
    made = ClassifierTask(*new_classifier(windows, params), windows, params, Ranks(0, 1, torch.device("cpu")))
    assert made.points() == {}  # no clue has been learnt yet
    batch = load(windows, windows.indexes("train")[:6])
    made.losses(lambda given: made.network(given.images, given.day, given.valid), batch, step=0)
    return made


def test_each_class_s_clues_share_its_positions_and_keep_their_distance(task):
    found, names = task.points(), task.windows.card.legend.class_names
    positive, negative = (clue.double() for clue in task.clues)
    for k, name in enumerate(names):
        cosines = [float(a @ b / (a.norm() * b.norm())) for a in positive[k] for b in negative[k]]
        assert found[f"clue distance/{name}"] == pytest.approx(1 - sum(cosines) / len(cosines), abs=1e-6)
        for sign, used in zip(("positive", "negative"), task._used, strict=True):
            shares = [found[f"clue usage/{sign} {name} {clue}"] for clue in (1, 2, 3)]
            mine = used.assigned[:, :, k][used.mask[:, :, k]].tolist()
            assert shares == pytest.approx([mine.count(clue) / max(1, len(mine)) for clue in range(3)], abs=1e-12)
    assert len([name for name in found if name.startswith("clue usage/")]) == 2 * 3 * len(names)
    assert 0 < found["clues/drift"] < 2


def test_evenness():
    assigned = torch.tensor([0, 1, 0, 1, 0, 0])[:, None, None]
    used = Used(torch.tensor([1, 1, 1, 1, 0, 0], dtype=torch.bool)[:, None, None], assigned)
    assert positions_taken(used, 2).tolist() == [[2.0, 2.0]]  # the last two positions teach nobody
    assert evenness(torch.tensor([[2.0, 2.0]])) == pytest.approx(1.0)
    assert evenness(torch.tensor([[4.0, 0.0], [0.0, 0.0]])) == 0.0  # a class without positions does not count
    quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)
    assert evenness(torch.tensor([[1.0, 3.0], [2.0, 2.0]], dtype=torch.float64)) == pytest.approx((1 + quarter) / 2)
