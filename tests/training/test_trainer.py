"""The training loop in one process: exact resume, clean stops, and what it refuses."""

import math
import os
import signal
from itertools import pairwise
from pathlib import Path

import pytest
import tiny
import torch
from safetensors import SafetensorError

from cluemap.data.windows import Windows
from cluemap.errors import CheckpointError, Interrupted, NotFinite, TrainingError
from cluemap.model.storage import checkpoints
from cluemap.params import Params, load_params
from cluemap.runtime.distributed import Ranks
from cluemap.runtime.execution import seed_draws, wrapped
from cluemap.runtime.stop_signals import Stop
from cluemap.training.classifier_task import ClassifierTask, new_classifier
from cluemap.training.task import Data, Settings, Trained
from cluemap.training.trainer import Trainer, learning_rate
from cluemap.training.training_state import TrainingState
from cluemap.training.weight_averaging import WeightAverage

ALONE = Ranks(0, 1, torch.device("cpu"))
STEPS, CLUES = 14, 5  # few and fast: clues start at the latter, the score is taken at 7 and at the end
SHORT = {"classifier": {"steps": STEPS, "validate_every": 7, "learning_rate": 5e-3}, "clues": {"start_step": CLUES}}


class Points:
    """A log that keeps what it is told."""

    def __init__(self):
        self.all: dict[tuple[int, str], float] = {}

    def log(self, step, values):
        self.all.update({(step, name): value for name, value in values.items()})


class Told(ClassifierTask):
    """The real task, and something that happens at one step."""

    at, what = -1, staticmethod(lambda: None)

    def losses(self, forward, batch, step):
        found = super().losses(forward, batch, step)
        if step == self.at:
            found["total"] = found["total"] * (self.what() or 1.0)
        return found


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return tiny.make_project(tmp_path_factory.mktemp("project"), SHORT)


@pytest.fixture(scope="module")
def windows(project):
    return Windows.open(project / "out" / "tiny" / "prepare" / "windows")


@pytest.fixture
def params(project) -> Params:
    return load_params("tiny", project / "params.yaml")


def settings_of(params: Params) -> Settings:
    return Settings(params.classifier, params.compute, params.checkpoint, params.seed, {"seed": params.seed})


def train(windows, params, folder: Path, at=-1, what=lambda: None) -> tuple[Trained, Points]:
    network, clues = new_classifier(windows, params)
    task = Told(network, clues, windows, params, ALONE)
    task.at, task.what = at, what
    settings = settings_of(params)
    points = Points()
    data = Data(windows, windows.indexes("train"))
    trainer = Trainer(task, data, settings, ALONE, points, folder, checkpoints.load_last(folder))
    return trainer.train(), points


@pytest.fixture(scope="module")
def whole(windows, project, tmp_path_factory):
    return train(windows, load_params("tiny", project / "params.yaml"), tmp_path_factory.mktemp("whole"))


def same_bits(one: Trained, other: Trained) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_same_seed_same_bits(windows, params, whole, tmp_path):
    again, points = train(windows, params, tmp_path)
    assert same_bits(again, whole[0])
    timed = {key for key in points.all if "second" in key[1] or key[1].startswith("system/")}
    assert {k: v for k, v in points.all.items() if k not in timed} == {
        k: v for k, v in whole[1].all.items() if k not in timed
    }


def test_another_seed_other_weights(windows, params, whole, tmp_path):
    other, _ = train(windows, params.model_copy(update={"seed": 1}), tmp_path)
    assert not same_bits(other, whole[0])


def test_training_moves_weights_and_clues_and_lowers_the_loss(windows, params, whole):
    network, clues = new_classifier(windows, params)
    assert not torch.equal(whole[0]["network/temporal.embed.weight"], network.temporal.embed.weight)
    assert not torch.equal(whole[0]["clues/positive"], clues.positive)
    torch.testing.assert_close(whole[0]["clues/negative"].norm(dim=-1), torch.ones(3, 2))
    assert whole[1].all[STEPS, "loss/classification"] < 0.85 * math.log(2)  # log 2 = knowing nothing


@pytest.mark.slow
@pytest.mark.parametrize("stopped_after", [1, CLUES - 1, CLUES, CLUES + 1, 11])
def test_a_stopped_training_ends_with_the_same_bits(windows, params, whole, tmp_path, stopped_after):
    stop = lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted, match=f"after step {stopped_after} of {STEPS}"):
        train(windows, params, tmp_path, at=stopped_after - 1, what=stop)
    resumed, points = train(windows, params, tmp_path)
    assert same_bits(resumed, whole[0])
    assert min(step for step, _ in points.all) > stopped_after


def test_a_crash_goes_on_from_the_last_save(windows, params, whole, tmp_path):
    class Crash(Exception):
        pass

    def crash():
        raise Crash

    with pytest.raises(Crash):
        train(windows, params, tmp_path, at=9, what=crash)
    assert checkpoints.load_last(tmp_path).about["step"] == 9
    assert same_bits(train(windows, params, tmp_path)[0], whole[0])


def test_a_truncated_state_falls_back_to_the_one_before(windows, params, whole, tmp_path, caplog):
    with pytest.raises(Interrupted):
        train(windows, params, tmp_path, at=9, what=lambda: os.kill(os.getpid(), signal.SIGTERM))
    last = tmp_path / checkpoints.LAST
    last.write_bytes(last.read_bytes()[:-7])
    resumed, _ = train(windows, params, tmp_path)
    assert str(last) in caplog.text
    assert same_bits(resumed, whole[0])


def test_a_full_disk_keeps_the_state_before(windows, params, whole, tmp_path, monkeypatch):
    real, calls = checkpoints.save_file, []

    def full(tensors, file, metadata):
        calls.append(file)
        real(tensors, file, metadata=metadata)
        if len(calls) == 9:
            Path(file).write_bytes(Path(file).read_bytes()[:100])
            raise SafetensorError("I/O error: No space left on device")  # what safetensors raises

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(CheckpointError, match=r"cannot be written .*No space.*make room"):
        train(windows, params, tmp_path)
    monkeypatch.undo()
    assert not list(tmp_path.glob("*.tmp"))
    assert checkpoints.load_last(tmp_path).about["step"] == 7  # saves 1..8 are those of steps 0..7
    assert same_bits(train(windows, params, tmp_path)[0], whole[0])


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(windows, params, tmp_path):
    with pytest.raises(NotFinite, match=r"step 9: the loss is not finite.*learning rate.*100\d\d_0.*kept in"):
        train(windows, params, tmp_path, at=9, what=lambda: float("nan"))
    kept = checkpoints.load_last(tmp_path)
    assert kept.about["step"] == 9
    assert all(torch.isfinite(value).all() for value in kept.tensors.values())


def test_weights_that_are_not_finite_are_neither_saved_nor_scored(windows, params, tmp_path, monkeypatch):
    real = Trainer.step

    def poisoned(self, batch, step):
        losses = real(self, batch, step)
        if step == 9:  # a finite loss whose gradient was not
            self.task.network.positions.data[0, 0] = float("nan")
        return losses

    monkeypatch.setattr(Trainer, "step", poisoned)
    with pytest.raises(NotFinite, match=r"step 10: the weights positions are not finite"):
        train(windows, params, tmp_path)
    kept = checkpoints.load_last(tmp_path)
    assert kept.about["step"] == 9
    assert all(torch.isfinite(value).all() for value in kept.tensors.values())


def test_more_processes_than_windows_in_a_batch(windows, params, tmp_path):
    network, clues = new_classifier(windows, params)
    ranks = Ranks(0, 9, torch.device("cpu"))
    settings = Settings(params.classifier, params.compute, params.checkpoint, 0, {})
    with pytest.raises(TrainingError, match="batch 8 is smaller than the 9 processes"):
        Trainer(ClassifierTask(network, clues, windows, params, ranks), Data(windows, windows.indexes("train")),
                settings, ranks, Points(), tmp_path)  # fmt: skip


def test_other_params_are_refused_by_name(tmp_path):
    checkpoints.save_last(tmp_path, {"x": torch.zeros(2)}, {"identity": {"clues.count": 2}})
    found = checkpoints.load_last(tmp_path)
    with pytest.raises(CheckpointError, match=r"clues\.count is 2 there and 3 now: put it back"):
        checkpoints.check_same(found.about["identity"], {"clues.count": 3}, tmp_path, "put it back")


def test_course_of_the_learning_rate(params):
    course = params.classifier.model_copy(update={"steps": 100, "warmup": 0.15, "learning_rate": 1e-3})
    rates = [learning_rate(step, course) for step in range(100)]
    assert rates[14] == pytest.approx(course.learning_rate)
    assert max(rates) == pytest.approx(course.learning_rate)
    assert all(a < b for a, b in pairwise(rates[:15]))
    assert all(a > b for a, b in pairwise(rates[15:]))
    assert rates[-1] == pytest.approx(course.final_learning_rate, rel=0.2)


def test_draws_depend_on_seed_step_and_rank():
    drawn = set()
    for numbers in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]:
        seed_draws(*numbers)
        drawn.add(torch.rand(()).item())
    assert len(drawn) == 4
    seed_draws(0, 1, 0)
    assert torch.rand(()).item() in drawn


def test_handlers_come_back_after_training():
    before = signal.getsignal(signal.SIGTERM)
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wished
    assert signal.getsignal(signal.SIGTERM) is before


def test_clipping_bounds_the_step(windows, params, tmp_path):
    clipped = params.compute.model_copy(update={"clip_norm": 1e-9})
    short = params.classifier.model_copy(update={"steps": 2, "validate_every": 2})
    one, _ = train(windows, params.model_copy(update={"classifier": short, "compute": clipped}), tmp_path / "a")
    other, _ = train(windows, params.model_copy(update={"classifier": short}), tmp_path / "b")
    start, _ = new_classifier(windows, params)

    def travelled(trained):
        weights = checkpoints.split(trained, "network/")
        return sum((weights[name] - value).abs().sum().item() for name, value in start.state_dict().items())

    assert travelled(one) < 0.5 * travelled(other)


def test_bf16_keeps_clues_and_weights_in_fp32(windows, params, tmp_path):
    mixed = params.compute.model_copy(update={"precision": "bf16"})
    trained, points = train(windows, params.model_copy(update={"compute": mixed}), tmp_path)
    assert {value.dtype for value in trained.values()} == {torch.float32}
    assert points.all[STEPS, "loss/classification"] < 0.85 * math.log(2)


def test_without_a_compiler_training_goes_on_with_one_line(monkeypatch, caplog, params):
    def none(_):
        raise RuntimeError("no compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", none)
    network = torch.nn.Linear(2, 2)
    assert wrapped(network, params.compute.model_copy(update={"compile": True}), ALONE) is network
    assert [record.message.count("\n") for record in caplog.records] == [0]
    assert "(no compiler)" in caplog.text


def test_a_score_that_is_not_a_number_chooses_nothing(windows, params, tmp_path):
    network, clues = new_classifier(windows, params)
    task = ClassifierTask(network, clues, windows, params, ALONE)
    task.select = "mean_average_precision"
    settings = settings_of(params)
    optimiser, average = torch.optim.AdamW(network.parameters()), WeightAverage(network, 0.0)
    state = TrainingState(tmp_path, task, optimiser, average, settings, ALONE)
    state.scored(None, 3)
    state.scored(float("nan"), 5)
    with pytest.raises(TrainingError, match="mean_average_precision was never a number"):
        state.chosen()
    state.scored(0.25, 7)
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        network.positions.add_(1.0)
    state.scored(0.2, 9)
    state.scored(float("nan"), 11)
    chosen = state.chosen()
    assert (chosen.step, chosen.score) == (7, 0.25)
    torch.testing.assert_close(chosen["network/positions"], kept["positions"], rtol=0, atol=0)
