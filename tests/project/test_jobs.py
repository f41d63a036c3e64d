"""The Slurm file, with stand-ins for Slurm's commands: the command line it makes, and when it queues itself again."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from locations import PROJECT

JOB = PROJECT / "jobs" / "slurm.sbatch"


@pytest.fixture
def cluster(tmp_path):
    """A folder with stand-ins: `scontrol` keeps what it was asked, `srun` ends with the status in a file."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "scontrol").write_text(
        f'#!/bin/bash\necho "$@" >> {tmp_path}/asked\n[ "$1" = show ] && echo node7\ntrue\n'
    )
    (tools / "srun").write_text(f"#!/bin/bash\n[ -e {tmp_path}/long ] && sleep 2\nexit $(cat {tmp_path}/status)\n")
    (tools / "scancel").write_text(f'#!/bin/bash\necho scancel "$@" >> {tmp_path}/asked\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    (tmp_path / "status").write_text("0")
    return tmp_path


def environment_of(folder: Path, **more: str) -> dict[str, str]:
    return {
        **os.environ, "PATH": f"{folder}/tools:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "41", "SLURM_GPUS_ON_NODE": "8",
        **more,
    }  # fmt: skip


def submit(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess:
    line = ["bash", str(JOB), *arguments]
    return subprocess.run(line, env=environment_of(folder, **more), capture_output=True, text=True, timeout=30)


def test_command_line(cluster):
    done = submit(cluster, "train_classifier", "pastis", CLUEMAP_DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        *("srun", "--kill-on-bad-exit=1", "torchrun", "--nnodes", "2", "--nproc-per-node", "8"),
        *("--shutdown-timeout", "170"),
        *("--rdzv-backend", "c10d", "--rdzv-id", "41", "--rdzv-endpoint", "node7:20041"),
        *("src/train_classifier.py", "--dataset", "pastis"),
    ]


def test_defaults_are_one_node_of_eight_gpus_and_requeue():
    text = JOB.read_text()
    for option in ("--nodes=1", "--gpus-per-node=8", "--requeue", "--signal=B:TERM@180"):
        assert f"#SBATCH {option}\n" in text


def test_the_command_line_of_a_map(cluster):
    done = submit(cluster, "predict", "--model", "a model", "--out", "map.tif", CLUEMAP_DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("src/predict.py --model a model --out map.tif\n")
    (cluster / "status").write_text("1")
    assert submit(cluster, "predict", "--out", "map.tif").returncode == 1  # a failure, not a stop
    assert "requeue" not in (cluster / "asked").read_text()


def test_missing_arguments_are_named(cluster):
    assert "which stage" in submit(cluster).stderr
    assert "which data set" in submit(cluster, "make_cams").stderr


def test_a_clean_stop_is_queued_again_and_a_failure_is_not(cluster):
    (cluster / "status").write_text("1")
    assert submit(cluster, "train_classifier", "pastis").returncode == 1
    assert "requeue" not in (cluster / "asked").read_text()
    mark = cluster / "out" / "pastis" / ".state" / "train_classifier" / "interrupted"
    mark.parent.mkdir(parents=True)
    mark.touch()
    assert submit(cluster, "train_classifier", "pastis").returncode == 0
    assert "requeue 41" in (cluster / "asked").read_text()


def test_a_job_that_slurm_ends_tells_its_ranks_and_is_queued_again(cluster):
    (cluster / "status").write_text("1")
    (cluster / "long").touch()
    job = subprocess.Popen(["bash", str(JOB), "make_cams", "pastis"], env=environment_of(cluster), stdout=-1, stderr=-1)
    assert job.stdout.readline()  # the command line: the ranks are being started
    time.sleep(0.5)
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=30)
    assert job.returncode == 0
    asked = (cluster / "asked").read_text()
    assert "scancel --signal=TERM 41" in asked
    assert "requeue 41" in asked
