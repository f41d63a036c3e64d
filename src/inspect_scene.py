"""Look at a scene before training: dates, clouds, pictures, labels, image labels of windows, warnings; as one page."""

import argparse
import sys
from pathlib import Path

from cluemap.errors import CluemapError
from cluemap.mapping.inspection_page import write_page
from cluemap.mapping.scene_inspection import inspect
from cluemap.params import WindowParams
from cluemap.paths import OUT
from cluemap.runtime.messages import show_messages


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="src/inspect_scene.py", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with scene.yaml")
    parser.add_argument("--out", type=Path, help="the page (default: out/<folder>/inspect.html)")
    parser.add_argument("--window", type=int, default=24, help="pixels a side of a window (default %(default)s)")
    parser.add_argument("--presence", type=float, default=0.01, help="windows.presence (default %(default)s)")
    return parser.parse_args()


def main() -> int:
    show_messages()
    given = parse()
    size = given.window
    out = given.out or OUT / given.folder.resolve().name / "inspect.html"
    try:
        windows = WindowParams(
            size=size, stride=size, flush_edge=False, max_dates=60, presence=given.presence, fold=1
        )  # fmt: skip
        found = inspect(given.folder, windows)
        write_page(out, found)
    except CluemapError as error:
        print(f"inspect_scene: error: {error}", file=sys.stderr)
        return 2
    for text in found.warnings:
        print(f"warning: {text}")
    print(f"inspect_scene: {found.counts.total()} windows, {len(found.warnings)} warnings -> {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
