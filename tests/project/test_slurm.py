"""jobs/slurm.sbatch on a real Slurm: a controller and two nodes on the loopback, a training and a map at once.

Wants Debian's slurmctld, slurmd, slurm-client and munge, and root; skipped where they are not installed. Both jobs are
stopped by their time limit: once each has saved something, the limit is set to less than the warning's 180 s plus the
half minute between two looks of the controller, which then signals them itself.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest
import tiny
from locations import PROJECT
from random_segmenter import BANDS, write_model
from scenes import write_raster, write_scene

TOOLS = ("slurmctld", "slurmd", "munged", "sbatch", "scontrol")
MISSING = [tool for tool in TOOLS if not shutil.which(tool)]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (Debian: slurm-wlm, munge)"),
    pytest.mark.skipif(os.getuid() != 0, reason="Slurm's daemons want root"),
]
OVERRIDES: dict[str, dict] = {
    "classifier": {"steps": 30, "validate_every": 15},
    "checkpoint": {"minutes": 0.0},
    "compute": {"inference_batch": 3},
}
# The stages' scripts, held in a job's first try until its signal comes: the training at a step, the map after a tile.
HELD_TRAINING = """
import os, sys, time
sys.path[:0] = [{src!r}]
import train_classifier as script
from cluemap.stages.stage import run_stage
from cluemap.training.trainer import Trainer
look = Trainer._look
def held(self, looked, stop):
    while looked[-1][0] == 17 and "SLURM_RESTART_COUNT" not in os.environ and not stop.wished:
        time.sleep(0.05)
    return look(self, looked, stop)
Trainer._look = held
sys.exit(run_stage("train_classifier", "", script.work))
"""
HELD_MAP = """
import os, sys, time
sys.path[:0] = [{src!r}]
import predict
from cluemap.mapping.map_canvas import TileFiles
fill = TileFiles.fill
def held(self, *given):
    fill(self, *given)
    if "SLURM_RESTART_COUNT" not in os.environ:
        time.sleep(600)
TileFiles.fill = held
sys.exit(predict.main())
"""
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
SlurmdParameters=config_overrides
GresTypes=gpu
MpiDefault=none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 Gres=gpu:8 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 Gres=gpu:8 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture(scope="module")
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


def wait_for(happened: Callable[[], object], seconds: float, job: "Job | None" = None) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"it took too long\n{job.log if job else ''}"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """A project with a model and a scene, which makes the same as the jobs without Slurm and without a stop."""
    return make_project(tmp_path_factory.mktemp("slurm") / "alone")


def make_project(root: Path) -> Path:
    tiny.make_project(root, OVERRIDES)
    generator = np.random.default_rng(3)
    for day in ("2019-03-01", "2019-06-01", "2019-09-01"):
        bands = generator.integers(1, 4000, (3, 47, 61))
        write_raster(root / "scene/images" / f"{day}.tif", bands, names=BANDS)
    images = {"kind": "files", "path": "images", "bands": list(BANDS)}
    write_scene(root / "scene", images, labels=None, classes=None)
    write_model(root / "random.safetensors", BANDS)
    return root


def map_options(root: Path) -> list[str]:
    options = {"--model": "random.safetensors", "--scene": "scene", "--out": "map.tif"}
    return [*(part for name, file in options.items() for part in (name, str(root / file))), "--tile", "23"]


def make_alone(root: Path) -> None:
    """The training by two processes, CAMs and the map by one."""
    tiny.run("train_classifier", root, CLUEMAP_PROCESSES="2")
    tiny.run("make_cams", root, CLUEMAP_PROCESSES="1")
    line = [sys.executable, str(PROJECT / "src/predict.py"), *map_options(root)]
    subprocess.run(line, env=tiny.environment(root, CLUEMAP_PROCESSES="1"), check=True, capture_output=True)


class Job:
    """A job on both nodes, one process each."""

    def __init__(self, slurm: dict[str, str], root: Path, *arguments: str):
        more = {"CLUEMAP_PROCESSES": "1", "CLUEMAP_HEAD": "127.0.0.1"}  # the nodes' names are no addresses here
        environment = {**tiny.environment(root, **more), "SLURM_CONF": slurm["SLURM_CONF"]}
        options = ["--nodes=2", "--cpus-per-task=1", "--gpus-per-node=4"]  # two jobs fit side by side
        line = ["sbatch", "--parsable", *options, str(PROJECT / "jobs/slurm.sbatch"), *arguments]
        self.submitted, self.slurm, self.root = time.monotonic(), slurm, root
        done = subprocess.run(line, cwd=root, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        self.number = done.stdout.strip()

    @property
    def state(self) -> dict[str, str]:
        words = ask(self.slurm, "scontrol", "show", "job", self.number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    @property
    def log(self) -> str:
        return "\n".join(file.read_text() for file in self.root.glob(f"slurm-*-{self.number}.log"))

    def update(self, **settings: object) -> None:
        given = [f"{name}={value}" for name, value in settings.items()]
        ask(self.slurm, "scontrol", "update", f"jobid={self.number}", *given)

    def runs_out_of_time(self) -> None:
        """Two to three minutes are left from now on: less than the warning's and a look of the controller."""
        self.update(TimeLimit=int((time.monotonic() - self.submitted) // 60) + 3)

    def goes_on(self) -> None:
        """Wait until it was queued again and its first try is over (until then Slurm may call it failed); start it."""
        wait_for(self.waits_again, 200, self)
        self.update(TimeLimit=60)
        self.update(StartTime="now")  # Slurm waits two minutes otherwise

    def waits_again(self) -> bool:
        state = self.state
        return state.get("Restarts") == "1" and state.get("JobState") == "PENDING"

    def finish(self) -> None:
        ends = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
        wait_for(lambda: self.state.get("JobState") in ends, 300, self)
        assert self.state["JobState"] == "COMPLETED", self.log


@pytest.fixture(scope="module")
def jobs(slurm, alone, tmp_path_factory) -> dict[str, Job]:
    """A training and a map that their time limit stopped, queued again and finished."""
    root = make_project(tmp_path_factory.mktemp("slurm") / "project")
    (root / "src").mkdir()
    (root / "src/train_classifier.py").write_text(HELD_TRAINING.format(src=str(PROJECT / "src")))
    (root / "src/predict.py").write_text(HELD_MAP.format(src=str(PROJECT / "src")))
    (root / "src/make_cams.py").symlink_to(PROJECT / "src/make_cams.py")
    training = Job(slurm, root, "train_classifier", "tiny")
    mapping = Job(slurm, root, "predict", *map_options(root))
    wait_for(lambda: list((root / "out/tiny/.state/train_classifier").glob("last*")), 200, training)
    wait_for(lambda: list((root / ".map.tif.unfinished").glob("*/*.npz")), 200, mapping)
    for job in (training, mapping):
        job.runs_out_of_time()
    make_alone(alone)
    for job in (training, mapping):
        job.goes_on()
    for job in (training, mapping):
        job.finish()
    return {"training": training, "map": mapping}


def test_a_training_that_its_time_limit_stops_ends_with_the_bits_of_one_never_stopped(jobs, alone, slurm):
    """Two nodes of one process each; beside it the same two processes on one machine without Slurm."""
    job = jobs["training"]
    assert job.state["Restarts"] == "1"
    assert "stopped after step 18 of 30, saved" in job.log
    model = "out/tiny/train_classifier/model/classifier.safetensors"
    assert (job.root / model).read_bytes() == (alone / model).read_bytes()

    Job(slurm, job.root, "make_cams", "tiny").finish()
    for file in (alone / "out/tiny/make_cams/cams").iterdir():
        assert (job.root / "out/tiny/make_cams/cams" / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_map_that_its_time_limit_stops_has_the_bits_of_one_never_stopped(jobs, alone):
    job = jobs["map"]
    assert job.state["Restarts"] == "1"
    assert "going on with the map begun" in job.log
    made = [file.name for file in alone.glob("map*.[tc][is][fv]")]
    assert {"map.tif", "map_confidence.tif"} <= set(made)
    for name in made:
        assert (job.root / name).read_bytes() == (alone / name).read_bytes(), name
