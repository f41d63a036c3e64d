"""The demo data set on disk, in PASTIS's published layout: every patch from its own seed, so in any order.

`demo.json` beside the published files says what made them (settings, digests of the generator's bits and of the data);
a folder that agrees is left alone.
"""

import hashlib
import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cluemap.data.synthetic.generator_params import STANDARD, Difficulty
from cluemap.data.synthetic.pastis_tables import FOLDS, TILES, Record, metadata, moments, statistics
from cluemap.data.synthetic.random_fields import stream
from cluemap.data.synthetic.region import Dates, Tile, make_tile, render
from cluemap.errors import DataError, ParamsError
from cluemap.files import atomic_folder, read_json, write_json

CARD = "demo.json"


@dataclass(frozen=True)
class Plan:
    """What the demo consists of."""

    seed: int = 0
    patches: int = 5  # in each of the 5 folds
    size: int = 128  # pixels a side
    least_dates: int = 20
    most_dates: int = 28
    difficulty: Difficulty = STANDARD

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ParamsError(f"the demo's seed is {self.seed}: give 0 or a larger whole number")


def make_demo(folder: Path, plan: Plan, processes: int = 1) -> str:
    """Write the data set into `folder` unless it is there already; -> one line that says what was done.

    Raises:
        DataError: `folder` holds something that this generator did not make.
    """
    if _is_made(folder, plan):
        return f"{folder} is complete (seed {plan.seed}): nothing to do"
    with atomic_folder(folder) as temporary:
        for name in ("DATA_S2", "ANNOTATIONS"):
            (temporary / name).mkdir()
        records = list(tqdm(_write_patches(temporary, plan, processes), "demo patches", plan.patches * FOLDS))
        write_json(temporary / "metadata.geojson", metadata(records, plan.size))
        write_json(temporary / "NORM_S2_patch.json", statistics(records))
        write_json(temporary / CARD, {**_settings(plan), "digest": digest(temporary)})
    return f"{folder}: {len(records)} patches in {FOLDS} folds, seed {plan.seed}"


def digest(folder: Path) -> str:
    """BLAKE2b over names and contents of all files but the card."""
    total = hashlib.blake2b(digest_size=16)
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CARD):
        content = path.read_bytes()
        total.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode())
        total.update(content)
    return total.hexdigest()


def patch_seed(plan: Plan, number: int) -> tuple[int, ...]:
    """The seed that `render` takes for the patch with this ID_PATCH."""
    return plan.seed, 1, number


def demo_tile(plan: Plan, tile: int) -> Tile:
    """The tile with its dates: a random choice of the satellite's 5-day visits, denser in summer."""
    rng = stream((plan.seed, 0, tile), 0)
    visits = np.datetime64("2018-09-12", "D") + int(5 * rng.random()) + 5 * np.arange(82)
    season = np.cos(2 * np.pi * (visits - np.datetime64("2019-06-10")).astype(np.float64) / 365.25)
    count = plan.least_dates + int((plan.most_dates + 1 - plan.least_dates) * rng.random())
    liking = 0.6 * season - np.log(-np.log(rng.random(len(visits))))
    dates = np.sort(visits[np.argsort(-liking, kind="stable")[:count]])
    return make_tile(dates, (plan.seed, 0, tile, 1), plan.difficulty)


def patch_places(plan: Plan) -> list[tuple[int, int, int, int]]:
    """-> (ID_PATCH, fold, tile, place within the tile) of every patch; each fold has patches in every tile."""
    places, taken = [], [0] * len(TILES)
    for fold in range(FOLDS):
        for turn in range(plan.patches):
            tile = (turn + fold) % len(TILES)
            places.append((10000 * (tile + 1) + taken[tile], fold + 1, tile, taken[tile]))
            taken[tile] += 1
    return places


def _write_patches(folder: Path, plan: Plan, processes: int) -> Iterator[Record]:
    places = patch_places(plan)
    jobs = [(folder, plan, *place) for place in places]
    if processes <= 1:
        yield from map(_write_patch, jobs)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_write_patch, jobs)


def _write_patch(job: tuple[Path, Plan, int, int, int, int]) -> Record:
    folder, plan, number, fold, tile, place = job
    seen = demo_tile(plan, tile)
    scene = render(plan.size, plan.size, seen, patch_seed(plan, number), difficulty=plan.difficulty)
    # PASTIS's two other channels are not used here: the parcel's number (low byte), and whether a crop is declared.
    target = np.stack([scene.labels, scene.parcels.astype(np.uint8), scene.labels > 0]).astype(np.uint8)
    np.save(folder / f"DATA_S2/S2_{number}.npy", scene.images)
    np.save(folder / f"ANNOTATIONS/TARGET_{number}.npy", target)
    np.save(folder / f"ANNOTATIONS/ParcelIDs_{number}.npy", scene.parcels)
    mean, deviation = moments(scene.images)
    cover = float((scene.parcels > 0).mean())
    return Record(number, fold, tile, place, _whole(seen.dates), int(scene.parcels.max()), cover, mean, deviation)


def _whole(dates: Dates) -> list[int]:
    return [int(str(date).replace("-", "")) for date in dates]


def _settings(plan: Plan) -> dict[str, Any]:
    """What the data depends on: the plan, and the generator itself by a small scene (other code, other bits)."""
    probe = render(40, 40, demo_tile(plan, 0), patch_seed(plan, 0), difficulty=plan.difficulty)
    content = probe.images.tobytes() + probe.labels.tobytes() + probe.parcels.tobytes()
    return json.loads(json.dumps({**asdict(plan), "generator": hashlib.blake2b(content, digest_size=8).hexdigest()}))


def _is_made(folder: Path, plan: Plan) -> bool:
    """Whether `folder` holds exactly this plan's data."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / CARD).is_file():
        raise DataError(f"{folder} is not the demo generator's work: move it away, or give another folder with --out")
    try:
        card = read_json(folder / CARD)
    except DataError:
        return False
    return card == {**_settings(plan), "digest": digest(folder)}
