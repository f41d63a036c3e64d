"""What each step of the method brings, over several seeds and data sets: masks, segmenters, baselines.

Prints the tables of docs/results.md. Goes on where it was stopped: finished stages are not run again.
"""

import argparse
import sys
from pathlib import Path

from cluemap.errors import CluemapError
from cluemap.experiments.ablation import VARIANTS, WHOLE, ablate, table, together
from cluemap.experiments.few_labels import learning_curves
from cluemap.figures import learning_curve
from cluemap.files import write_json, write_text
from cluemap.paths import OUT, stage_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", nargs="+", default=["demo"], help="one or more of params.yaml (default: demo)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=[WHOLE], help=f"default: {WHOLE}")
    parser.add_argument("--jobs", type=int, default=1, help="pipelines at once (default: 1)")
    parser.add_argument("--out", type=Path, help="folder (default: out/<data set>/ablate)")
    given = parser.parse_args()
    tables = {}
    try:
        for dataset in given.dataset:
            folder = (given.out / dataset) if given.out else OUT / dataset / "ablate"
            prepared = stage_folder(dataset, "prepare")
            tables[dataset] = ablate(dataset, folder, prepared, given.seeds, given.variants, given.jobs)
            write_json(folder / "table.json", {"seeds": given.seeds, "rows": tables[dataset]})
            write_text(folder / "table.md", table(tables[dataset], given.seeds) + "\n")
            if curves := learning_curves(tables[dataset]):
                learning_curve(curves, folder / "learning_curve.png")
            print(f"{dataset}\n{table(tables[dataset], given.seeds)}\n")
    except CluemapError as error:
        sys.exit(f"ablate: error: {error}")
    if len(tables) > 1:
        print(together(tables))


if __name__ == "__main__":
    main()
