"""What made a number: the runs, commands, commit, params and DVC hashes behind one run of `mlflow ui`."""

import argparse
import sys
from pathlib import Path

from cluemap.errors import CluemapError, DataError
from cluemap.experiments.run_reproduction import check_out
from cluemap.tracking import made_by, open_store
from cluemap.tracking.lineage import Finding, describe, trace, verify


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="a run's id, or the folder of a stage's outputs, as out/demo/evaluate")
    parser.add_argument("--verify", action="store_true", help="hash all of it again and say what is still the same")
    parser.add_argument("--checkout", type=Path, metavar="DIR", help="bring all of it out into a new folder")
    given = parser.parse_args(arguments)
    try:
        store = open_store()
        lineage = trace(store, _run_of(given.run))
        if given.checkout:
            found = check_out(lineage, store, given.checkout.absolute())
            _show(found)
            print(f"{given.checkout} holds it; there: dvc repro evaluate@{lineage.run.tags.get('dataset')}")
        elif given.verify:
            found = list(verify(lineage))
            _show(found)
        else:
            found = []
            print(describe(lineage))
    except CluemapError as error:
        print(f"lineage: error: {error}", file=sys.stderr)
        return 2
    return 0 if all(one.good for one in found) else 1


def _run_of(name: str) -> str:
    if not Path(name).is_dir():
        return name
    run = made_by(name)
    if run is None:
        raise DataError(f"{name} has no run.json: give the output folder of a stage, or a run's id")
    return run


def _show(found: list[Finding]) -> None:
    for one in found:
        print(f"{one.state:8} {one.name}" + (f"   {one.detail}" if one.detail else ""))
    bad = sum(not one.good for one in found)
    print(f"{bad} of {len(found)} differ" if bad else f"all {len(found)} are the same")


if __name__ == "__main__":
    sys.exit(main())
