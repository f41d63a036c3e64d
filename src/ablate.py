"""What each step of the method brings on a data set: raw CAM, the two losses, clue CAM, segmenter; over several seeds.

Prints the table of the README. Goes on where it was stopped: finished stages are not run again.
"""

import argparse
import sys
from pathlib import Path

from cluemap.errors import CluemapError
from cluemap.experiments.ablation import VARIANTS, ablate, table
from cluemap.files import write_json, write_text
from cluemap.paths import OUT, stage_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--jobs", type=int, default=1, help="pipelines at once (default: 1)")
    parser.add_argument("--out", type=Path, help="folder (default: out/<data set>/ablate)")
    given = parser.parse_args()
    folder = given.out or OUT / given.dataset / "ablate"
    try:
        prepared = stage_folder(given.dataset, "prepare")
        lines = ablate(given.dataset, folder, prepared, given.seeds, given.variants, given.jobs)
    except CluemapError as error:
        sys.exit(f"ablate: error: {error}")
    write_json(folder / "table.json", {"seeds": given.seeds, "rows": lines})
    write_text(folder / "table.md", table(lines, given.seeds) + "\n")
    print(table(lines, given.seeds))


if __name__ == "__main__":
    main()
