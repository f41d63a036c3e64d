"""The Slurm file, with stand-ins for Slurm's commands: the command line it makes, and when it queues itself again."""

import os
import subprocess
from pathlib import Path

import pytest

JOB = Path(__file__).parents[1] / "jobs" / "slurm.sbatch"


@pytest.fixture
def cluster(tmp_path):
    """A folder with stand-ins: `scontrol` keeps what it was asked, `srun` ends with the status in a file."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "scontrol").write_text(
        f'#!/bin/bash\necho "$@" >> {tmp_path}/asked\n[ "$1" = show ] && echo node7\ntrue\n'
    )
    (tools / "srun").write_text(f"#!/bin/bash\nexit $(cat {tmp_path}/status)\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    (tmp_path / "status").write_text("0")
    return tmp_path


def submit(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess:
    environment = {
        **os.environ, "PATH": f"{folder}/tools:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "41", "SLURM_GPUS_ON_NODE": "8",
        **more,
    }  # fmt: skip
    return subprocess.run(["bash", str(JOB), *arguments], env=environment, capture_output=True, text=True, timeout=30)


def test_command_line(cluster):
    done = submit(cluster, "train_classifier", "pastis", CLUEMAP_DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        *("srun", "--kill-on-bad-exit=1", "torchrun", "--nnodes", "2", "--nproc-per-node", "8"),
        *("--rdzv-backend", "c10d", "--rdzv-id", "41", "--rdzv-endpoint", "node7:29500"),
        *("src/train_classifier.py", "--dataset", "pastis"),
    ]


def test_defaults_are_one_node_of_eight_gpus_and_requeue():
    text = JOB.read_text()
    for option in ("--nodes=1", "--gpus-per-node=8", "--requeue", "--signal=TERM@180"):
        assert f"#SBATCH {option}\n" in text


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
