"""How long `dvc repro` takes with nothing to do and many (small) windows prepared.

Works on a copy of this project, in which `dvc repro` has run; its prepared windows are exchanged for as many as asked.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from work import ROOT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=60_000)
    parser.add_argument("--shards", type=int, default=64, help="files the images lie in (default: 64)")
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if not (ROOT / "out" / given.dataset / "evaluate").exists():
        sys.exit(f"nothing_to_do: error: out/{given.dataset}/evaluate is missing: run `dvc repro` first")
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        left_out = shutil.ignore_patterns(".venv", "cache", "tmp", "tune", "ablate", "precision", "__pycache__")
        shutil.copytree(ROOT, project, ignore=left_out)
        from builders import write_prepared  # found once `work` is imported

        windows = project / "out" / given.dataset / "prepare" / "windows"
        shutil.rmtree(windows)
        train, rest = given.windows * 3 // 5, given.windows - given.windows * 3 // 5
        counts = {"train": train, "validation": rest // 2, "test": rest - rest // 2}
        write_prepared(windows, counts, size=12, dates=(1, 3), bands=2, shards=given.shards)
        dvc(project, "commit", "--force")
        dvc(project, "repro")  # the first one says what it registered
        times = []
        for _ in range(given.rounds):
            start = time.monotonic()
            said = dvc(project, "repro")
            times.append(time.monotonic() - start)
        ran = [line for line in said.splitlines() if line.startswith("Running stage")]
        print(
            f"{given.windows} windows in {given.shards} files: {min(times):.1f} .. {max(times):.1f} s; {'; '.join(ran)}"
        )


def dvc(project: Path, *arguments: str) -> str:
    """Run it there; what it said."""
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=project, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"dvc {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
