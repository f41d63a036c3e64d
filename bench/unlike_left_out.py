"""Does `--unlike` find a crop that was left out of the training? Regions made by the demo's generator.

Of each region's fields a third are taught, a third held out, a third asked about. Every crop of at least six fields is
left out of the first two in turn. Prints, over all crops and regions: the AUROC of the measure for pixels of the
left-out crop against those of known ones, and the share of both that are marked at 90, 95 and 99.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import pandas as pd
import torch
from crossvalidated_coverage import make_region
from sklearn.metrics import roc_auc_score

from cluemap.data.formats.pastis import CLASSES
from cluemap.data.synthetic.region import make_tile
from cluemap.statistics.unlikeness import Unlikeness

FEWEST = 6  # fields of a crop
OF_A_CLASS = 100  # pixels, as a model keeps them
MARKS = (90, 95, 99)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regions", type=int, default=5)
    parser.add_argument("--side", type=int, default=300, help="pixels a side of a region")
    given = parser.parse_args()
    dates = np.arange(np.datetime64("2019-03-01"), np.datetime64("2019-10-15"), np.timedelta64(25, "D"))
    tile, rows = make_tile(dates, (1, 0)), []
    for seed in range(given.regions):
        region = make_region(given.side, given.side, tile, (3, seed))
        generator = np.random.default_rng(seed)
        third = generator.permutation(np.arange(len(region.shapes)) % 3)[region.field]
        for crop in np.unique(region.field_crops):
            if (region.field_crops == crop).sum() < FEWEST:
                continue
            known = region.crops != crop
            pixels = generator.permutation(np.flatnonzero(known & (third == 0)))
            taught = np.concatenate([pixels[region.crops[pixels] == k][:OF_A_CLASS] for k in np.unique(region.crops)])
            one = Unlikeness.of(region.features[taught], region.crops[taught], region.features[known & (third == 1)])
            asked = ~known | (third == 2)
            found = one.percent(torch.from_numpy(region.features[asked])).numpy()
            new = ~known[asked]
            marked = [((found[new] >= mark).mean(), (found[~new] >= mark).mean()) for mark in MARKS]
            rows.append((seed, CLASSES[int(crop)].name, roc_auc_score(new, found), *np.ravel(marked)))
    names = [f"{who} >= {mark}" for mark in MARKS for who in ("left out", "known")]
    table = pd.DataFrame(rows, columns=["region", "crop", "AUROC", *names])
    print(f"{len(table)} left-out crops in {given.regions} regions of {given.side} x {given.side} pixels")
    print(table.groupby("crop").mean().drop(columns="region").to_string(float_format="{:.3f}".format))
    print(
        table[["AUROC", *names]].describe().loc[["mean", "min", "50%", "max"]].to_string(float_format="{:.3f}".format)
    )


if __name__ == "__main__":
    main()
