"""A trial's processes: watched, ended, never lost; and which GPUs they get."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tuned

from cluemap.errors import TrainingError
from cluemap.experiments import pipelines
from cluemap.experiments.gpu_assignment import devices, processes, shares
from cluemap.experiments.pipelines import make_pipeline
from cluemap.tuning.trial import Running, Tail, leftovers, out_of_memory


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """Start a trial of the stand-in; gives it and the project's folder."""
    monkeypatch.setenv("CLUEMAP_ROOT", str(tmp_path))
    monkeypatch.setattr(pipelines, "ROOT", tmp_path)
    started = []

    def start(plan, share=None):
        root = tuned.make_project(tmp_path, plan)
        (root / "trial" / "0000").mkdir(parents=True)
        made = make_pipeline("tiny", root / "trial" / "0000", root / "windows", {}, root / "params.yaml")
        running = Running(made, ("train_classifier",), "train_classifier", f"token{tmp_path}", share or {})
        started.append(running)
        return running, root

    yield start
    for running in started:
        running.kill()


def finish(running, seconds=60.0):
    points, end = [], time.monotonic() + seconds
    while not running.done:
        assert time.monotonic() < end
        points += running.poll()
        time.sleep(0.01)
    return points


def wait_for(running, word, root):
    end = time.monotonic() + 60
    while not any(event[1].startswith(word) for event in tuned.events(root)):
        running.poll()
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
def test_points_are_read_as_they_are_written_and_no_process_is_left(begin):
    running, _ = begin({})
    points = finish(running)
    assert [point["step"] for point in points] == list(range(1, 19))
    assert running.status is None
    assert not leftovers(running.token)  # the stand-in leaves its rank behind


def test_a_crash_keeps_its_log(begin):
    running, _ = begin({"0": "raise"})
    finish(running)
    assert running.status == 1
    assert "the stand-in raises" in running.tail()
    assert not leftovers(running.token)


def test_a_stop_is_heard_within_one_step(begin):
    running, root = begin({"pace": 0.3})
    wait_for(running, "report", root)
    running.stop()
    finish(running)
    assert running.status == 130
    assert sum(event[1].startswith("report") for event in tuned.events(root)) <= 2
    assert not leftovers(running.token)


@pytest.mark.slow
def test_what_does_not_stop_is_killed(begin):
    running, root = begin({"0": "stubborn", "pace": 0.3})
    wait_for(running, "report", root)
    running.stop(0.5)
    finish(running)
    assert not leftovers(running.token)
    assert "done" not in [event[1] for event in tuned.events(root)]


PARENT = """
import sys, time
from pathlib import Path
from cluemap.experiments.pipelines import Pipeline
from cluemap.tuning.trial import Running
root = Path(sys.argv[1])
pipeline, stage = Pipeline("tiny", root / "trial" / "0000", root), "train_classifier"
running = Running(pipeline, (stage,), stage, sys.argv[2], {})
while True:
    running.poll()
    time.sleep(0.01)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a dead parent's children are told on Linux only")
def test_children_end_when_the_parent_is_killed(begin, tmp_path):
    running, root = begin({"pace": 0.3})
    token = f"killed{tmp_path}"
    source = {"PYTHONPATH": str(tuned.PROJECT / "src")}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(root), token], env=tuned.environment(root, **source))
    end = time.monotonic() + 120
    while not tuned.events(root):
        assert time.monotonic() < end
        time.sleep(0.05)
    stage = int(tuned.events(root)[0][2])
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    while Path(f"/proc/{stage}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{stage}").exists()
    assert leftovers(token)  # the stand-in's rank, of which it takes no care: the next try of this trial ends it
    Running(running.pipeline, (), "train_classifier", token, {})
    assert not leftovers(token)


def test_a_journal_is_read_to_its_end_after_it_was_removed(tmp_path):
    file = tmp_path / "journal.jsonl"
    tail = Tail(file)
    assert tail.read() == []
    with file.open("w") as handle:
        handle.write('{"kind":"start"}\n{"kind":"points","step":1,"values":{}}\n{"kind":"poi')
        handle.flush()
        assert [point["step"] for point in tail.read()] == [1]
        handle.write('nts","step":2,"values":{}}\nbroken\n')
    file.unlink()
    assert [point["step"] for point in tail.read()] == [2]


@pytest.mark.parametrize(
    "text", ["torch.OutOfMemoryError: CUDA out of memory.", "DefaultCPUAllocator: can't allocate memory"]
)
def test_out_of_memory_is_told_from_other_crashes(text):
    assert out_of_memory(f"Traceback\n{text}\n")
    assert not out_of_memory("Traceback\nValueError: memory of a shape\n")


@pytest.mark.parametrize("jobs", [1, 2, 3, 4])
def test_trials_at_once_have_gpus_of_their_own(monkeypatch, jobs):
    monkeypatch.delenv("CLUEMAP_DEVICE", raising=False)
    monkeypatch.delenv("CLUEMAP_PROCESSES", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,4,5")
    given = [share["CUDA_VISIBLE_DEVICES"].split(",") for share in shares(devices(), jobs)]
    assert sorted(name for part in given for name in part) == ["0", "1", "4", "5"]
    assert len(given) == jobs
    assert processes({"CUDA_VISIBLE_DEVICES": "4,5"}) == 2


def test_more_jobs_or_processes_than_gpus_are_refused(monkeypatch):
    with pytest.raises(TrainingError, match="--jobs 5 wants 5 GPUs, 4 are visible"):
        shares(["0", "1", "2", "3"], 5)
    monkeypatch.setenv("CLUEMAP_PROCESSES", "4")
    with pytest.raises(TrainingError, match="CLUEMAP_PROCESSES is 4 and each of 2 jobs has 2 GPUs"):
        shares(["0", "1", "2", "3"], 2)


def test_without_gpus_the_cores_are_shared_out(monkeypatch):
    monkeypatch.setenv("CLUEMAP_DEVICE", "cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CLUEMAP_PROCESSES", raising=False)
    assert devices() == []
    assert shares([], 1) == [{}]
    assert [int(share["OMP_NUM_THREADS"]) >= 1 for share in shares([], 2)] == [True, True]
