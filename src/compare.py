"""Compare two or more results on one HTML page: params that differ, scores with differences, maps side by side.

python src/compare.py <run> <run> ...     ids of rows of <data set>/results, or folders as out/demo/evaluate
"""

import argparse
import sys
from pathlib import Path

from cluemap.errors import CluemapError, DataError
from cluemap.experiments.comparison import compare
from cluemap.paths import OUT
from cluemap.tracking import made_by, open_store


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="ids of runs of stage evaluate, or its output folders; the first is "
                        "what the others are compared with")  # fmt: skip
    parser.add_argument("--out", type=Path, default=OUT / "comparison.html", help="page (default: out/comparison.html)")
    given = parser.parse_args(arguments)
    try:
        page = compare(open_store(), [_run_of(name) for name in given.runs], given.out)
    except CluemapError as error:
        print(f"compare: error: {error}", file=sys.stderr)
        return 2
    print(f"compare: {len(given.runs)} results -> {page}")
    return 0


def _run_of(name: str) -> str:
    if not Path(name).is_dir():
        return name
    run = made_by(name)
    if run is None or run.startswith("key:"):
        raise DataError(f"{name} has no run in the store: give out/<data set>/evaluate, or a run's id")
    return run


if __name__ == "__main__":
    sys.exit(main())
