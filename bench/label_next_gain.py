"""Is it worth labelling what `--label-next` asks for? Against random choice of as many fields, on simulated regions.

Of a region made by the demo's generator half the fields are tested on. Of the other half a tenth are labelled; as many
again are asked for, by what src/predict.py asks for (uncertain, unlike the labelled, spread out) or at random. Prints
per seed the accuracy and mIoU on the test half before, after both, and after all labels.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import pandas as pd
import shapely
from crossvalidated_coverage import CROPS, Region, learner, make_region
from numpy.typing import NDArray

from cluemap.data.synthetic.region import make_tile
from cluemap.statistics.calibration import calibrated, fit_temperature
from cluemap.statistics.label_next import Candidates, label_next
from cluemap.training.metrics import Ids, confusion, scores

RANDOM = 10  # random choices that are averaged


def probabilities(region: Region, fields: NDArray, kind: str, seed: int) -> NDArray[np.float64]:
    """p k of all pixels by a learner taught the pixels of these fields; k by id 1..CROPS."""
    known = np.isin(region.field, fields)
    model = learner(kind, seed).fit(region.features[known], region.crops[known])
    out = np.zeros((len(region.crops), CROPS))
    out[:, model.classes_.astype(int) - 1] = model.predict_proba(region.features)
    return out


def scored(region: Region, found: NDArray[np.float64], tested: NDArray) -> tuple[float, float]:
    """Overall accuracy and mIoU of the tested fields' pixels."""
    there = np.isin(region.field, tested)
    counts = confusion(region.crops[there], (found[there].argmax(axis=1) + 1).astype(np.uint8), Ids(CROPS, False))
    result = scores(counts)
    return float(result.overall_accuracy), float(result.miou)


def asked(region: Region, found: NDArray[np.float64], labelled: NDArray, free: NDArray) -> NDArray[np.intp]:
    """As many of the free fields as are labelled."""
    count = len(region.shapes)
    pixels = np.maximum(np.bincount(region.field, minlength=count), 1)[:, None]
    logits = np.log(np.maximum(found, 1e-6))
    known = np.isin(region.field, labelled)
    hot = fit_temperature(logits[known], region.crops[known].astype(int) - 1)
    means = [np.zeros((count, width)) for width in (CROPS, region.features.shape[1])]
    for total, values in zip(means, (calibrated(logits, max(hot, 1.0)), region.features), strict=True):
        np.add.at(total, region.field, values)
        total /= pixels
    centres = shapely.centroid(region.shapes)
    places = np.stack([shapely.get_x(centres), shapely.get_y(centres)], axis=1)
    apart = float(np.sqrt(np.ptp(places[:, 0]) * np.ptp(places[:, 1]) / len(labelled))) / 2
    candidates = Candidates(means[0][free], means[1][free], places[free])
    return np.asarray(free[label_next(candidates, means[1][labelled], len(labelled), apart).candidates])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--side", type=int, default=460, help="pixels a side of a region (460: 500 fields)")
    parser.add_argument("--learner", choices=("linear", "trees"), default="linear")
    given = parser.parse_args()
    dates = np.arange(np.datetime64("2019-03-01"), np.datetime64("2019-10-15"), np.timedelta64(25, "D"))
    rows = []
    for seed in range(given.seeds):
        region = make_region(given.side, given.side, make_tile(dates, (1, 0)), (5, seed))
        generator = np.random.default_rng(seed)
        order = generator.permutation(len(region.shapes))
        tested, pool = np.array_split(order, 2)
        labelled, free = pool[: len(pool) // 10], pool[len(pool) // 10 :]

        def score(fields: NDArray, region: Region = region, tested: NDArray = tested, seed: int = seed) -> NDArray:
            return np.array(scored(region, probabilities(region, fields, given.learner, seed), tested))

        chosen = asked(region, probabilities(region, labelled, given.learner, seed), labelled, free)
        drawn = [generator.choice(free, len(labelled), replace=False) for _ in range(RANDOM)]
        random = np.mean([score(np.concatenate([labelled, one])) for one in drawn], axis=0)
        results = [score(labelled), score(np.concatenate([labelled, chosen])), random, score(pool)]
        rows.append((seed, len(pool), len(labelled), *np.concatenate(results)))
    names = [f"{name} {when}" for when in ("before", "asked", "random", "all") for name in ("accuracy", "mIoU")]
    table = pd.DataFrame(rows, columns=["seed", "fields", "labelled", *names])
    print(table.to_string(index=False, float_format="{:.3f}".format))
    print("mean", table[names].mean().round(3).to_dict())


if __name__ == "__main__":
    main()
