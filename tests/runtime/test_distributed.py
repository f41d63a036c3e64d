"""Several processes, and processes that are killed: the real stage script under torchrun and gloo, as a user has it."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
import torch.distributed as dist

from cluemap.data.batches import batch_indexes
from cluemap.errors import TrainingError
from cluemap.model.storage import checkpoints
from cluemap.runtime.distributed import Ranks, join, launched, torchrun_command, wanted_processes
from cluemap.runtime.launcher import killed
from cluemap.training.training_state import TrainingState

MODEL = Path("out/tiny/train_classifier/model/classifier.safetensors")
STATE = Path("out/tiny/.state/train_classifier")


def weights(root: Path) -> dict[str, torch.Tensor]:
    return checkpoints.load(root / MODEL).tensors


def curves(root: Path) -> dict[tuple[str, int], list[float]]:
    """Every point in the run store: (curve, step) -> its values, which should be one."""
    found: dict[tuple[str, int], list[float]] = {}
    with sqlite3.connect(root / "mlflow.db") as store:
        for key, step, value in store.execute("select key, step, value from metrics"):
            found.setdefault((key, step), []).append(value)
    return found


def statuses(root: Path) -> list[str]:
    with sqlite3.connect(root / "mlflow.db") as store:
        return [status for (status,) in store.execute("select status from runs order by start_time")]


def start(root: Path, **more: str) -> subprocess.Popen:
    return subprocess.Popen(
        tiny.command("train_classifier", root),
        env=tiny.environment(root, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def saved_step(root: Path) -> int:
    try:
        return checkpoints.load(root / STATE / checkpoints.LAST).about["step"]
    except Exception:
        return -1


def wait_for_step(root: Path, step: int, process: subprocess.Popen) -> None:
    end = time.monotonic() + 300
    while saved_step(root) < step:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training that was never disturbed, in one process."""
    root = tiny.make_project(tmp_path_factory.mktemp("whole"))
    tiny.run("train_classifier", root)
    return root


def test_shares_of_the_ranks_are_together_the_batch_of_one_process():
    for world in (2, 3, 4, 8):
        shares = [batch_indexes(17, 8, 5, seed=3, rank=rank, world=world) for rank in range(world)]
        assert sorted(torch.tensor([i for share in shares for i in share]).tolist()) == sorted(
            batch_indexes(17, 8, 5, seed=3).tolist()
        )


def test_the_count_of_processes_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("CLUEMAP_PROCESSES", "3")
    assert wanted_processes() == 3
    monkeypatch.setenv("CLUEMAP_PROCESSES", "many")
    with pytest.raises(TrainingError, match="CLUEMAP_PROCESSES is 'many'"):
        wanted_processes()
    monkeypatch.delenv("CLUEMAP_PROCESSES")
    assert wanted_processes() == max(1, torch.cuda.device_count())


def test_command_line_of_torchrun():
    line = torchrun_command("src/train_classifier.py", ["--dataset", "demo"], 8)
    assert Path(line[1]).name == "launcher.py"
    assert "--nproc-per-node=8" in line
    assert line[-3:] == ["src/train_classifier.py", "--dataset", "demo"]


@pytest.mark.parametrize("stray", [{"LOCAL_RANK": "0"}, {"RANK": "3"}, {"RANK": "1", "WORLD_SIZE": "2"}])
def test_leftovers_of_another_launch_are_no_launch(monkeypatch, stray):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in stray.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CLUEMAP_DEVICE", "cpu")
    assert not launched()
    ranks = join()
    assert (ranks.rank, ranks.world) == (0, 1)


@pytest.mark.slow
def test_an_error_under_several_processes_is_all_that_is_said(tmp_path):
    tiny.write_params(tmp_path / "params.yaml")  # and no windows
    done = tiny.run("train_classifier", tmp_path, check=False, CLUEMAP_PROCESSES="2", LOCAL_RANK="0")
    said = (done.stdout + done.stderr).splitlines()
    assert done.returncode == 1
    assert len(said) == 1, said
    assert said[0].startswith("train_classifier: error:")
    assert "card.json is missing" in said[0]


def test_a_killed_rank_is_named():
    ends = {0: -signal.SIGTERM, 1: -signal.SIGKILL, 2: 2}
    assert killed(ends.items()) == ["process 1 of the training was ended by SIGKILL: was there memory enough for it?"]


def compare_on_a_rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    ranks = Ranks(rank, 2, torch.device("cpu"))
    clues = {"clues/positive": torch.ones(3, 2, 5), "clues/negative": torch.ones(3, 2, 5)}
    same = ranks.alike(clues)
    if rank == 1:
        clues["clues/negative"][2, 1, 4] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))  # one bit
    Path(folder, f"{rank}.json").write_text(json.dumps([same, ranks.alike(clues)]))
    dist.destroy_process_group()


@pytest.mark.slow
def test_one_differing_bit_between_two_ranks_is_seen_on_both(tmp_path):
    torch.multiprocessing.spawn(compare_on_a_rank, (str(tmp_path),), nprocs=2)
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)] == [[True, False]] * 2


def test_clues_that_differ_between_ranks_stop_the_training():
    class Differing(Ranks):
        def alike(self, tensors):
            return False

    state = TrainingState.__new__(TrainingState)
    state.ranks, state.task = Differing(0, 2, torch.device("cpu")), SimpleNamespace(state=dict)
    with pytest.raises(TrainingError, match="step 7: the clues differ"):
        state.check_alike(7)


@pytest.mark.slow
def test_several_processes_write_the_cams_of_one(whole, tmp_path):
    """Batches of 5: with three processes one has no validation window at all."""
    folders = []
    for processes in (1, 3):
        root = tmp_path / str(processes)
        shutil.copytree(whole, root)
        tiny.run("make_cams", root, CLUEMAP_PROCESSES=str(processes))
        folders.append(root / "out/tiny/make_cams/cams")
    one, many = folders
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in many.iterdir())
    for name in (name for name in names if name.endswith(".npy")):
        maps, same = np.load(one / name), np.load(many / name)
        assert maps.reshape(len(maps), -1).any(axis=1).all(), name
        np.testing.assert_allclose(same, maps, atol=2e-3, err_msg=name)  # float16, other sizes of batches' tiles
    weights_of = lambda folder: json.loads((folder / "temporal_weights.json").read_text())
    np.testing.assert_allclose(weights_of(many)["sum"], weights_of(one)["sum"], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_give_what_one_gives(whole, tmp_path, processes):
    root = tiny.make_project(tmp_path)
    tiny.run("train_classifier", root, CLUEMAP_PROCESSES=str(processes))
    one, many = weights(whole), weights(root)
    assert one.keys() == many.keys()
    for name, value in one.items():
        scale = value.abs().max().clamp_min(1e-3)
        assert ((value - many[name]).abs().max() / scale).item() < 1e-4, name
    alone, together = curves(whole), curves(root)
    losses = [key for key in alone if key[0].startswith("loss/")]
    assert len(losses) == 5 * 3
    for key in losses:
        assert together[key] == pytest.approx(alone[key], rel=1e-4, abs=1e-6), key
    assert together["validation/clue_cam_miou", 30] == pytest.approx(alone["validation/clue_cam_miou", 30], abs=2e-3)
    assert statuses(root) == ["FINISHED"]


@pytest.mark.slow
def test_killed_five_times_and_stopped_once_ends_with_the_same_bits(whole, tmp_path):
    root = tiny.make_project(tmp_path)
    draw = random.Random(5)
    for step in sorted(draw.sample(range(1, 27), 5)):
        process = start(root)
        wait_for_step(root, step, process)
        process.kill()
        process.communicate()
    process = start(root)
    # the killed one may have come further than asked: a signal that comes before this one's first step finds no handler
    wait_for_step(root, min(max(27, saved_step(root) + 1), 30), process)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode in (130, 0), said
    if process.returncode == 130:
        assert "saved" in said
        tiny.run("train_classifier", root)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(root)[name]), name
    assert statuses(root) == ["FINISHED"]
    points, expected = curves(root), curves(whole)
    assert {key for key, values in points.items() if len(values) != 1} == set()
    assert points.keys() == expected.keys()
    assert all(points[key] == expected[key] for key in expected if key[0].startswith(("loss/", "clues/")))


@pytest.mark.slow
def test_goes_on_with_another_number_of_processes(whole, tmp_path):
    root = tiny.make_project(tmp_path)
    process = start(root, CLUEMAP_PROCESSES="2")
    wait_for_step(root, 9, process)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=180)
    assert process.returncode != 0, said
    assert 9 <= saved_step(root) < 30
    assert (root / STATE / "interrupted").exists()
    assert statuses(root) == ["KILLED"]
    tiny.run("train_classifier", root)
    assert statuses(root) == ["FINISHED"]
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(root)[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_dead_rank_takes_the_job_down_and_a_new_start_goes_on(whole, tmp_path):
    root = tiny.make_project(tmp_path)
    process = start(root, CLUEMAP_PROCESSES="2")
    wait_for_step(root, 5, process)
    ranks = [pid for pid in descendants(process.pid) if is_rank(pid)]
    os.kill(ranks[-1], signal.SIGKILL)
    process.communicate(timeout=180)
    assert process.returncode != 0
    assert not any(is_rank(pid) for pid in ranks)
    tiny.run("train_classifier", root)
    assert statuses(root) == ["FINISHED"]
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(root)[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_two_processes_closes_the_run_as_failed(tmp_path):
    root = tiny.make_project(tmp_path, {"classifier": {"learning_rate": 1e18, "final_learning_rate": 1e18}})
    done = tiny.run("train_classifier", root, check=False, CLUEMAP_PROCESSES="2")
    assert done.returncode != 0
    assert "not finite" in done.stderr
    assert statuses(root) == ["FAILED"]
    assert checkpoints.load_last(root / STATE) is not None


@pytest.mark.slow
def test_a_store_that_is_down_does_not_stop_training(whole, tmp_path):
    root = tiny.make_project(tmp_path)
    done = tiny.run("train_classifier", root, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert "resend.py" in done.stdout + done.stderr
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(root)[name]), name
    assert json.loads((root / "out/tiny/train_classifier/run.json").read_text())["run_id"] is None
    sent = subprocess.run(
        [*tiny.command("resend", root)[:2]], env=tiny.environment(root), capture_output=True, text=True, timeout=120
    )
    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert statuses(root) == ["FINISHED"]
    assert curves(root).keys() == curves(whole).keys()
    assert json.loads((root / "out/tiny/train_classifier/run.json").read_text())["run_id"]


def descendants(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def is_rank(pid: int) -> bool:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return False
    return any(part.endswith("train_classifier.py") for part in line) and not line[1].endswith("launcher.py")
