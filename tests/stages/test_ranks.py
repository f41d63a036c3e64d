"""make_cams and refine_masks under a real torchrun of two processes: the same bits, and a dead rank is made up for."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from locations import PROJECT
from ruamel.yaml import YAML
from tiny import pipeline

from cluemap.runtime.distributed import torchrun_command

__all__ = ["pipeline"]  # fixture
SMALL = """
import os, signal, sys
sys.path[:0] = [{src!r}]
from cluemap.runtime import distributed
from cluemap.stages import make_cams as cams, refine_masks as refine
from cluemap.training.learners import pixel_learners
pixel_learners.CHUNK = refine.CHUNK = 5  # windows: several chunks in a tiny data set
cams.SAVE_EVERY = 0.0
work, one_round, batch = cams._write, refine.one_round, cams.cams

def dies(when):
    if {dies} and os.environ.get("RANK") == "1" and when:
        os.kill(os.getpid(), signal.SIGKILL)

def second_round(features, masks, params, seed, *more):
    dies(seed == 1)
    print("a round", file=sys.stderr)
    return one_round(features, masks, params, seed, *more)

calls = []
def third_batch(*given):
    calls.append(1)
    dies(len(calls) == 3)
    print("a batch", file=sys.stderr)
    return batch(*given)

refine.one_round, cams.cams = second_round, third_batch
import {stage} as script
from cluemap.stages.stage import run_stage
sys.exit(run_stage({stage!r}, "", script.work))
"""
STOPPED = """
import os, signal, sys
sys.path[:0] = [{src!r}]
from cluemap.training.learners.network_learner import RoundTask
losses = RoundTask.losses

def killed(self, forward, batch, step):
    if step == 2:
        os.kill(os.getppid(), signal.SIGTERM)
        signal.sigtimedwait([], 2.0)  # torchrun passes it on to both ranks
    return losses(self, forward, batch, step)

RoundTask.losses = killed
""".format(src=str(PROJECT / "src"))


@pytest.fixture
def project(pipeline, tmp_path):
    """The tiny pipeline's outputs before both stages; batches of 3, the linear learner."""
    for name in ("prepare", "train_classifier", "make_masks"):
        shutil.copytree(pipeline / "out/tiny" / name, tmp_path / "out/tiny" / name)
    yaml = YAML()
    tree = yaml.load((pipeline / "params.yaml").read_text())
    tree["tiny"]["compute"] = {"inference_batch": 3}
    tree["tiny"]["refine"] = {"learner": "linear", "rounds": 2, "confidence": 0.4, "keep_probabilities": True}
    with (tmp_path / "params.yaml").open("w") as handle:
        yaml.dump(tree, handle)
    return tmp_path


def run(project: Path, stage: str, processes: int, dies: bool = False) -> subprocess.CompletedProcess:
    script = project / f"small_{stage}.py"
    script.write_text(SMALL.format(src=str(PROJECT / "src"), stage=stage, dies=dies))
    arguments = tiny.command(stage, project)[2:]
    line = (
        torchrun_command(str(script), arguments, processes)
        if processes > 1
        else [sys.executable, str(script), *arguments]
    )
    line = ["--shutdown-timeout=5" if part.startswith("--shutdown-timeout") else part for part in line]
    return subprocess.run(line, env=tiny.environment(project), capture_output=True, text=True, timeout=300)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.suffix in (".npy", ".json")}


@pytest.mark.slow  # seven processes load torch
@pytest.mark.parametrize(
    ("stage", "made", "unit", "together"),
    [("make_cams", "cams", "a batch", 6), ("refine_masks", "masks", "a round", 2)],
)
def test_two_ranks_give_the_same_bits_and_a_dead_one_is_made_up_for(project, stage, made, unit, together):
    """12 and 4 windows in batches of 3 are 6 batches; every rank takes part in each of the 2 rounds."""
    folder = project / "out/tiny" / stage
    alone = run(project, stage, 1)
    assert alone.returncode == 0, alone.stderr
    assert alone.stderr.count(unit) == together
    expected = contents(folder / made)
    assert len(expected) >= 2
    shutil.rmtree(folder)

    two = run(project, stage, 2)
    assert two.returncode == 0, two.stderr
    assert contents(folder / made) == expected
    shutil.rmtree(folder)

    died = run(project, stage, 2, dies=True)
    assert died.returncode == 1
    assert not (folder / made).exists()
    again = run(project, stage, 1)
    assert again.returncode == 0, again.stderr
    assert 0 < again.stderr.count(unit) < together  # what was done is not done again
    assert contents(folder / made) == expected


@pytest.mark.slow  # seven processes load torch
def test_a_network_of_the_rounds_is_the_same_for_any_number_of_ranks_and_stops_in_order(project):
    """Fitted by the first rank, asked by both, to the bit; at SIGTERM both leave, and the fit goes on where it was."""
    tree = YAML().load((project / "params.yaml").read_text())
    tree["tiny"]["refine"] |= {"learner": "network", "steps": 6, "batch": 5, "confidence": 0.0}
    with (project / "params.yaml").open("w") as handle:
        YAML().dump(tree, handle)
    folder, script = project / "out/tiny/refine_masks", project / "small_refine_masks.py"
    assert run(project, "refine_masks", 1).returncode == 0
    expected = contents(folder / "masks")
    shutil.rmtree(folder)
    two = run(project, "refine_masks", 2)
    assert two.returncode == 0, two.stderr
    assert contents(folder / "masks") == expected
    shutil.rmtree(folder)
    script.write_text(STOPPED + script.read_text())
    line = torchrun_command(str(script), tiny.command("refine_masks", project)[2:], 2)
    stopped = subprocess.run(line, env=tiny.environment(project), capture_output=True, text=True, timeout=300)
    assert "stopped after step 3 of 6, saved" in stopped.stderr
    assert not folder.exists()
    again = run(project, "refine_masks", 2)
    assert again.returncode == 0, again.stderr
    assert contents(folder / "masks") == expected
