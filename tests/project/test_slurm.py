"""jobs/slurm.sbatch on a real Slurm: a controller and two nodes on the loopback, trained on, stopped, queued again.

Wants Debian's slurmctld, slurmd, slurm-client and munge, and root; skipped where they are not installed. The stop's
signal is sent by scancel to the job's shell, as the time limit's is (`--signal=B:TERM@180`), without its minutes.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import tiny
from locations import PROJECT

TOOLS = ("slurmctld", "slurmd", "munged", "sbatch", "scontrol")
MISSING = [tool for tool in TOOLS if not shutil.which(tool)]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (Debian: slurm-wlm, munge)"),
    pytest.mark.skipif(os.getuid() != 0, reason="Slurm's daemons want root"),
]
OVERRIDES: dict[str, dict] = {
    "classifier": {"steps": 150, "validate_every": 75},  # long enough to be stopped
    "checkpoint": {"minutes": 0.0},
    "compute": {"inference_batch": 3},
}
CONF = """
ClusterName=small
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool-%n
SlurmctldPidFile={home}/controller.pid
SlurmdPidFile={home}/%n.pid
SlurmctldPort={ports[0]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
GresTypes=gpu
MpiDefault=none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 Gres=gpu:8 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 Gres=gpu:8 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture
def slurm() -> Iterator[dict[str, str]]:
    """The environment in which Slurm's commands find the cluster; its daemons end with the test."""
    home = Path("/tmp") / f"slurm-{os.getpid()}"  # short: a socket's path has few letters
    (home / "state").mkdir(parents=True, mode=0o755)
    environment = {**os.environ, "SLURM_CONF": str(home / "slurm.conf")}
    (home / "slurm.conf").write_text(CONF.format(host=socket.gethostname(), home=home, ports=free_ports(3)))
    (home / "gres.conf").write_text(  # stand-ins for GPUs: Slurm wants a device file each
        "Name=gpu File=/dev/tty[0-7]\n"
    )
    (home / "key").write_bytes(os.urandom(1024))
    (home / "key").chmod(0o400)
    munge = ["munged", "--foreground", "--force", f"--key-file={home}/key", f"--socket={home}/munge.socket",
             f"--pid-file={home}/munge.pid", f"--log-file={home}/munge.log", f"--seed-file={home}/seed"]  # fmt: skip
    daemons = []
    try:
        for line in (munge, ["slurmctld", "-D"], ["slurmd", "-D", "-N", "n1"], ["slurmd", "-D", "-N", "n2"]):
            log = (home / f"{len(daemons)}.out").open("w")
            daemons.append(subprocess.Popen(line, env=environment, stdout=log, stderr=log))
            time.sleep(1.5)
        wait_for(lambda: ask(environment, "sinfo", "-h", "-o", "%D %t").split() == ["2", "idle"], 60)
        yield environment
    finally:
        with suppress(subprocess.TimeoutExpired, AssertionError):
            ask(environment, "scancel", "--user=root")  # of a test that was broken off
            wait_for(lambda: not ask(environment, "squeue", "-h").strip(), 20)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(timeout=30)
        shutil.rmtree(home)


def ask(environment: dict[str, str], *line: str) -> str:
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60, check=False).stdout


def wait_for(happened: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.3)


@pytest.fixture
def project(tmp_path) -> Path:
    root = tiny.make_project(tmp_path / "project", OVERRIDES)
    (root / "src").symlink_to(PROJECT / "src")
    return root


def submit(project: Path, slurm: dict[str, str], stage: str) -> str:
    more = {"CLUEMAP_PROCESSES": "1", "CLUEMAP_HEAD": "127.0.0.1"}  # the nodes' names are no addresses here
    environment = {**tiny.environment(project, **more), "SLURM_CONF": slurm["SLURM_CONF"]}
    line = ["sbatch", "--parsable", "--nodes=2", "--cpus-per-task=1", str(PROJECT / "jobs/slurm.sbatch"), stage, "tiny"]
    done = subprocess.run(line, cwd=project, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def state_of(slurm: dict[str, str], job: str) -> dict[str, str]:
    words = ask(slurm, "scontrol", "show", "job", job).split()
    return dict(word.split("=", 1) for word in words if "=" in word)


def waits_again(state: dict[str, str]) -> bool:
    """Whether a job was queued again and its first try is over; until then Slurm may call it failed."""
    return state.get("Restarts") == "1" and state.get("JobState") == "PENDING"


def finish(project: Path, slurm: dict[str, str], job: str) -> None:
    wait_for(lambda: state_of(slurm, job).get("JobState") in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"), 300)
    log = "\n".join(file.read_text() for file in project.glob(f"slurm-*-{job}.log"))
    assert state_of(slurm, job)["JobState"] == "COMPLETED", log


def test_a_training_is_stopped_queued_again_and_ends_with_the_bits_of_one_never_stopped(project, slurm, tmp_path):
    """Two nodes of one process each; beside it the same two processes on one machine without Slurm."""
    expected = tiny.make_project(tmp_path / "alone", OVERRIDES)
    tiny.run("train_classifier", expected, CLUEMAP_PROCESSES="2")
    tiny.run("make_cams", expected, CLUEMAP_PROCESSES="1")

    job = submit(project, slurm, "train_classifier")
    saved = project / "out/tiny/.state/train_classifier"
    wait_for(lambda: list(saved.glob("last*")), 200)
    ask(slurm, "scancel", "--batch", "--signal=TERM", job)
    wait_for(lambda: waits_again(state_of(slurm, job)), 120)
    ask(slurm, "scontrol", "update", f"jobid={job}", "StartTime=now")  # Slurm waits two minutes otherwise
    finish(project, slurm, job)
    model = "out/tiny/train_classifier/model/classifier.safetensors"
    assert (project / model).read_bytes() == (expected / model).read_bytes()

    finish(project, slurm, submit(project, slurm, "make_cams"))
    for file in (expected / "out/tiny/make_cams/cams").iterdir():
        assert (project / "out/tiny/make_cams/cams" / file.name).read_bytes() == file.read_bytes(), file.name
