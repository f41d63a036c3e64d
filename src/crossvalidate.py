"""The whole pipeline on all five folds; scores of the pooled test predictions with intervals over blocks of land.

Pixel and field level, networks and trees and the majority class side by side: out/<data set>/crossvalidate holds
report.html, the tables and each fold's outputs. Goes on where it was stopped: finished stages are not run again.
"""

import argparse
import sys
from pathlib import Path

from cluemap.errors import CluemapError
from cluemap.experiments.cross_validation import Order, cross_validate
from cluemap.experiments.cross_validation_report import describe
from cluemap.paths import OUT, ROOT
from cluemap.runtime.distributed import join
from cluemap.runtime.messages import show_messages


def main(arguments: list[str] | None = None) -> int:
    usual = Order("", ROOT / "params.yaml", OUT)
    parser = argparse.ArgumentParser(
        prog="src/crossvalidate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, help="a data set of params.yaml whose split has folds")
    parser.add_argument("--params", type=Path, default=usual.params, help="another params file")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of all outputs (default: out)")
    parser.add_argument("--folds", type=int, nargs="+", choices=usual.folds, default=list(usual.folds),
                        help="which official splits (default: all)")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=usual.jobs, help="folds at once (default: %(default)s)")
    parser.add_argument("--resample", choices=("blocks", "fields"), default=usual.resample,
                        help="what the intervals draw again (default: %(default)s)")  # fmt: skip
    parser.add_argument("--draws", type=int, default=usual.draws, help="bootstrap samples (default: %(default)s)")
    given = parser.parse_args(arguments)
    show_messages()
    order = Order(
        given.dataset, given.params, given.out, tuple(given.folds), given.jobs, given.resample, given.draws
    )  # fmt: skip
    try:
        result = cross_validate(order, join())
    except CluemapError as error:
        print(f"crossvalidate: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("crossvalidate: stopped; the same command continues with the stages that are left", file=sys.stderr)
        return 130
    print(describe(result))
    print(f"crossvalidate: {len(order.folds)} folds -> {order.folder / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
