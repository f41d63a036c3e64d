"""What the labels' values mean: the classes of scene.yaml, and how features get their ids."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import geopandas as gpd
import numpy as np
from numpy.typing import NDArray

from cluemap.data.patches import VOID, CropClass
from cluemap.data.scenes.scene_file import BACKGROUND, COLOURS, Areas, Class, Points, Polygons
from cluemap.data.scenes.tables import listed, nearest, read_csv, text_of
from cluemap.errors import DataError

LEFT_OUT = -1  # a label that is not used


class ClassTable:
    """Ids 1..K in the order of scene.yaml, 0 = background."""

    def __init__(self, classes: Sequence[Class], source: Path):
        crops = [one for one in classes if one.name != BACKGROUND]
        self.source = source
        self.crops = tuple(CropClass(one.name, one.colour or COLOURS[i % len(COLOURS)]) for i, one in enumerate(crops))
        self.has_background = len(crops) < len(classes)
        self._ids: dict[str, int] = {}
        if len(crops) >= VOID:
            raise DataError(f"{source} lists {len(crops)} classes, but a map holds {VOID - 1} at most: merge some")
        numbers = {one.name: number for number, one in enumerate(crops, 1)} | {BACKGROUND: 0}
        for one in classes:
            for value in [one.name] if one.values is None else one.values:
                if self._ids.setdefault(text_of(value), numbers[one.name]) != numbers[one.name]:
                    raise DataError(f"{source}: the value {value!r} belongs to two classes: give it to one of them")

    def ids(self, values: Sequence[object], file: Path, others: str, notes: list[str]) -> NDArray[np.int16]:
        """n values -> n ids, LEFT_OUT for gaps and for those that `others` leaves unlabelled. What was found that no
        class names goes to `notes`.

        Raises:
            DataError: a value that is in no class, where `others` refuses it. Names them all.
        """
        names = [text_of(value) for value in values]
        if empty := sum(not name and name not in self._ids for name in names):
            notes.append(f"{file}: {empty} of {len(names)} features have no class (an empty cell): unlabelled")
        unknown = Counter(name for name in names if name and name not in self._ids)
        if unknown and others == "refuse":
            shown = ", ".join(repr(name) for name in sorted(unknown)[:8]) + (" ..." if len(unknown) > 8 else "")
            near = next(filter(None, (nearest(name, list(self._ids)) for name in sorted(unknown))), "")
            raise DataError(
                f"{file} holds {shown}, which no class of {self.source} names{near}; add it to a class's `values`, or "
                "say by labels.others what becomes of it (unlabelled, background)"
            )
        if unknown:
            notes.append(self._of_unknown(unknown, file, others))
        instead = 0 if others == "background" else LEFT_OUT
        return np.array([self._ids.get(name, instead if name else LEFT_OUT) for name in names], np.int16)

    def _of_unknown(self, unknown: Counter[str], file: Path, others: str) -> str:
        shown = [f"{name!r} ({count}{nearest(name, list(self._ids))})" for name, count in unknown.most_common()]
        return (
            f"{file}: {unknown.total()} features are of {len(unknown)} classes that scene.yaml does not list, taken as "
            f"{others}: {listed(shown)}"
        )


def label_ids(
    table: gpd.GeoDataFrame, spec: Polygons | Points, folder: Path, classes: ClassTable, notes: list[str]
) -> NDArray[np.uint8]:
    """One id for every feature; VOID where it is left unlabelled."""
    ids = classes.ids(table[spec.column].tolist(), folder / spec.file, spec.others, notes)
    return np.where(ids == LEFT_OUT, VOID, ids).astype(np.uint8)


def crops_of(folder: Path, spec: Areas, table: gpd.GeoDataFrame, classes: ClassTable) -> list[NDArray[np.bool_] | None]:
    """For every area (row of `table`) k: which crops it is said to have; None where nothing is said.

    Raises:
        DataError: an unknown crop, or a table of lists that goes with none of the areas.
    """
    lists, file = table[spec.column].tolist() if not spec.table else [], folder / spec.file
    if spec.table and spec.key:
        file = folder / spec.table
        rows = read_csv(file, [spec.key, spec.column])
        joined = rows.groupby(spec.key)[spec.column].agg(spec.separator.join)  # one line a crop, or one line an area
        lists = [joined.get(text_of(value), "") for value in table[spec.key]]
    names = [[name.strip() for name in text_of(text).split(spec.separator) if name.strip()] for text in lists]
    if not any(names):
        raise DataError(f"{file}: none of the {len(table)} areas has a list of crops: correct labels.column or key")
    numbers = np.arange(1, len(classes.crops) + 1)
    return [np.isin(numbers, classes.ids(row, file, "refuse", [])) if row else None for row in names]
