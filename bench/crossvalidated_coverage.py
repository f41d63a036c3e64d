"""Do the 95 % intervals of cross-validated accuracies hold the truth? Regions made by the demo's generator.

Every draw is a region of its own, some of whose fields have labels: drawn at random (`--labels spread`), or all of one
part of the land (`part`). They are split as `split.kind: auto` splits them, a linear discriminant (or boosted trees) is
trained on every fold, and the pooled test predictions are scored as src/crossvalidate.py does. The truth is what these
five models have, on average, on the many fields without labels; its mIoU is of the classes that have labels, as the
estimate's. Series of 7 dates and 5 bands, and parcels half as large as the demo's (as large as PASTIS's largest), so
that a draw is cheap. The counts of each draw are kept in DIR: goes on where it was stopped, and
bench/interval_candidates.py compares intervals on the same draws. Prints the share of intervals that hold the truth.
"""

import argparse
import sys
from dataclasses import replace
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
from cluemap.data.synthetic.generator_params import STANDARD, Difficulty, LandKnobs  # noqa: E402
from cluemap.data.synthetic.region import Tile, make_tile, render  # noqa: E402
from cluemap.data.synthetic.spectra import SURFACE_BANDS, Band  # noqa: E402
from cluemap.files import atomic  # noqa: E402
from cluemap.model.networks.pixel_segmenter import EvenSeries  # noqa: E402
from cluemap.statistics.pooled_scores import LEVELS, WHOLE, Pooled, confusion_of, draws, pooled, score_table  # noqa: E402
from cluemap.training.metrics import Ids, confusion, scores  # noqa: E402

PIXEL, STEP = 10.0, 2  # metres; every STEP-th row and column is looked at
CROPS = 18
IDS = Ids(CROPS, False)
MEASURES = ("overall accuracy", "mIoU")
DATES = np.arange(np.datetime64("2019-03-01"), np.datetime64("2019-10-15"), np.timedelta64(35, "D"))
BANDS = tuple(band for band in SURFACE_BANDS if band.name in ("B03", "B04", "B06", "B8A", "B11"))


class Region(NamedTuple):
    """Pixels p of fields f."""

    features: NDArray[np.float32]  # p d
    crops: NDArray[np.uint8]  # p, 1..18
    field: NDArray[np.int64]  # p, 0..f-1
    shapes: NDArray  # f
    field_crops: NDArray[np.uint8]  # f


def make_region(
    height: int, width: int, tile: Tile, seed: tuple[int, int], bands: tuple[Band, ...] = SURFACE_BANDS,
    difficulty: Difficulty = STANDARD,
) -> Region:  # fmt: skip
    """The fields of a rendered region, with their series at every 20th day."""
    scene = render(height, width, tile, seed, bands, difficulty)
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
    bands, height, width = images.shape[1:]
    even = EvenSeries(torch.zeros(bands), torch.ones(bands), torch.arange(int(days[0]), int(days[-1]) + 1, 20))
    found = []
    for top in range(0, height, 64):
        part = torch.from_numpy(np.where(images[:, :, top : top + 64] == NODATA, 0, images[:, :, top : top + 64]))
        given = torch.from_numpy(days.astype(np.int64))[None], torch.ones(1, len(days), dtype=torch.bool)
        found.append(even(part[None].float(), *given).numpy().reshape(-1, width, len(even.days) * bands))
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


class Draw(NamedTuple):
    """What is kept of a region. Axes: m model, l level (pixels, fields), s class."""

    blocks: Pooled  # the labelled fields' pooled test predictions; a row a field
    truth: NDArray[np.int64]  # m l s s+1: each model's confusion on the fields without labels

    def value(self, level: str, measure: str) -> float:
        """The true score: the models' mean. mIoU: of the classes that have labels."""
        counts = self.truth[:, LEVELS.index(level)]
        if measure != "mIoU":
            return float(np.mean(scores(counts).overall_accuracy))
        return float(np.nanmean(scores(counts).iou[:, np.unique(self.blocks.true)]))


def make_draw(side: int, parcel: float, share: float, where: str, kind: str, seed: int) -> Draw:
    """The region of `seed`, of whose fields of `parcel` pixels about `share` have labels."""
    # Without villages: laying them costs the square of the land, and no field lies there.
    land = Difficulty(land=LandKnobs(parcel_area=parcel, villages=0.0))
    whole = make_region(side, side, make_tile(DATES, (1, 0)), (3, seed), BANDS, land)
    if where == "part":
        labelled = shapely.get_x(shapely.centroid(whole.shapes)) < share * side * PIXEL
    else:
        labelled = np.random.default_rng(seed).random(len(whole.shapes)) < share
    region = part(whole, labelled)
    found, models, blocks = cross_validated(region, kind, seed)
    rest = part(whole, ~labelled)
    truth = np.stack([confusions_of(model.predict(rest.features), rest) for model in models])
    return Draw(pooled(region.crops, found, region.field, blocks[region.field], IDS), truth)


def confusions_of(found: NDArray[np.uint8], region: Region) -> NDArray[np.int64]:
    """p -> l s s+1: by pixels, and by fields, which count as what most of their pixels are given."""
    counts = np.bincount(region.field * CROPS + found - 1, minlength=len(region.shapes) * CROPS)
    most = counts.reshape(-1, CROPS).argmax(axis=1) + 1
    return np.stack([confusion(region.crops, found, IDS), confusion(region.field_crops, most, IDS)])


def keep(draw: Draw, file: Path) -> None:
    with atomic(file) as temporary, temporary.open("wb") as out:
        np.savez_compressed(out, truth=draw.truth, **vars(draw.blocks))


def kept(file: Path) -> Draw:
    with np.load(file) as found:
        arrays = dict(found)
    truth = arrays.pop("truth")
    return Draw(Pooled(**arrays), truth)


def by_fields(blocks: Pooled) -> Pooled:
    """The same predictions with fields as what is drawn again."""
    return replace(blocks, unit=np.arange(len(blocks.true)))


def pixel_intervals(blocks: Pooled, count: int, seed: int) -> dict[str, tuple[float, float]]:
    """By measure, from drawing single pixels: as if they were independent."""
    cells = confusion_of(blocks, "pixels")
    drawn = np.random.default_rng(seed).multinomial(cells.sum(), cells.ravel() / cells.sum(), size=count)
    found = scores(drawn.reshape(count, *cells.shape))
    kept = {measure: getattr(found, key) for key, measure in WHOLE.items() if measure in MEASURES}
    return {measure: tuple(np.percentile(values, [2.5, 97.5])) for measure, values in kept.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that keeps the draws")
    parser.add_argument("--draws", type=int, default=50, help="regions")
    parser.add_argument("--first", type=int, default=0, help="the first one's seed")
    parser.add_argument("--side", type=int, default=163, help="about 120 fields on a square of so many pixels")
    parser.add_argument("--parcel", type=float, default=150.0, help="median pixels of a parcel; the demo's have 300")
    parser.add_argument("--learner", choices=("linear", "trees"), default="linear")
    where = "labelled fields drawn at random over the land, or all those of one part of it"
    parser.add_argument("--labels", choices=("spread", "part"), default="spread", help=where)
    parser.add_argument("--rest", type=float, default=8.0, help="fields without labels, in parts of those with")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    side = round(given.side * (1 + given.rest) ** 0.5)
    draws_, results = [], []
    for seed in range(given.first, given.first + given.draws):
        file = given.out / f"draw_{seed:04}.npz"
        if not file.exists():
            keep(make_draw(side, given.parcel, 1 / (1 + given.rest), given.labels, given.learner, seed), file)
        draws_.append(kept(file))
        results += rows(draws_[-1], seed)
    columns = ["drawn again", "level", "measure", "truth", "estimate", "width", "held"]
    table = pd.DataFrame(results, columns=columns).groupby(columns[:3], sort=False).mean()
    fields = [len(draw.blocks.true) for draw in draws_]
    print(f"{len(fields)} regions of {min(fields)} to {max(fields)} fields (mean {np.mean(fields):.0f})")
    print(table.to_string(float_format="{:.3f}".format))


def rows(draw: Draw, seed: int) -> list[tuple]:
    """What is drawn again, level, measure, truth, estimate, the interval's width and whether it holds the truth."""
    found = []
    for name, one in (("blocks", draw.blocks), ("fields", by_fields(draw.blocks))):
        table = score_table(one, [str(k) for k in range(CROPS)], draws(int(one.unit.max()) + 1, 1000, seed))
        table = table[(table["class"] == "") & table["measure"].isin(MEASURES)]
        found += [(name, row.level, row.measure, row.value, row.low, row.high) for row in table.itertuples()]
    estimate = {row[2]: row[3] for row in found if row[1] == "pixels"}
    ends = pixel_intervals(draw.blocks, 1000, seed)
    found += [("pixels", "pixels", measure, estimate[measure], *ends[measure]) for measure in MEASURES]
    results = []
    for name, level, measure, value, low, high in found:
        true = draw.value(level, measure)
        results.append((name, level, measure, true, value, high - low, low <= true <= high))
    return results


if __name__ == "__main__":
    main()
