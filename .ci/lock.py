"""Write requirements.lock from pyproject.toml, or check that it holds all that pyproject asks for, at fitting versions.

python .ci/lock.py check            what `make lint` runs
python .ci/lock.py write            what `make lock` runs: versions that still fit are kept
python .ci/lock.py write --upgrade  `make lock UPGRADE=1`: the newest versions within the ranges
"""

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
HEAD = "# Exact versions of all that pyproject.toml asks for, extras included. Written by `make lock`; do not edit.\n"
OF_CUDA = ("nvidia-", "cuda-", "triton")  # what torch's CUDA build asks for, at versions that torch itself fixes


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["check", "write"])
    parser.add_argument("--lock", type=Path, default=ROOT / "requirements.lock")
    parser.add_argument("--upgrade", action="store_true", help="write: take the newest versions")
    options = parser.parse_args(arguments)
    if options.command == "write":
        return write(options.lock, options.upgrade)
    problems = check(options.lock)
    for problem in problems:
        print(f"{options.lock.name}: {problem}", file=sys.stderr)
    if problems:
        print("Type `make lock` to write it again from pyproject.toml", file=sys.stderr)
    return bool(problems)


def direct_requirements() -> list[str]:
    """What pyproject.toml asks for, all extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project.get("optional-dependencies", {}).values()
    return [*project["dependencies"], *(text for extra in extras for text in extra)]


def read_lock(lock: Path) -> dict[str, Version]:
    """Name -> version of each line `name==version`."""
    lines = (line.partition("#")[0].strip() for line in lock.read_text(encoding="utf-8").splitlines())
    pairs = (line.split("==") for line in lines if line)
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def check(lock: Path) -> list[str]:
    """What is wrong: missing lines, versions outside the ranges, lines that nothing asks for.

    What packages ask for themselves is read from those that are installed here.
    """
    locked, problems, seen = read_lock(lock), [], set()
    todo = [(Requirement(text), "pyproject.toml") for text in direct_requirements()]
    while todo:
        wanted, source = todo.pop()
        name = canonicalize_name(wanted.name)
        if name not in locked:
            if not name.startswith(OF_CUDA):
                problems.append(f"{wanted.name} is missing, which {source} asks for")
        elif not wanted.specifier.contains(locked[name], prereleases=True):
            problems.append(f"{wanted.name}=={locked[name]} is not {wanted.specifier}, which {source} asks for")
        for extra in {"", *wanted.extras} - {known for at, known in seen if at == name}:
            seen.add((name, extra))
            todo += [(found, wanted.name) for found in _requirements_of(name, extra)]
    unused = sorted(set(locked) - {name for name, _ in seen})
    return sorted(set(problems)) + [f"nothing asks for {name}" for name in unused]


def _requirements_of(name: str, extra: str) -> Iterator[Requirement]:
    try:
        texts = requires(name) or []
    except PackageNotFoundError:
        return  # its own line is checked; where it is not installed nothing is known of what it asks for
    for text in texts:
        found = Requirement(text)
        if found.marker is None or found.marker.evaluate({"extra": extra}):
            yield found


def write(lock: Path, upgrade: bool) -> int:
    """Have pip resolve the requirements, without installing anything, and write what it found."""
    with tempfile.TemporaryDirectory() as folder:
        report, kept = Path(folder) / "report.json", Path(folder) / "kept.txt"
        keep = {} if upgrade or not lock.exists() else read_lock(lock)
        for wanted in map(Requirement, direct_requirements()):
            version = keep.get(canonicalize_name(wanted.name))
            if version and not wanted.specifier.contains(version, prereleases=True):
                del keep[canonicalize_name(wanted.name)]
        kept.write_text("".join(f"{name}=={version}\n" for name, version in keep.items()))
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report"]
        done = subprocess.run([*command, str(report), "--constraint", str(kept), *direct_requirements()])
        if done.returncode:
            print("pip found no set of versions: `make lock UPGRADE=1` keeps none of the present ones", file=sys.stderr)
            return done.returncode
        found = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
    lines = {entry["name"]: Version(entry["version"]).public for entry in found}  # torch's `+cpu` is left out
    wanted_lines = [f"{name}=={lines[name]}\n" for name in sorted(lines, key=str.lower) if not name.startswith(OF_CUDA)]
    lock.write_text(HEAD + "".join(wanted_lines), encoding="utf-8")
    print(f"{lock.name}: {len(wanted_lines)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
