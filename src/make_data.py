"""Make the built-in data sets (seeded, the same bits every time) in the layouts of the published ones."""

import argparse
import sys
from pathlib import Path

from cluemap.data.synthetic import Plan, make_demo
from cluemap.data.synthetic.demo_germany import write_demo_germany
from cluemap.errors import CluemapError
from cluemap.paths import ROOT
from cluemap.runtime.threads import cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", choices=["demo", "demo_germany"], default="demo", help="default: demo")
    parser.add_argument("--out", type=Path, help="folder to write (default: data/<data set>)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other land and weather (default: 0)")
    parser.add_argument("--processes", type=int, default=cores(), help="default: one per core")
    given = parser.parse_args()
    folder = given.out or ROOT / "data" / given.dataset
    try:
        if given.dataset == "demo_germany":
            print(write_demo_germany(folder, given.seed))
        else:
            print(make_demo(folder, Plan(seed=given.seed), given.processes))
    except CluemapError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
