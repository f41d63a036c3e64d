"""Teacher and student on few masks: batches, losses, resume, what is published, and that no map knows its place."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from interrupted_stage import interrupted

from cluemap.data.batches import load
from cluemap.data.splits.labelled_part import with_known_labels
from cluemap.data.windows import UNLABELLED, Windows
from cluemap.errors import CheckpointError, Interrupted, ParamsError, TrainingError
from cluemap.model.networks.stand_in import StandInSegmenter
from cluemap.model.storage import checkpoints
from cluemap.model.storage.exported_model import export_segmenter
from cluemap.model.storage.trained_models import load_segmenter
from cluemap.params import load_params
from cluemap.runtime.distributed import Ranks
from cluemap.stages.stage import Stage
from cluemap.stages.train_segmenter import train_segmenter
from cluemap.training.context_task import segmenter_training
from cluemap.training.inference import inputs_of
from cluemap.training.segmenter_task import SegmenterTask, new_segmenter, score_on
from cluemap.training.semisupervised.mixed_data import MixedData, segmenter_data
from cluemap.training.semisupervised.teacher_task import TeacherTask

ALONE = Ranks(0, 1, torch.device("cpu"))
MODEL = Path("out/tiny/train_reference/model/segmenter.safetensors")
LTAE = {"width": 7, "heads": 2, "key_width": 3, "value_width": 5, "convolutions": 1}
STRONG = {"dropped_dates": 0.3, "shifted_days": 3, "band_gain": 0.1, "band_offset": 0.1, "light": 0.1}


def project(root: Path, network: str = "ltae", few: dict | None = None, **told) -> Path:
    segmenter = {
        "kind": network,
        "steps": 8,
        "validate_every": 4,
        "whitening": 1e-2,
        "weight_averaging": 0.5,
        "batch": 5,
    }
    told = {"kind": "freematch", "ratio": 2, "momentum": 0.5, "masked_pixels": 0.2, **STRONG, **told}
    few = {"kind": "masks", "count": 7} if few is None else few
    blocks = {"segmenter": segmenter, "ltae": LTAE, "semisupervised": told, "labelled": few}
    return tiny.make_project(root, {**blocks, "augmentation": {"flips": True, "dropped_dates": 0.2}})


def of(root: Path, masks: bool = True):
    params = load_params("tiny", root / "params.yaml")
    return Stage("train_reference", params, ALONE, root / "out", root / "out/tiny/prepare").windows(masks), params


def batch_of(windows, params, step: int, ranks: Ranks = ALONE):
    data = segmenter_data(windows, windows.masks("train"), params, ranks)
    mine = len(range(ranks.rank, params.segmenter.batch, ranks.world))
    labelled = data.indexes[ranks.rank :: ranks.world][:mine]
    return next(iter(data.batches([(step, labelled)], ranks.device)))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return project(tmp_path_factory.mktemp("prepared"))


def test_a_batch_holds_labelled_windows_then_others_without_masks(prepared):
    windows, params = of(prepared)
    batch = batch_of(windows, params, 3)
    assert batch.index[:5].tolist() == windows.indexes("train")[:5].tolist()
    assert len(set(batch.index[5:].tolist())) == 10
    assert set(batch.index[5:].tolist()) <= set(windows.indexes(UNLABELLED).tolist())
    assert (batch.mask[5:] == 255).all()
    assert (batch.mask[:5] != 255).any(dim=(1, 2)).all()


def test_the_views_of_several_processes_are_those_of_one(prepared):
    windows, params = of(prepared)
    task, _ = segmenter_training(windows, params, ALONE)
    whole = task.maker.views(batch_of(windows, params, 3), 3)
    for rank in range(2):
        here = Ranks(rank, 2, torch.device("cpu"))
        part, _ = segmenter_training(windows, params, here)
        views = part.maker.views(batch_of(windows, params, 3, here), 3)
        for name in ("shown", "weak"):
            one, mine = getattr(whole, name), getattr(views, name)
            for place, index in enumerate(mine.index.tolist()):
                row = one.index.tolist().index(index)
                length = mine.images.shape[1]
                assert torch.equal(mine.images[place], one.images[row, :length])
                assert torch.equal(mine.valid[place], one.valid[row, :length])
        assert views.labelled == (3, 2)[rank]


def test_strong_views_change_more_than_weak_ones_and_keep_their_pixels(prepared):
    windows, params = of(prepared)
    task, _ = segmenter_training(windows, params, ALONE)
    views = task.maker.views(batch_of(windows, params, 3), 3)
    assert torch.equal(views.shown.index[5:], views.weak.index)
    assert (views.shown.valid[5:].sum() < views.weak.valid.sum()).item()
    assert not torch.equal(views.shown.day[5:], views.weak.day)
    raw = load(windows, views.weak.index.numpy())
    assert torch.equal(views.weak.day, raw.day[:, : views.weak.day.shape[1]])
    lost = (views.shown.images[5:] == 0).all(dim=(1, 2))
    assert 0 < lost.float().mean() < 0.2
    torch.testing.assert_close(views.metadata, task.maker.metadata[views.shown.index])
    seen = ~lost & (views.weak.images != 0).any(dim=(1, 2))
    for one, other, pixels in zip(views.weak.images[:, 0, 0], views.shown.images[5:, 0, 0], seen, strict=True):
        known = pixels & (one != 0)
        if known.sum() > 2:  # gain and offset alone: the pixels lie where they lay
            together = torch.corrcoef(torch.stack([one[known], other[known]]))[0, 1]
            assert together > 0.999


def test_the_loss_is_the_sum_of_its_parts_and_hidden_masks_are_not_in_it(prepared):
    windows, params = of(prepared)
    told = params.semisupervised.model_copy(update={"weight": 0.7, "distillation": 0.3})
    params = params.model_copy(update={"semisupervised": told})
    task, _ = segmenter_training(windows, params, ALONE)
    found = task.losses(lambda views: task.network(*views.inputs), batch_of(windows, params, 3), 3)
    assert all(value > 0 for value in found.values())
    expected = found["pixels"] + 0.7 * found["unlabelled"] + 0.3 * found["distillation"]
    torch.testing.assert_close(found["total"], expected)
    assert task.points()["teacher/sure"] > 0
    start = 1 / 4  # three crops and the background
    assert task.confidence.overall > start
    again, _ = segmenter_training(windows, params, ALONE)
    again.restore(task.state())
    assert torch.equal(again.confidence.classes, task.confidence.classes)


def test_labels_obey_the_image_labels_where_they_are_known(prepared):
    windows, params = of(prepared)
    batch = batch_of(windows, params, 3)
    for bound in (True, False):
        told = params.semisupervised.model_copy(update={"image_labels": bound, "kind": "fixmatch", "threshold": 0.0})
        task, _ = segmenter_training(windows, params.model_copy(update={"semisupervised": told}), ALONE)
        weak = task.maker.views(batch, 3).weak
        weak.image_labels[:, 1] = False
        logits = torch.zeros(len(weak), 4, 14, 14)
        logits[:, 2] = 1.0
        labels = task._labels(logits, weak)
        assert (labels == 2).any() != bound
        assert (labels != 255).all()


def test_the_student_starts_as_the_segmenter_alone(prepared):
    windows, params = of(prepared)
    task, before = segmenter_training(windows, params, ALONE)
    assert isinstance(task, TeacherTask)
    assert before is None
    expected = new_segmenter(windows, params).state_dict()
    found = task.published.segmenter.state_dict()
    other = task.network.teacher.segmenter.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert any(not torch.equal(other[name], value) for name, value in expected.items())


def test_it_applies_only_where_windows_are_unlabelled(prepared, tmp_path):
    windows, params = of(prepared, masks=False)  # as train_segmenter has them: every window has its image label
    assert type(segmenter_training(windows, params, ALONE)[0]) is SegmenterTask
    masks = np.zeros((17, 14, 14), np.uint8)
    assert not isinstance(segmenter_data(windows, masks, params, ALONE), MixedData)
    windows, params = of(project(tmp_path, few={}))
    with pytest.raises(TrainingError, match=r"every training window has labels: set labelled.share"):
        segmenter_training(windows, params, ALONE)
    windows, params = of(prepared)
    both = params.model_copy(update={"cscl": params.cscl.model_copy(update={"kind": "joint"})})
    with pytest.raises(ParamsError, match=r"cscl.kind and semisupervised.kind cannot both be on"):
        segmenter_training(windows, both, ALONE)


# ------------------------------------------------------------------------------------------------ whole trainings
def train(root: Path, monkeypatch, stop: int | None = None) -> None:
    """Stage train_reference in this process, without a run store; `stop`: a signal comes in this step."""
    windows, params = of(root)

    with interrupted(monkeypatch, TeacherTask, "cluemap.stages.train_segmenter.draw_training", stop):
        stage = Stage("train_reference", params, ALONE, root / "out", root / "out/tiny/prepare")
        train_segmenter(stage, windows, windows.masks("train"), f"truth {windows.part}", ("prepare",))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training that was never disturbed."""
    root = project(tmp_path_factory.mktemp("whole"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        train(root, monkeypatch)
    return root


@pytest.mark.slow
def test_the_student_alone_is_published_and_no_map_knows_its_place(tmp_path, monkeypatch):
    root = project(tmp_path, "tsvit")
    train(root, monkeypatch)
    published_alone(root)


def test_an_ltae_student_alone_is_published_and_no_map_knows_its_place(whole):
    published_alone(whole)


def published_alone(root):
    weights = checkpoints.load(root / MODEL).tensors
    assert not [name for name in weights if name.startswith(("network/teacher", "network/embed"))]
    windows, params = of(root)
    loaded, _ = load_segmenter(root / MODEL, windows)
    assert isinstance(loaded, StandInSegmenter)
    assert not loaded.told
    export_segmenter(root / MODEL, root / "model.pt2")
    before = score_on(loaded, windows, "test", params, ALONE)
    file = root / "out/tiny/prepare/windows/windows.parquet"
    table = pd.read_parquet(file)
    table.assign(x=table["x"] + 3e5, y=table["y"] - 2e5).to_parquet(file)  # all of it lies elsewhere
    moved, _ = of(root)
    after = score_on(loaded, moved, "test", params, ALONE)
    table.to_parquet(file)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [2, 4])
def test_a_stopped_training_ends_with_the_same_bits(whole, tmp_path, monkeypatch, stop):
    root = project(tmp_path)
    with pytest.raises(Interrupted):
        train(root, monkeypatch, stop)
    train(root, monkeypatch)
    expected, found = (checkpoints.load(folder / MODEL).tensors for folder in (whole, root))
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_student_that_is_told_places_is_for_comparison_alone(tmp_path, monkeypatch):
    root = project(tmp_path, metadata="both")
    train(root, monkeypatch)
    windows, params = of(root)
    loaded, _ = load_segmenter(root / MODEL, windows)
    assert loaded.told
    score_on(loaded, windows, "test", params, ALONE)  # is given the places
    batch = load(windows, windows.indexes("test"))
    one = loaded(*inputs_of(loaded, batch, windows))
    table = windows.table.assign(x=windows.table["x"].to_numpy()[::-1])
    table.to_parquet(root / "out/tiny/prepare/windows/windows.parquet")
    other = loaded(*inputs_of(loaded, batch, of(root)[0]))
    assert not torch.allclose(one, other, atol=1e-4)
    with pytest.raises(CheckpointError, match="asks for the place of every window"):
        load_segmenter(root / MODEL)


@pytest.mark.slow
def test_two_processes_give_what_one_gives(whole, tmp_path):
    root = project(tmp_path)
    tiny.run("train_reference", root, CLUEMAP_PROCESSES="2")
    found = checkpoints.load(root / MODEL).tensors
    for name, value in checkpoints.load(whole / MODEL).tensors.items():
        scale = value.abs().max().clamp_min(1e-3)
        assert ((value - found[name]).abs().max() / scale).item() < 1e-3, name


def test_few_image_labels_bind_no_unlabelled_window(tmp_path):
    windows, params = of(project(tmp_path, few={"kind": "image_labels", "count": 7}))
    assert len(windows.indexes(UNLABELLED)) == 10
    task, _ = segmenter_training(windows, params, ALONE)
    weak = task.maker.views(batch_of(windows, params, 3), 3).weak
    task.told = task.told.model_copy(update={"kind": "fixmatch", "threshold": 0.0})
    logits = torch.zeros(len(weak), 4, 14, 14)
    logits[:, 2] = 1.0
    assert (task._labels(logits, weak) == 2).all()
    same = with_known_labels(Windows.open(windows.folder), params.labelled, tmp_path)
    assert same.part == windows.part
