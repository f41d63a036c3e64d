"""Look at a scene before training: dates, clouds, pictures, labels, image labels of windows, warnings; as one page."""

import argparse
import sys
from pathlib import Path

from cluemap.errors import CluemapError
from cluemap.mapping.inspection.inspection_page import write_page
from cluemap.mapping.inspection.scene_inspection import inspect, windows_of
from cluemap.paths import OUT
from cluemap.runtime.messages import show_messages


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="src/inspect_scene.py", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with scene.yaml")
    parser.add_argument("--out", type=Path, help="the page (default: out/<folder>/inspect.html)")
    parser.add_argument("--params", type=Path, help="params.yaml whose `windows` of this data set is used")
    parser.add_argument("--window", type=int, help="pixels a side of a window (default: as params.yaml says)")
    parser.add_argument("--presence", type=float, help="windows.presence (default: as params.yaml says)")
    return parser.parse_args()


def main() -> int:
    show_messages()
    given = parse()
    out = given.out or OUT / given.folder.resolve().name / "inspect.html"
    try:
        windows, place = windows_of(given.folder, given.params)
        if given.window:
            windows = windows.model_copy(update={"size": given.window, "stride": given.window})
        if given.presence is not None:
            windows = windows.model_copy(update={"presence": given.presence})
        found = inspect(given.folder, windows)
        write_page(out, found)
    except CluemapError as error:
        print(f"inspect_scene: error: {error}", file=sys.stderr)
        return 2
    for kind, texts in found.said.items():
        for text in texts:
            print(f"{kind.lower().removesuffix('s')}: {text}", file=sys.stderr if kind == "Errors" else sys.stdout)
    counts = f"{found.counts.total()} windows of {windows.size} px every {windows.stride} px ({place})"
    print(f"inspect_scene: {counts}, {len(found.errors)} errors, {len(found.warnings)} warnings -> {out}")
    return 2 if found.errors else 0


if __name__ == "__main__":
    sys.exit(main())
