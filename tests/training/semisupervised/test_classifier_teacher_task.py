"""Teacher and student on few image labels: losses, clues, resume, what is published; no map knows its place."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from interrupted_stage import interrupted

import train_classifier
from cluemap.data.windows import UNLABELLED
from cluemap.errors import Interrupted, ParamsError, TrainingError
from cluemap.model.networks.classifier import Classifier
from cluemap.model.networks.stand_in_classifier import StandInClassifier
from cluemap.model.storage import checkpoints
from cluemap.model.storage.trained_models import load_classifier
from cluemap.params import load_params
from cluemap.runtime.distributed import Ranks
from cluemap.stages.stage import Stage
from cluemap.training.classifier_task import ClassifierTask, new_classifier
from cluemap.training.inference import cams, scan
from cluemap.training.semisupervised.classifier_teacher_task import ClassifierTeacherTask, classifier_training
from cluemap.training.semisupervised.mixed_data import MixedData, classifier_data

ALONE = Ranks(0, 1, torch.device("cpu"))
MODEL = Path("out/tiny/train_classifier/model/classifier.safetensors")
STRONG = {"dropped_dates": 0.3, "shifted_days": 3, "band_gain": 0.1, "band_offset": 0.1, "light": 0.1}
CLUES = 3  # first step with clue learning


def project(root: Path, few: dict | None = None, **told) -> Path:
    told = {"kind": "fixmatch", "ratio": 2, "positive": 0.55, "negative": 0.45, "masked_pixels": 0.2, **STRONG, **told}
    few = {"kind": "image_labels", "count": 7} if few is None else few
    course = {"steps": 8, "validate_every": 4, "batch": 5, "weight_averaging": 0.5, "whitening": 1e-2}
    blocks = {"classifier": course, "semisupervised": told, "labelled": few, "clues": {"start_step": CLUES}}
    return tiny.make_project(root, blocks)


def stage_of(root: Path) -> Stage:
    return Stage("train_classifier", load_params("tiny", root / "params.yaml"), ALONE, root / "out",
                 root / "out/tiny/prepare")  # fmt: skip


def of(root: Path):
    stage = stage_of(root)
    return stage.windows(), stage.params


def batch_of(windows, params, step: int):
    data = classifier_data(windows, params, ALONE)
    return next(iter(data.batches([(step, data.indexes[: params.classifier.batch])], ALONE.device)))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return project(tmp_path_factory.mktemp("prepared"))


def told(params, **changes):
    return params.model_copy(update={"semisupervised": params.semisupervised.model_copy(update=changes)})


def losses(windows, params, step: int = CLUES, change=None):
    task = classifier_training(windows, params, ALONE)
    batch = batch_of(windows, params, step)
    if change:
        change(batch)
    return task, task.losses(lambda views: task.network(*views.inputs), batch, step)


def test_the_loss_is_the_sum_of_its_parts(prepared):
    windows, params = of(prepared)
    params = told(params, weight=0.7, distillation=0.3)
    task, found = losses(windows, params)
    assert isinstance(task, ClassifierTeacherTask)
    assert all(value > 0 for value in found.values())
    weights = {"tap": params.losses.lambda_tap, "clue": params.losses.lambda_clue, "unlabelled": 0.7,
               "distillation": 0.3}  # fmt: skip
    parts = [weights.get(name, 1.0) * value for name, value in found.items() if name != "total"]
    torch.testing.assert_close(found["total"], sum(parts))
    points = task.points()
    assert 0 < points["teacher/sure"] <= 1
    assert "clues/drift" in points


def test_the_teachers_labels_count_from_their_first_step_on(prepared):
    windows, params = of(prepared)
    params = told(params, start=0.5)
    for step, counts in ((3, False), (4, True)):
        _, found = losses(windows, params, step)
        _, other = losses(windows, told(params, weight=5.0), step)
        assert bool(found["total"] != other["total"]) == counts


def test_hidden_labels_and_unlabelled_windows_move_no_clue(prepared):
    windows, params = of(prepared)
    task, found = losses(windows, params)

    def change(batch):
        batch.image_labels[5:] = ~batch.image_labels[5:]
        batch.images[5:] += 1.0

    other, changed = losses(windows, params, change=change)
    for sign, clue in task.state().items():
        assert torch.equal(clue, other.state()[sign])
    for name in ("classification", "auxiliary", "tap", "clue", "teacher"):
        torch.testing.assert_close(changed[name], found[name])
    assert changed["unlabelled"] != found["unlabelled"]

    def hidden(batch):
        batch.image_labels[5:] = ~batch.image_labels[5:]

    _, same = losses(windows, params, change=hidden)
    assert all(torch.equal(same[name], value) for name, value in found.items())


def test_the_teachers_labels_are_its_sure_classes_by_a_loop(prepared):
    """The loss of both networks on strong views, class by class."""
    windows, params = of(prepared)
    again = classifier_training(windows, params, ALONE)
    views = again.maker.views(batch_of(windows, params, CLUES), CLUES)
    answers = again.network(*views.inputs)
    weak = answers.weak.logits.sigmoid()
    low, high = weak.flatten().quantile(torch.tensor([0.4, 0.7])).tolist()
    _, found = losses(windows, told(params, negative=low, positive=high))
    sums = 0.0
    for out in (answers.student, answers.teacher):
        maps = [scores[5:].mean(dim=(2, 3)) for scores in (out.temporal, out.spatial)]
        for logits, weight in ((out.logits[5:], 1.0), (maps[0], 0.5), (maps[1], 0.5)):
            for p, z in zip(weak.flatten().tolist(), logits.flatten().sigmoid().tolist(), strict=True):
                if p >= high:
                    sums -= weight * np.log(z)
                elif p <= low:
                    sums -= weight * np.log(1 - z)
    expected = sums / weak.numel()
    assert found["unlabelled"].item() == pytest.approx(expected, rel=1e-4)


def test_both_networks_get_every_gradient(prepared):
    """Several processes wait for the gradient of every weight."""
    windows, params = of(prepared)
    for metadata in ("teacher", "none"):
        task, found = losses(windows, told(params, metadata=metadata))
        found["total"].backward()
        assert all(weight.grad is not None for weight in task.network.parameters())


def test_the_student_starts_as_the_classifier_alone(prepared):
    windows, params = of(prepared)
    task = classifier_training(windows, params, ALONE)
    network, clues = new_classifier(windows, params)
    found, other = task.published.state_dict(), task.network.teacher.state_dict()
    assert all(torch.equal(found[name], value) for name, value in network.state_dict().items())
    assert torch.equal(task.clues.positive, clues.positive)
    assert not torch.equal(other["class_head.1.weight"], found["class_head.1.weight"])


def test_it_applies_only_where_image_labels_are_hidden(prepared, tmp_path):
    windows, params = of(prepared)
    assert isinstance(classifier_data(windows, params, ALONE), MixedData)
    assert len(windows.indexes(UNLABELLED)) == 10
    assert type(classifier_training(windows, told(params, classifier=False), ALONE)) is ClassifierTask
    assert not isinstance(classifier_data(windows, told(params, classifier=False), ALONE), MixedData)
    with pytest.raises(ParamsError, match="both is for segmenters"):
        classifier_training(windows, told(params, metadata="both"), ALONE)
    masks, params = of(project(tmp_path / "masks", few={"kind": "masks", "count": 7}))
    assert type(classifier_training(masks, params, ALONE)) is ClassifierTask
    every, params = of(project(tmp_path / "every", few={}))
    with pytest.raises(TrainingError, match=r"every training window has labels: set labelled.share"):
        classifier_training(every, params, ALONE)


# ------------------------------------------------------------------------------------------------ whole trainings
def train(root: Path, monkeypatch, stop: int | None = None) -> None:
    """Stage train_classifier in this process, without a run store; `stop`: a signal comes in this step."""

    with interrupted(monkeypatch, ClassifierTeacherTask, "train_classifier.draw_training", stop):
        train_classifier.work(stage_of(root))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training that was never disturbed."""
    root = project(tmp_path_factory.mktemp("whole"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        train(root, monkeypatch)
    return root


@pytest.mark.slow
def test_the_student_alone_is_published_and_no_map_knows_its_place(whole):
    saved = checkpoints.load(whole / MODEL).tensors
    assert not [name for name in saved if name.startswith(("network/teacher", "network/embed", "network/student"))]
    assert {"clues/positive", "clues/negative", "network/stand_in"} <= set(saved)
    windows, _ = of(whole)
    network, clues, _ = load_classifier(whole / MODEL, windows)
    assert isinstance(network, StandInClassifier)

    def maps():
        windows, params = of(whole)
        (batch,) = scan(windows, windows.indexes("train"), 7, ALONE)
        return cams(network, clues, batch, ["clue", "refined"], params)[0]

    before = maps()
    file = whole / "out/tiny/prepare/windows/windows.parquet"
    table = pd.read_parquet(file)
    table.assign(x=table["x"] + 3e5, y=table["y"] - 2e5).to_parquet(file)  # all of it lies elsewhere
    after = maps()
    table.to_parquet(file)
    assert all(torch.equal(before[source], after[source]) for source in before)
    with torch.no_grad():
        network.stand_in.add_(1.0 + torch.arange(network.stand_in.numel()) % 3)
    assert not torch.allclose(maps()["clue"], before["clue"], atol=1e-3)  # the stand-in is part of the network


def test_a_file_of_a_classifier_alone_is_a_classifier(tmp_path, monkeypatch):
    root = project(tmp_path, classifier=False)
    train(root, monkeypatch)
    assert type(load_classifier(root / MODEL, of(root)[0])[0]) is Classifier


@pytest.mark.slow
@pytest.mark.parametrize("stop", [2, 5])
def test_a_stopped_training_ends_with_the_same_bits(whole, tmp_path, monkeypatch, stop):
    root = project(tmp_path)
    with pytest.raises(Interrupted):
        train(root, monkeypatch, stop)
    train(root, monkeypatch)
    expected, found = (checkpoints.load(folder / MODEL).tensors for folder in (whole, root))
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.slow
def test_two_processes_give_what_one_gives(whole, tmp_path):
    root = project(tmp_path)
    tiny.run("train_classifier", root, CLUEMAP_PROCESSES="2")
    found = checkpoints.load(root / MODEL).tensors
    for name, value in checkpoints.load(whole / MODEL).tensors.items():
        scale = value.abs().max().clamp_min(1e-3)
        assert ((value - found[name]).abs().max() / scale).item() < 1e-3, name
