"""Do the 95 % intervals of cross-validated accuracies hold the truth? Regions made by the demo's generator.

Every draw is a region of its own, some of whose fields have labels: drawn at random (`--labels spread`), or all of one
part of the land (`part`). They are split as `split.kind: auto` splits them, a linear discriminant (or boosted trees) is
trained on every fold, and the pooled test predictions are scored as src/crossvalidate.py does. The truth is what these
five models have, on average, on the fields without labels. Prints the share of intervals that hold it, for blocks and
fields as what is drawn again, and over single pixels for comparison.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import rasterio.features  # noqa: E402
import shapely  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from rasterio.transform import Affine  # noqa: E402
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis  # noqa: E402
from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: E402

from cluemap.data.patches import NODATA  # noqa: E402
from cluemap.data.splits.field_split import propose_split, split_fields, with_gap  # noqa: E402
from cluemap.data.synthetic.region import Tile, make_tile, render  # noqa: E402
from cluemap.model.networks.pixel_segmenter import EvenSeries  # noqa: E402
from cluemap.statistics.pooled_scores import draws, pooled, score_table  # noqa: E402
from cluemap.training.metrics import Ids  # noqa: E402

PIXEL, BANDS, STEP = 10.0, 10, 2  # metres; bands; every STEP-th row and column is looked at
CROPS = 18
MEASURES = [("pixels", "overall accuracy"), ("pixels", "mIoU"), ("fields", "overall accuracy"), ("fields", "mIoU")]


class Region(NamedTuple):
    """Pixels p of fields f."""

    features: NDArray[np.float32]  # p d
    crops: NDArray[np.uint8]  # p, 1..18
    field: NDArray[np.int64]  # p, 0..f-1
    shapes: NDArray  # f
    field_crops: NDArray[np.uint8]  # f


def make_region(height: int, width: int, tile: Tile, seed: tuple[int, int]) -> Region:
    """The fields of a rendered region, with their series at every 20th day."""
    scene = render(height, width, tile, seed)
    kept = (scene.labels > 0) & (scene.labels <= CROPS)
    parts: dict[int, list[Any]] = {}
    transform = Affine(PIXEL, 0, 0, 0, -PIXEL, height * PIXEL)
    for shape, number in rasterio.features.shapes(scene.parcels, mask=kept, transform=transform):
        parts.setdefault(int(number), []).append(shapely.geometry.shape(shape))
    numbers = np.array(sorted(parts))
    rows, columns = np.nonzero(kept[::STEP, ::STEP])
    features = series(scene.images[:, :, ::STEP, ::STEP], scene.days)[rows, columns]
    rows, columns = rows * STEP, columns * STEP
    field = np.searchsorted(numbers, scene.parcels[rows, columns])
    first = np.unique(scene.parcels[kept], return_index=True)
    crops = scene.labels[kept][first[1]][np.searchsorted(first[0], numbers)]
    shapes = np.array([shapely.union_all(parts[number]) for number in numbers.tolist()])
    return Region(features, scene.labels[rows, columns], field, shapes, crops)


def part(region: Region, fields: NDArray[np.bool_]) -> Region:
    """Some of the fields."""
    pixels = fields[region.field]
    numbers = np.cumsum(fields) - 1
    return Region(region.features[pixels], region.crops[pixels], numbers[region.field[pixels]], region.shapes[fields],
                  region.field_crops[fields])  # fmt: skip


def series(images: NDArray[np.int16], days: NDArray[np.int16]) -> NDArray[np.float32]:
    """t c h w -> h w d, as the pixel learners see it."""
    height, width = images.shape[2:]
    even = EvenSeries(torch.zeros(BANDS), torch.ones(BANDS), torch.arange(int(days[0]), int(days[-1]) + 1, 20))
    found = []
    for top in range(0, height, 64):
        part = torch.from_numpy(np.where(images[:, :, top : top + 64] == NODATA, 0, images[:, :, top : top + 64]))
        given = torch.from_numpy(days.astype(np.int64))[None], torch.ones(1, len(days), dtype=torch.bool)
        found.append(even(part[None].float(), *given).numpy().reshape(-1, width, len(even.days) * BANDS))
    return np.concatenate(found)


def learner(kind: str, seed: int) -> Any:
    if kind == "linear":
        return LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.01)
    return HistGradientBoostingClassifier(max_iter=30, min_samples_leaf=20, early_stopping=False, random_state=seed)


def cross_validated(region: Region, kind: str, seed: int) -> tuple[NDArray[np.uint8], list[Any], NDArray[np.int64]]:
    """p predictions of the fold that held each pixel out, the five models, and the block of each field."""
    plan = propose_split(region.shapes, PIXEL)
    split = split_fields(region.shapes, region.field_crops, plan.block, plan.gap, seed=seed)
    found, models = np.full(len(region.crops), 255, np.uint8), []
    for test in range(1, 6):
        kept = with_gap(region.shapes, split.folds, test, plan.gap)
        train = np.isin(kept, [fold for fold in range(1, 6) if fold != test])[region.field]
        models.append(learner(kind, seed).fit(region.features[train], region.crops[train]))
        tested = (split.folds == test)[region.field]
        found[tested] = models[-1].predict(region.features[tested])
    return found, models, split.blocks


def accuracies(truth: NDArray, found: NDArray, field: NDArray, unit: NDArray, count: int, seed: int) -> pd.DataFrame:
    """The MEASURES and their intervals."""
    one = pooled(truth, found, field, unit, Ids(CROPS, False))
    table = score_table(one, [str(k) for k in range(CROPS)], draws(int(one.unit.max()) + 1, count, seed))
    table = table[table["class"] == ""].set_index(["level", "measure"])
    return table.loc[MEASURES, ["value", "low", "high"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=50, help="regions")
    parser.add_argument("--side", type=int, default=230, help="pixels a side of a region (230: 120 fields)")
    parser.add_argument("--learner", choices=("linear", "trees"), default="linear")
    where = "labelled fields drawn at random over the land, or all those of one part of it"
    parser.add_argument("--labels", choices=("spread", "part"), default="spread", help=where)
    parser.add_argument("--rest", type=float, default=2.0, help="land without labels, in parts of the region's")
    given = parser.parse_args()
    dates = np.arange(np.datetime64("2019-03-01"), np.datetime64("2019-10-15"), np.timedelta64(25, "D"))
    tile = make_tile(dates, (1, 0))
    fields, results = [], []
    for seed in range(given.draws):
        whole = make_region(given.side, round(given.side * (1 + given.rest)), tile, (3, seed))
        if given.labels == "part":
            labelled = shapely.get_x(shapely.centroid(whole.shapes)) < given.side * PIXEL
        else:
            labelled = np.random.default_rng(seed).random(len(whole.shapes)) < 1 / (1 + given.rest)
        region = part(whole, labelled)
        found, models, blocks = cross_validated(region, given.learner, seed)
        truth = true_accuracies(models, part(whole, ~labelled))
        units = {"blocks": blocks[region.field], "fields": region.field, "pixels": np.arange(len(region.crops))}
        for name, unit in units.items():
            table = accuracies(region.crops, found, region.field, unit, 400, seed)
            for (level, measure), row in table.iterrows():
                true = truth[(level, measure)]
                results.append((name, level, measure, true, row.value, row.high - row.low, row.low <= true <= row.high))
        fields.append(len(region.shapes))
    columns = ["drawn again", "level", "measure", "truth", "estimate", "width", "held"]
    table = pd.DataFrame(results, columns=columns).groupby(columns[:3], sort=False).mean()
    print(
        f"{given.draws} regions of {min(fields)} to {max(fields)} fields (mean {np.mean(fields):.0f}), {given.learner}"
    )
    print(table.to_string(float_format="{:.3f}".format))


def true_accuracies(models: list[Any], rest: Region) -> dict[tuple[str, str], float]:
    """The mean over the models of their accuracies on the rest of the land."""
    found = [
        accuracies(rest.crops, model.predict(rest.features), rest.field, rest.field, 2, 0)["value"] for model in models
    ]
    return dict(pd.concat(found, axis=1).mean(axis=1))


if __name__ == "__main__":
    main()
