"""Parcel networks against forest and trees, from parcel labels and from image labels, over folds and seeds.

Prints a table in %; a value is a seed's mean over its folds. Goes on where it was stopped. With votes of masks or CAMs
every fold and seed takes a pixel pipeline first (classifier, CAMs, masks, segmenters). One job a GPU; on a processor
`CLUEMAP_DEVICE=cpu` and `--jobs` half the number of cores is fastest.
"""

import argparse
import sys
from pathlib import Path

from cluemap.errors import CluemapError
from cluemap.experiments.ablation import table
from cluemap.experiments.parcel_ablation import Plan, ablate_parcels
from cluemap.files import write_json, write_text
from cluemap.paths import OUT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", nargs="+", default=["demo"], help="one or more of params.yaml (default: demo)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folds", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="official splits, parcel labels")
    parser.add_argument("--weak-folds", type=int, nargs="+", default=[1], help="and with image labels (default: 1)")
    parser.add_argument("--kinds", nargs="+", choices=["pse_tae", "pse_ltae"], default=["pse_tae", "pse_ltae"])
    parser.add_argument("--labels", nargs="+", choices=["parcels", "image_labels", "instances", "masks", "cams"],
                        default=["parcels", "image_labels", "masks"])  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once (default: 1)")
    parser.add_argument("--out", type=Path, help="folder (default: out/<data set>/ablate_parcels)")
    given = parser.parse_args()
    try:
        for dataset in given.dataset:
            folder = (given.out / dataset) if given.out else OUT / dataset / "ablate_parcels"
            plan = Plan(dataset, folder.resolve(), given.seeds, given.folds, given.weak_folds, given.kinds,
                        given.labels, given.jobs)  # fmt: skip
            rows = ablate_parcels(plan)
            write_json(folder / "table.json", {"seeds": given.seeds, "folds": given.folds, "rows": rows})
            write_text(folder / "table.md", table(rows, given.seeds, "test parcels, %") + "\n")
            print(f"{dataset}\n{table(rows, given.seeds, 'test parcels, %')}\n")
    except CluemapError as error:
        sys.exit(f"ablate_parcels: error: {error}")


if __name__ == "__main__":
    main()
