"""Checkpoint files: whole or not there, whatever happens while they are written."""

import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch
from locations import PROJECT
from safetensors import SafetensorError

from cluemap.errors import CheckpointError
from cluemap.model.storage import checkpoints

WRITER = """
import sys, torch
from pathlib import Path
from cluemap.model.storage import checkpoints
folder = Path(sys.argv[1])
found = checkpoints.load_last(folder)
step = found.about["step"] if found else 0
while True:
    step += 1
    checkpoints.save_last(folder, {"x": torch.full((211, 1013), float(step))}, {"step": step})
"""


def test_round_trip(tmp_path):
    tensors = {"a/b": torch.arange(6).reshape(2, 3).T, "c": torch.tensor(1.5)}
    checkpoints.save(tmp_path / "x.safetensors", tensors, {"step": 3, "params": {"k": [1]}})
    found = checkpoints.load(tmp_path / "x.safetensors")
    assert found.about == {"step": 3, "params": {"k": [1]}}
    assert all(torch.equal(found.tensors[name], value) for name, value in tensors.items())


def test_the_same_training_gives_the_same_file(tmp_path):
    for name in ("one", "two"):
        checkpoints.save(tmp_path / name, {"b": torch.ones(3), "a": torch.zeros(2)}, {"z": 1, "y": 2})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.slow
def test_killed_in_the_middle_of_writing_there_is_always_a_whole_one(tmp_path):
    draw, last = random.Random(3), 0
    for _ in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], env={"PYTHONPATH": str(PROJECT / "src"), "PATH": ""}
        )
        end = time.monotonic() + 120
        while time.monotonic() < end and (checkpoints.load_last(tmp_path) or ((), {"step": 0}))[1]["step"] <= last:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.05))
        writer.kill()
        writer.wait()
        found = checkpoints.load_last(tmp_path)
        assert found is not None
        assert found.about["step"] > last
        assert (found.tensors["x"] == found.about["step"]).all()
        last = found.about["step"]


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_a_damaged_file_gives_the_one_before_and_names_itself(tmp_path, caplog, kept):
    for step in (1, 2):
        checkpoints.save_last(tmp_path, {"x": torch.full((50,), float(step))}, {"step": step})
    last = tmp_path / checkpoints.LAST
    last.write_bytes(last.read_bytes()[:kept])
    assert checkpoints.load_last(tmp_path).about["step"] == 1
    assert str(last) in caplog.text
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoints.load(last)


def test_a_damaged_last_never_takes_the_place_of_a_good_previous(tmp_path, monkeypatch):
    for step in (1, 2):
        checkpoints.save_last(tmp_path, {"x": torch.ones(50)}, {"step": step})
    (tmp_path / checkpoints.LAST).write_bytes(b"torn")

    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(CheckpointError, match="cannot be written"):
        checkpoints.save_last(tmp_path, {"x": torch.ones(50)}, {"step": 3})
    assert checkpoints.load_last(tmp_path).about["step"] == 1


def test_a_disk_that_takes_no_more_keeps_what_is_there(tmp_path):
    checkpoints.save(tmp_path / "x", {"x": torch.ones(5)}, {"step": 1})
    child = os.fork()
    if not child:  # the limit is of a process
        said = "nothing"
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
            checkpoints.save(tmp_path / "x", {"x": torch.ones(50_000)}, {"step": 2})
        except CheckpointError as error:
            said = str(error)
        finally:
            os._exit(7 if "x cannot be written" in said else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert checkpoints.load(tmp_path / "x").about["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_no_state_at_all(tmp_path):
    assert checkpoints.load_last(tmp_path) is None
    with pytest.raises(CheckpointError, match="is missing"):
        checkpoints.load(tmp_path / "none.safetensors")


def test_optimiser_moments_come_back():
    weight = torch.nn.Parameter(torch.ones(3, 5))
    one = torch.optim.AdamW([weight], fused=True)
    for _ in range(3):
        weight.grad = torch.rand(3, 5)
        one.step()
    kept = checkpoints.optimiser_tensors(one)
    other = torch.optim.AdamW([weight], fused=True)
    checkpoints.restore_optimiser(other, kept)
    again = checkpoints.optimiser_tensors(other)
    assert kept.keys() == again.keys() == {f"optimiser/0/{name}" for name in ("step", "exp_avg", "exp_avg_sq")}
    assert all(torch.equal(kept[name], again[name]) for name in kept)
