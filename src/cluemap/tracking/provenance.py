"""What made a number: the code, DVC's hashes of inputs and outputs, the machine. Nothing here runs or changes DVC."""

import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml.error import YAMLError

from cluemap import __version__, paths
from cluemap.errors import DataError
from cluemap.files import parsed_yaml

DVC_FILES = ("*.dvc", "data/*.dvc", "data/*/*.dvc")  # the built-in data's, and those of data sets of one's own


def provenance(dataset: str, stage: str, inputs: Iterable[Path | str] = ()) -> dict[str, str]:
    """A run's tags: what it is, the code's state, the machine, and DVC's hash of each input, as `input.<path>`.

    inputs: files or folders that the stage reads (raw data, other stages' outputs).
    """
    hashes = {f"input.{path}": value for path, value in hashes_of(inputs).items()}
    return {"dataset": dataset, "stage": stage, **code(), **machine(), **hashes}


def code(root: Path | None = None) -> dict[str, str]:
    """Tags for the code's state: commit, branch, dirty (`true` when a tracked file differs from it), DVC's names.

    Where there is no git, or no commit yet, the commit is `none`. `code.digest` tells two dirty states apart: a hash of
    all Python files in `src/`.
    """
    root = root or paths.ROOT
    head = commit(root)
    changed = (_git(root, "status", "--porcelain", "--untracked-files=no") or "").splitlines()
    tags = {"git.commit": head or "none", "git.dirty": str(bool(changed) or head is None).lower()}
    tags["code.digest"] = _code_digest(root / "src")
    tags["git.branch"] = _git(root, "symbolic-ref", "--short", "HEAD") or "detached"
    if changed:
        tags["git.changed"] = " ".join(sorted(line[2:].strip() for line in changed))[:1000]
    if head:
        tags["mlflow.source.git.commit"] = head  # the column Version of MLflow's table
    for tag, variable in {"dvc.stage": "DVC_STAGE", "dvc.experiment": "DVC_EXP_NAME"}.items():
        if os.environ.get(variable):
            tags[tag] = os.environ[variable]
    if os.environ.get("DVC_EXP_BASELINE_REV"):
        tags["git.baseline"] = os.environ["DVC_EXP_BASELINE_REV"]
    return tags


def commit(root: Path | None = None) -> str | None:
    """The commit that is checked out; None without git, or before the first commit."""
    return _git(root or paths.ROOT, "rev-parse", "--verify", "HEAD")


def committed_text(name: str, revision: str, root: Path | None = None) -> str | None:
    """A file of the project as it stands in a commit; None if it is not there."""
    return _git(root or paths.ROOT, "show", f"{revision}:./{name}")


def machine() -> dict[str, str]:
    """Tags for the hardware and the versions that a result may depend on. Says nothing of paths or users."""
    import torch  # here, since it takes seconds and this module's other readers do without

    tags = {
        "machine.cpu": _processor(),
        "machine.cores": str(os.cpu_count()),
        "machine.memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "machine.system": f"{platform.system()} {platform.release()}",
        "version.cluemap": __version__,
        "version.python": platform.python_version(),
        "version.torch": torch.__version__,
    }
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    tags["machine.gpus"] = f"{count} x {torch.cuda.get_device_name(0)}" if count else "none"
    return tags


def changes(root: Path | None = None) -> str:
    """What tracked files differ from the commit, as a patch for `git apply`; dvc.lock, which DVC writes, left out."""
    found = _git(root or paths.ROOT, "diff", "--binary", "HEAD", "--", ".", ":(exclude)dvc.lock")
    return f"{found}\n" if found else ""


def command() -> str:
    """This stage script's command as it is typed at the project's root, without the machine's own paths."""
    words = [os.path.relpath(word, paths.ROOT) if _inside(word) else word for word in sys.argv[1:]]
    return shlex.join(["python", f"src/{Path(sys.argv[0]).name}", *words])


def recorded_hashes(root: Path | None = None) -> dict[str, str]:
    """Path (from the root) -> DVC's hash, of every output in dvc.lock and every `*.dvc` file at the root or in `data`.

    While a stage runs, its own outputs there are those of its last run; its inputs are right.

    Raises:
        DataError: dvc.lock or a .dvc file cannot be read.
    """
    root = Path(root or paths.ROOT)
    stages = _yaml(root / "dvc.lock").get("stages") or {}
    entries = [(Path(), entry) for stage in stages.values() for entry in stage.get("outs") or []]
    for file in sorted(file for pattern in DVC_FILES for file in root.glob(pattern) if file.is_file()):
        folder = file.parent.relative_to(root)  # paths in a .dvc file are its folder's
        entries += [(folder, entry) for entry in _yaml(file).get("outs") or []]
    return {(folder / entry["path"]).as_posix(): entry["md5"] for folder, entry in entries if "md5" in entry}


def hashes_of(inputs: Iterable[Path | str], root: Path | None = None) -> dict[str, str]:
    """Path -> DVC's recorded hash, of every output that is one of `inputs`, lies in one, or holds one."""
    root = Path(root or paths.ROOT)
    wanted = [Path(os.path.normpath(root / path)) for path in inputs]
    recorded = {path: (root / path, value) for path, value in recorded_hashes(root).items()}
    return {
        path: value
        for path, (place, value) in recorded.items()
        if any(place.is_relative_to(one) or one.is_relative_to(place) for one in wanted)
    }


def path_hash(path: Path | str) -> str:
    """DVC's own hash of a file or folder as it is on disk now: md5, `<md5>.dir` for a folder.

    Raises:
        DataError: there is no such file or folder.
    """
    path = Path(path)
    if path.is_file():
        return _md5(path)
    if not path.is_dir():
        raise DataError(f"{path} does not exist: `dvc repro` makes outputs, `dvc pull` or `make data` brings data")
    files = sorted((file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file())
    listing = json.dumps([{"md5": _md5(file), "relpath": name} for name, file in files])
    return hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest() + ".dir"


def holder(path: Path | str, root: Path | None = None) -> str | None:
    """The DVC output that `path` is, or lies in; None when DVC does not hold it."""
    root = Path(root or paths.ROOT)
    path = (root / path).absolute()
    if not path.is_relative_to(root):
        return None
    names = [path.relative_to(root), *path.relative_to(root).parents]
    recorded = recorded_hashes(root)
    return next((name.as_posix() for name in names if name.as_posix() in recorded), None)


def _inside(word: str) -> bool:
    return os.path.exists(word) and Path(word).absolute().is_relative_to(paths.ROOT)


def _code_digest(folder: Path) -> str:
    total = hashlib.blake2b(digest_size=8)
    for file in sorted(folder.rglob("*.py")):
        total.update(f"{file.relative_to(folder).as_posix()}\0{_md5(file)}\n".encode())
    return total.hexdigest()


def _md5(file: Path) -> str:
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _yaml(file: Path) -> dict[str, Any]:
    try:
        content = parsed_yaml(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is not YAML ({error}): `git checkout {file.name}` brings it back") from None
    return content if isinstance(content, dict) else {}


def _git(root: Path, *command: str) -> str | None:
    try:
        done = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.rstrip()


def _processor() -> str:
    return next(_processor_names(), platform.processor() or platform.machine())


def _processor_names() -> Iterator[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    yield from (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
