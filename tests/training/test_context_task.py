"""Segmenters trained with the context loss, before their training or beside it: what is kept, resumed, shared out."""

import os
import signal
import sqlite3
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny
import torch

from cluemap.data.batches import load
from cluemap.data.windows import Windows
from cluemap.errors import Interrupted
from cluemap.model.networks.context import JoinedSegmenter
from cluemap.model.networks.ltae import LtaeSegmenter
from cluemap.model.storage import checkpoints
from cluemap.model.storage.trained_models import load_segmenter
from cluemap.params import CsclParams, load_params
from cluemap.runtime.distributed import Ranks
from cluemap.stages.stage import Stage
from cluemap.stages.train_segmenter import train_segmenter
from cluemap.tracking import NoRun
from cluemap.training.context_task import ContextTask, JointTask, segmenter_training
from cluemap.training.segmenter_task import SegmenterTask, new_segmenter

ALONE = Ranks(0, 1, torch.device("cpu"))
MODEL = Path("out/tiny/train_reference/model/segmenter.safetensors")
STATE = Path("out/tiny/.state/train_reference")
LTAE = {"width": 7, "heads": 2, "key_width": 3, "value_width": 5, "convolutions": 1}
SHORT = {"steps": 6, "learning_rate": 1e-2, "masked": True}
AUGMENTED = {"flips": True, "dropped_dates": 0.2}


def project(root: Path, kind: str, network: str = "ltae", **changed) -> Path:
    segmenter = {"kind": network, "steps": 8, "validate_every": 4, "whitening": 1e-2, "weight_averaging": 0.5}
    cscl = {**SHORT, "kind": kind, **changed}
    return tiny.make_project(root, {"segmenter": segmenter, "ltae": LTAE, "cscl": cscl, "augmentation": AUGMENTED})


def weights(root: Path) -> dict[str, torch.Tensor]:
    return checkpoints.load(root / MODEL).tensors


def of(root: Path, **changed):
    windows = Windows.open(root / "out/tiny/prepare/windows")
    params = load_params("tiny", root / "params.yaml")
    cscl = CsclParams.model_validate({**params.cscl.model_dump(), **changed})
    return windows, params.model_copy(update={"cscl": cscl})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return project(tmp_path_factory.mktemp("prepared"), "off")


@pytest.mark.parametrize("kind", ["off", "pretrain", "joint"])
def test_the_segmenter_starts_the_same_with_and_without(prepared, kind):
    windows, params = of(prepared, kind=kind)
    task, before = segmenter_training(windows, params, ALONE)
    expected = new_segmenter(windows, params).state_dict()
    found = task.published.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert (type(task) is JointTask) == (kind == "joint")
    assert (before is not None) == (kind == "pretrain")


def test_the_joint_loss_is_both_and_off_is_the_pixels_alone(prepared):
    totals = {}
    for kind in ("off", "joint"):
        windows, params = of(prepared, kind=kind, weight=0.7)
        task, _ = segmenter_training(windows, params, ALONE)
        indexes = windows.indexes("train")[:3]
        batch = load(windows, indexes, windows.masks("train"))
        losses = task.losses(lambda b, n=task.network: n(b.images, b.day, b.valid), batch, step=5)
        totals[kind] = losses["total"]
    assert totals["off"] == losses["pixels"]
    assert losses["context"].abs() > 1e-4
    torch.testing.assert_close(totals["joint"], losses["pixels"] + 0.7 * losses["context"])


def test_the_rate_of_the_pretraining_falls_by_its_factor_an_epoch(prepared):
    windows, params = of(prepared, kind="pretrain", learning_rate=3e-3, decay=0.5)
    _, before = segmenter_training(windows, params, ALONE)
    epoch = 17 / 8  # windows over batch: steps
    assert before.rate(0) == 3e-3
    assert before.rate(4) == pytest.approx(3e-3 * 0.5 ** (4 / epoch))
    assert (before.course.steps, before.course.weight_decay, before.course.weight_averaging) == (6, 0.0, 0.0)


class Curves(NoRun):
    """A run that keeps its curves and nothing else."""

    def __init__(self):
        self.names: dict[str, list[int]] = {}

    def log(self, step, values):
        for name in values:
            self.names.setdefault(name, []).append(step)


def train(root: Path, monkeypatch, stop: tuple[type, int] | None = None) -> Curves:
    """Stage train_reference in this process, without a run store; `stop`: a signal comes in this step of that task."""
    windows, params = of(root)
    curves = Curves()

    @contextmanager
    def run(self, upstream=(), experiment="training", resume=None):
        yield curves

    with monkeypatch.context() as patch:
        patch.setattr(Stage, "run", run)
        patch.setattr("cluemap.stages.train_segmenter.draw_training", lambda stage, points: None)
        if stop:
            task, at = stop
            real = task.losses
            patch.setattr(
                task,
                "losses",
                lambda self, forward, batch, step: (
                    os.kill(os.getpid(), signal.SIGTERM) if step == at else None,
                    real(self, forward, batch, step),
                )[1],
            )
        stage = Stage("train_reference", params, ALONE, root / "out", root / "out/tiny/prepare")
        train_segmenter(stage, windows, windows.masks("train"), "truth", ("prepare",))
    return curves


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Trainings that were never disturbed, in one process."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as monkeypatch:
        for kind in ("pretrain", "joint", "off"):
            train(project(folder / kind, kind, steps=11), monkeypatch)
    return folder


@pytest.mark.slow
def test_the_head_is_dropped_and_the_weights_are_others(whole):
    kept = {kind: weights(whole / kind) for kind in ("pretrain", "joint", "off")}
    assert kept["pretrain"].keys() == kept["joint"].keys() == kept["off"].keys()
    for one, other in (("pretrain", "off"), ("joint", "off"), ("pretrain", "joint")):
        name = "network/blocks.0.convolution.weight"
        assert not torch.equal(kept[one][name], kept[other][name])
    network, _ = load_segmenter(whole / "pretrain" / MODEL)
    assert isinstance(network, LtaeSegmenter)


def test_curves_of_the_pretraining_have_names_of_their_own(tmp_path, monkeypatch):
    names = train(project(tmp_path, "pretrain", steps=20), monkeypatch).names
    assert names["pretraining/loss/total"] == [10, 20]
    assert names["loss/total"] == [8]


@pytest.mark.parametrize("stop", [(ContextTask, 4), (ContextTask, 9), (SegmenterTask, 2)])
def test_a_stopped_pretraining_or_training_ends_with_the_same_bits(whole, tmp_path, monkeypatch, stop):
    root = project(tmp_path, "pretrain", steps=11)
    with pytest.raises(Interrupted):
        train(root, monkeypatch, stop)
    steps = train(root, monkeypatch).names
    assert min(steps.get("pretraining/loss/total", [11])) > stop[1] or stop[0] is SegmenterTask
    expected, found = weights(whole / "pretrain"), weights(root)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not (root / STATE).exists()


def test_a_stopped_joint_training_ends_with_the_same_bits(whole, tmp_path, monkeypatch):
    root = project(tmp_path, "joint", steps=11)
    with pytest.raises(Interrupted):
        train(root, monkeypatch, (JointTask, 5))
    train(root, monkeypatch)
    expected, found = weights(whole / "joint"), weights(root)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize(("kind", "network"), [("pretrain", "tsvit"), ("joint", "ltae")])
def test_a_network_with_joined_similarities_is_published_whole(tmp_path, monkeypatch, kind, network):
    root = project(tmp_path, kind, network, joined=True)
    train(root, monkeypatch)
    loaded, _ = load_segmenter(root / MODEL)
    assert isinstance(loaded, JoinedSegmenter)
    with torch.no_grad():
        windows, _ = of(root)
        batch = load(windows, windows.indexes("validation"))
        before = loaded(batch.images, batch.day, batch.valid)
        loaded.network.context.rows.add_(5.0)
        assert not torch.equal(loaded(batch.images, batch.day, batch.valid), before)


# ------------------------------------------------------------------------------------------------ the stage's script
def saved(folder: Path) -> int:
    try:
        return checkpoints.load(folder / checkpoints.LAST).about["step"]
    except Exception:
        return -1


@pytest.mark.slow
def test_the_script_goes_on_in_the_same_run_and_refuses_other_params(tmp_path):
    root = project(tmp_path, "pretrain", steps=300)
    process = subprocess.Popen(tiny.command("train_reference", root), env=tiny.environment(root))
    end = time.monotonic() + 200
    while saved(root / STATE / "pretraining") < 3:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 130
    file = root / "params.yaml"
    mine = file.read_text()
    file.write_text(mine.replace("kind: pretrain", "kind: joint"))
    done = tiny.run("train_reference", root, check=False)
    assert done.returncode == 2
    assert "cscl.kind is 'pretrain' there and 'joint' now" in done.stderr
    file.write_text(mine)
    tiny.run("train_reference", root)
    with sqlite3.connect(root / "mlflow.db") as store:
        assert store.execute("select status from runs").fetchall() == [("FINISHED",)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pretrain", "joint"])
def test_two_processes_give_what_one_gives(whole, tmp_path, kind):
    root = project(tmp_path, kind, steps=11)
    tiny.run("train_reference", root, CLUEMAP_PROCESSES="2")
    for name, value in weights(whole / kind).items():
        scale = value.abs().max().clamp_min(1e-3)
        assert ((value - weights(root)[name]).abs().max() / scale).item() < 1e-3, name
