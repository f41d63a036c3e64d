"""Whether a scene is like what a model was trained on: dates, season, years, level of values, classes."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cluemap.data.scenes.imagery import STORED
from cluemap.data.scenes.imagery import Imagery as SceneImagery
from cluemap.data.scenes.reflectance import check_level
from cluemap.data.scenes.scene_file import NAME, classes_of, read_scene
from cluemap.data.scenes.seasons import YEAR, of_years
from cluemap.data.scenes.tables import listed
from cluemap.errors import DataError
from cluemap.mapping.map_sources import Imagery
from cluemap.model.storage.parcel_models import ParcelModel
from cluemap.model.storage.trained_models import Card, Training

NEAR = 20  # days within which two dates show the same state of the crops
COVERED = 0.6  # share of the training's days that should be near a date of the scene
FEW = 0.5  # of the dates of the training's median window
FAR = 2.0  # standard deviations of the training's values


def compare(card: Card | ParcelModel, imagery: Imagery, folder: Path) -> list[str]:
    """What is unlike the training, in figures; raises DataError where no map can come of it."""
    said = []
    if isinstance(imagery, SceneImagery):
        said += imagery.notes
        samples = check_level(imagery, folder)
        said += [*of_level(card, samples), *of_years(imagery.dates), *_of_classes(card, folder)]
    if card.training is not None:
        said += of_dates(card.training, imagery.days)
    return said


def of_dates(training: Training, days: NDArray[np.int16]) -> list[str]:
    """Too few dates, or other times of the year than those of the training."""
    said, seen = [], np.array(training.days)
    fewest, median, most = training.dates
    if len(days) < FEW * median and len(days) < fewest:
        said.append(
            f"the scene has {len(days)} dates, the training's windows had {fewest} to {most} (half of them {median} or "
            "more): expect many wrong pixels, or add dates"
        )
    strange = days[distance(days, seen) > NEAR]
    if len(strange) == len(days):
        raise DataError(
            f"no date of the scene is within {NEAR} days of the times of the year that the model was trained on "
            f"({_months(seen)}; here {_months(days)}): take images of that season, or train on this one"
        )
    if len(strange):
        shown = listed([_day(int(day)) for day in strange])
        said.append(f"the model never saw the time of the year of {len(strange)} of {len(days)} dates: {shown}")
    lacking = seen[distance(seen, days) > NEAR]
    if len(lacking) > (1 - COVERED) * len(seen):
        said.append(
            f"{len(lacking) / len(seen):.0%} of the days of the year that the model was trained on are more than "
            f"{NEAR} days from any date of the scene; {_months(lacking)} are missing: add dates"
        )
    return said


def of_level(card: Card | ParcelModel, samples: list[NDArray[np.int16]]) -> list[str]:
    """Bands whose values lie off those of the training."""
    far = []
    for band, mean, std, values in zip(card.legend.bands, card.mean, card.std, samples, strict=True):
        if values.size and abs(np.median(values) - mean) > FAR * std:
            far.append(f"{band} {np.median(values) / STORED:.3f} (training {mean / STORED:.3f} ± {std / STORED:.3f})")
    if len(far) <= len(card.legend.bands) / 2:
        return []
    return [
        f"the reflectance of {len(far)} of {len(card.legend.bands)} bands is unlike the training's: {listed(far)}; "
        f"check images.scale and images.offset in {NAME}"
    ]


def distance(days: NDArray, others: NDArray) -> NDArray:
    """n: days from each day of the year to the nearest of `others`, round the turn of the year."""
    apart = np.abs(np.asarray(days, int)[:, None] - np.asarray(others, int)[None])
    return np.minimum(apart, YEAR - apart).min(axis=1)


def _of_classes(card: Card | ParcelModel, folder: Path) -> list[str]:
    """Classes of scene.yaml that the model does not know."""
    names = {one.name for one in classes_of(read_scene(folder))} - {"background"}
    unknown = sorted(names - set(card.legend.class_names))
    if not unknown:
        return []
    return [
        f"{folder / NAME} lists {len(unknown)} classes that the model does not know, the map has none of them: "
        f"{listed(unknown)}; it knows {listed(list(card.legend.class_names))}"
    ]


def _months(days: NDArray) -> str:
    found = sorted({(date(2019, 1, 1) + timedelta(int(day) - 1)).month for day in days})
    return ", ".join(date(2019, month, 1).strftime("%B") for month in found)


def _day(day: int) -> str:
    return f"{date(2019, 1, 1) + timedelta(day - 1):%d %B}"
