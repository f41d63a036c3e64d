"""Make the demo data set (seeded, the same bits every time) under data/demo, in PASTIS's published layout."""

import argparse
import os
import sys
from pathlib import Path

from cluemap.data.demo import Plan, make_demo
from cluemap.errors import CluemapError
from cluemap.paths import ROOT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "demo", help="folder to write (default: data/demo)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other land and weather (default: 0)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one per core")
    given = parser.parse_args()
    try:
        print(make_demo(given.out, Plan(seed=given.seed), given.processes))
    except CluemapError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
