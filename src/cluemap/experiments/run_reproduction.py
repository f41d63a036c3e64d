"""Bringing out what made a run into a folder of its own: code, params, and what DVC's cache still has of the data."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from cluemap import paths
from cluemap.errors import DataError, ParamsError
from cluemap.experiments.pipelines import write_changed
from cluemap.tracking.lineage import PATCH, Finding, Lineage, changed_params
from cluemap.tracking.provenance import code, path_hash


def check_out(lineage: Lineage, store: Any, target: Path) -> list[Finding]:
    """Make `target`: the commit, the run's changes to it and its params, and every input and output that is found.

    Raises:
        DataError: `target` holds something, or the commit is unknown here.
    """
    if target.exists() and any(target.iterdir()):
        raise DataError(f"{target} is not empty: name a new folder")
    found = [_code(lineage.run, store, target), *_params(lineage.run, target)]
    cache = cache_folder()
    (target / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {cache}\n", encoding="utf-8")
    for path, hashes in lineage.hashes.items():
        if len(hashes) == 1 and not path.endswith("run.json"):
            found.append(_bring(path, next(iter(hashes)), cache, target))
    return found


def cache_folder() -> Path:
    """DVC's cache of this project, as its config says.

    Raises:
        DataError: DVC does not answer.
    """
    done = subprocess.run([sys.executable, "-m", "dvc", "cache", "dir"], cwd=paths.ROOT, capture_output=True, text=True)
    if done.returncode:
        raise DataError(f"`dvc cache dir` failed: {done.stderr.strip()}")
    return Path(done.stdout.strip())


def _code(run: Any, store: Any, target: Path) -> Finding:
    commit = run.tags.get("git.commit", "none")
    if commit == "none":
        raise DataError(f"run {run.id} was made without a git commit: its code cannot be brought back")
    _git(target.parent, "clone", "--quiet", "--no-checkout", str(paths.ROOT), str(target))
    _git(target, "checkout", "--quiet", "--detach", commit)
    if PATCH in store.files(run.id):
        patch = store.fetch(run.id, PATCH, target / ".git")
        _git(target, "apply", "--whitespace=nowarn", str(patch))
    if code(target)["code.digest"] == run.tags.get("code.digest"):
        return Finding("src", "same", f"commit {commit}, with the run's own changes if it had any")
    return Finding("src", "changed", f"commit {commit}; the run had files in src/ that git did not know")


def _params(run: Any, target: Path) -> Iterator[Finding]:
    file = target / "params.yaml"
    for key, (was, now) in changed_params(run, file).items():
        try:
            value = YAML(typ="safe").load(was)
            write_changed(file, run.tags["dataset"], {key: value}, file)
            yield Finding(f"params.yaml: {key}", "same", f"set to {was}, the commit has {now}")
        except ParamsError:
            yield Finding(f"params.yaml: {key}", "changed", f"the run had {was}, the commit has {now}")


def _bring(path: str, wanted: str, cache: Path, target: Path) -> Finding:
    """One output out of DVC's cache (linked: its files are read-only), or copied from this project's folder."""
    if (target / path).exists():
        shutil.rmtree(target / path) if (target / path).is_dir() else (target / path).unlink()
    if _from_cache(wanted, cache, target / path):
        return Finding(path, "same", "from DVC's cache")
    here = paths.ROOT / path
    if here.exists() and path_hash(here) == wanted:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(here, target / path) if here.is_dir() else shutil.copy2(here, target / path)
        return Finding(path, "same", f"from {here}")
    return Finding(path, "missing", f"{wanted} is in no cache: `dvc pull`, or `dvc repro` in {target}, makes it")


def _from_cache(wanted: str, cache: Path, place: Path) -> bool:
    """DVC's cache holds files by their md5, and for a folder (`<md5>.dir`) a list of its files."""
    held = _held(cache, wanted)
    if not held.exists():
        return False
    if not wanted.endswith(".dir"):
        _link(held, place)
        return True
    files: Mapping[str, Path] = {
        one["relpath"]: _held(cache, one["md5"]) for one in json.loads(held.read_text(encoding="utf-8"))
    }
    if not all(file.exists() for file in files.values()):
        return False
    for name, file in files.items():
        _link(file, place / name)
    return True


def _held(cache: Path, name: str) -> Path:
    return cache / "files" / "md5" / name[:2] / name[2:]


def _link(file: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, place)
    except OSError:  # another file system
        shutil.copyfile(file, place)


def _git(folder: Path, *command: str) -> None:
    done = subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise DataError(
            f"git {command[0]} failed: {done.stderr.strip()}: is the run's commit in this clone? `git fetch`"
        )
