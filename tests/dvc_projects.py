"""A git and DVC project with this code, its dvc.yaml and tiny raw data: what a user has after cloning. Nothing is a
stand-in: DVC runs the real stages.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import stage_forks
import tiny
from builders import write_pastis
from locations import PROJECT

DVC = [sys.executable, "-m", "dvc"]
GIT = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
FILES = ("dvc.yaml", ".gitignore", ".dvcignore")
WINDOWS = {"windows": {"size": 14, "stride": 14}}


def make_project(root: Path, overrides: Mapping[str, Mapping[str, Any]] | None = None, **raw: Any) -> Path:
    """A committed project whose one data set is `tiny`, tracked by DVC, with nothing made of it yet; `raw`: what
    `write_pastis` takes beside the sizes.
    """
    root.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copy(PROJECT / name, root / name)
    text = (root / "dvc.yaml").read_text(encoding="utf-8").partition("\nartifacts:")[0]
    (root / "dvc.yaml").write_text(text + "\n", encoding="utf-8")
    shutil.copytree(PROJECT / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__"))
    tiny.write_params(root / "params.yaml", {**tiny.FAST, **WINDOWS, **(overrides or {})})
    write_pastis(root / "data" / "tiny", patches=5, size=28, dates=7, **raw)
    git(root, "init", "-q")
    dvc(root, "init", "-q")
    shutil.copy(PROJECT / ".dvc" / "config", root / ".dvc" / "config")
    dvc(root, "add", "-q", "data/tiny")
    commit(root, "tiny")
    return root


def commit(root: Path, message: str) -> str:
    """Commit all that git does not ignore; gives the commit."""
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", message)
    return git(root, "rev-parse", "HEAD").strip()


def environment(**more: str) -> dict[str, str]:
    """What a user's shell has: a Python first in PATH, whose scripts are forked, and no variables of ours but the
    device.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLUEMAP_", "MLFLOW_", "DVC_"))}
    one = {"CLUEMAP_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    python = stage_forks.shim({**kept, **one})
    path = os.pathsep.join([str(python), str(Path(sys.executable).parent), kept.get("PATH", "")])
    who = {f"GIT_{role}_{part}": text for role in ("AUTHOR", "COMMITTER") for part, text in WHO.items()}
    return {**kept, **one, **who, "PATH": path, **more}


WHO = {"NAME": "t", "EMAIL": "t@example.org"}


def dvc(root: Path, *arguments: str, check: bool = True, timeout: float = 900, **more: str) -> str:
    """Run dvc; gives all that it and the stages said."""
    done = subprocess.run(
        [*DVC, *arguments], cwd=root, env=environment(**more), capture_output=True, text=True, timeout=timeout
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def script(root: Path, name: str, *arguments: str, **more: str) -> str:
    """Run one of the project's scripts; gives what it printed."""
    told = environment(**more)
    command = [str(stage_forks.shim(told) / "python"), f"src/{name}.py", *arguments]
    done = subprocess.run(command, cwd=root, env=told, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ran(said: str, dataset: str = "tiny") -> set[str]:
    """The stages that DVC says it runs."""
    return set(re.findall(rf"Running stage '(\w+)@{dataset}'", said))


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run([*GIT, *arguments], cwd=root, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
