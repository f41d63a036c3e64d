"""A small Germany tree in the published layout, from the demo's land, weather and crops: for tests and CPU runs.

The land is rendered region by region and cut into tiles, so that neighbouring tiles continue each other as in the
published data; a region is in one split only. What the demo calls background or void is unknown here: there are no
labels for it, and Germany has no background class.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from itertools import product
from pathlib import Path

import numpy as np
from einops import rearrange, reduce
from numpy.typing import NDArray
from tqdm import tqdm

from cluemap.data.formats.mtlcc import CLASSES, UNKNOWN, parcel_file
from cluemap.data.formats.mtlcc_tile import COARSER
from cluemap.data.formats.mtlcc_writer import write_lists, write_tile
from cluemap.data.patches import NODATA
from cluemap.data.synthetic.demo_pastis import CARD, digest
from cluemap.data.synthetic.generator_params import Difficulty, LandKnobs
from cluemap.data.synthetic.random_fields import stream
from cluemap.data.synthetic.region import Scene, make_tile, render
from cluemap.data.synthetic.spectra import TOP_BANDS
from cluemap.errors import DataError
from cluemap.files import atomic_folder, read_json, write_json

FOLDS = 10
TURN = 6  # of so many regions one is for validation, one for test
SIDE = 24  # pixels of a tile
YEAR = 2017
HOME = Path("data_IJGI18", "datasets", "full", "240")
# The demo's crops (PASTIS's ids) as Germany's. It has no sunflowers; soybeans are the crop whose season is nearest.
GERMAN = {1: 3, 2: 22, 3: 26, 4: 23, 5: 5, 7: 17, 9: 1, 13: 16}
USED = tuple(number for number in CLASSES if number in GERMAN.values())  # for `source.classes`
NORTH_OF_MUNICH = (682_000.0, 5_378_000.0)  # EPSG:32632
SPACING = 3840.0  # metres between regions


@dataclass(frozen=True)
class GermanyPlan:
    """What the tree consists of."""

    seed: int = 0
    tiles: int = 1000
    region: int = 5  # tiles a side of a region
    least_dates: int = 15
    most_dates: int = 20
    least_labelled: float = 0.1  # tiles with a smaller share of labelled pixels are left out
    difficulty: Difficulty = field(default_factory=lambda: Difficulty(land=LandKnobs(declared=0.92, woods=0.07)))


@dataclass(frozen=True)
class Group:
    """The tiles of one region in the published form, row by row."""

    images: dict[str, NDArray[np.int64]]  # "x10", "x20", "x60" -> n t h w c
    doy: NDArray[np.int64]  # t
    labels: NDArray[np.int64]  # n h w
    parcels: NDArray[np.int32]  # n h w, numbers within the region, 0 = no parcel
    corners: list[tuple[float, float]]
    places: list[int]  # those of the n tiles that have labels enough

    def write(self, path: Path, place: int) -> None:
        images = {name: values[place] for name, values in self.images.items()}
        write_tile(path, **images, doy=self.doy, year=np.full(len(self.doy), YEAR), labels=self.labels[place])
        np.save(parcel_file(path), self.parcels[place])


def write_demo_germany(folder: Path, seed: int = 0, tiles: int = 1000) -> str:
    """Write the tree of `tiles` tiles into `folder` unless it is there already; -> one line that says what was done.

    Raises:
        DataError: `folder` holds something that this generator did not make.
    """
    return write_tree(folder, GermanyPlan(seed=seed, tiles=tiles))


def write_tree(folder: Path, plan: GermanyPlan) -> str:
    """As `write_demo_germany`, with all params."""
    if _is_made(folder, plan):
        return f"{folder} is complete (seed {plan.seed}): nothing to do"
    with atomic_folder(folder) as temporary:
        home = temporary / HOME
        data = home / f"data{YEAR % 100}"
        data.mkdir(parents=True)
        parcel_file(data / "1.tfrecord.gz").parent.mkdir()
        corners: dict[str, tuple[float, float]] = {}
        regions: list[list[str]] = []
        with tqdm(total=plan.tiles, desc="demo Germany", unit="tile") as progress:
            while len(corners) < plan.tiles:
                group = make_group(plan, len(regions))
                regions.append([])
                for place in group.places[: plan.tiles - len(corners)]:
                    tile = str(len(corners) + 1)
                    group.write(data / f"{tile}.tfrecord.gz", place)
                    corners[tile] = group.corners[place]
                    regions[-1].append(tile)
                    progress.update()
        write_lists(home, corners, splits(regions))
        write_json(temporary / CARD, {**_settings(plan), "digest": digest(temporary)})
    return f"{folder}: {plan.tiles} tiles of 240 m in {len(regions)} regions, seed {plan.seed}"


def splits(regions: list[list[str]]) -> dict[str, list[str]]:
    """Tiles of each region -> the lists of tileids/. Every sixth region is for validation; each fold tests others."""
    others = [region for number, region in enumerate(regions) if number % TURN != TURN - 1]
    lists = {"eval": [tile for region in regions[TURN - 1 :: TURN] for tile in region]}
    for fold in range(FOLDS):
        tested = {number % len(others) for number in range(fold, fold + max(1, len(others) // (TURN - 1)))}
        lists[f"train_fold{fold}"] = [t for number, region in enumerate(others) if number not in tested for t in region]
        lists[f"test_fold{fold}"] = [t for number in sorted(tested) for t in others[number]]
    return lists


def make_group(plan: GermanyPlan, region: int) -> Group:
    """-> the tiles of one region, which has its own land, dates and weather."""
    size = SIDE * plan.region
    weather = make_tile(_dates(plan, region), (plan.seed, 2, region), plan.difficulty)
    scene = render(size, size, weather, (plan.seed, 3, region), TOP_BANDS, plan.difficulty)
    tiles = "(i h) (j w) -> (i j) h w"
    labels = rearrange(_german(scene), tiles, h=SIDE, w=SIDE)
    parcels = rearrange(scene.parcels, tiles, h=SIDE, w=SIDE)
    images, first = {}, 0
    for name, (factor, bands) in COARSER.items():
        coarse = _coarser(scene.images[:, first : first + bands], factor)
        images[name] = rearrange(coarse, "t (i h) (j w) c -> (i j) t h w c", h=SIDE // factor, w=SIDE // factor)
        first += bands
    left = NORTH_OF_MUNICH[0] + SPACING * (region % 8)
    top = NORTH_OF_MUNICH[1] - SPACING * (region // 8)
    grid = product(range(plan.region), repeat=2)
    corners = [(left + 10 * SIDE * column, top - 10 * SIDE * row) for row, column in grid]
    enough = (labels != UNKNOWN).mean(axis=(1, 2)) >= plan.least_labelled
    return Group(images, scene.days.astype(np.int64), labels, parcels, corners, np.flatnonzero(enough).tolist())


def _dates(plan: GermanyPlan, region: int) -> NDArray[np.datetime64]:
    """A choice of one year's 5-day visits, denser in summer; each region has its own."""
    rng = stream((plan.seed, 1, region))
    visits = np.datetime64(f"{YEAR}-01-06", "D") + int(5 * rng.random()) + 5 * np.arange(68)
    season = np.cos(2 * np.pi * (visits - np.datetime64(f"{YEAR}-06-20")).astype(np.float64) / 365.25)
    count = plan.least_dates + int((plan.most_dates + 1 - plan.least_dates) * rng.random())
    liking = 0.8 * season - np.log(-np.log(rng.random(len(visits))))
    return np.sort(visits[np.argsort(-liking, kind="stable")[:count]])


def _german(scene: Scene) -> NDArray[np.int64]:
    """-> h w in Germany's ids."""
    table = np.full(256, UNKNOWN, np.int64)
    table[list(GERMAN)] = list(GERMAN.values())
    return table[scene.labels]


def _coarser(images: NDArray[np.int16], factor: int) -> NDArray[np.int64]:
    """t c h w -> t (h / factor) (w / factor) c as the product stores it: uint16, 0 where a part was not seen."""
    blocks = "t c (h p) (w q) -> t h w c"
    seen = reduce(images != NODATA, blocks, "min", p=factor, q=factor)
    total = reduce(images.astype(np.int64), blocks, "sum", p=factor, q=factor)
    return np.where(seen, np.maximum((2 * total + factor**2) // (2 * factor**2), 1), 0)


def _settings(plan: GermanyPlan) -> dict:
    """What the tree depends on: the plan, and the generator itself by a small region (other code, other bits)."""
    probe = make_group(replace(plan, region=1), 0)
    content = b"".join(array.tobytes() for array in (*probe.images.values(), probe.doy, probe.labels))
    return json.loads(json.dumps({**asdict(plan), "generator": blake2b(content, digest_size=8).hexdigest()}))


def _is_made(folder: Path, plan: GermanyPlan) -> bool:
    """Whether `folder` holds exactly this plan's data."""
    if not folder.exists() or not any(folder.iterdir()):
        return False
    if not (folder / CARD).is_file():
        raise DataError(f"{folder} holds files that the demo generator did not make: move them, or give another folder")
    return read_json(folder / CARD) == {**_settings(plan), "digest": digest(folder)}
