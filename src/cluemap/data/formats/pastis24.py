"""PASTIS24 as TSViT users hold it: one pickle per 24 px window of a PASTIS patch, dates sorted by day of year."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cluemap.data.formats.pastis import Labelling, common_labels, labelling
from cluemap.data.formats.pastis_metadata import Entry, Place, read_metadata, year_of
from cluemap.data.formats.restricted_pickle import load_pickle
from cluemap.data.patches import Legend, Patch, checked
from cluemap.errors import DataError

WINDOW = 24  # pixels a side
WINDOWS_A_ROW = 5  # of a 128 px patch: window j lies at row j // 5, column j % 5
FOLDS = range(1, 6)
PIXEL = 10.0  # metres
Folds = Literal["fold_paths", "metadata", "by_patch"]


@dataclass(frozen=True)
class Window:
    """One pickle and what is known of it without opening it."""

    path: Path
    patch: str
    number: int  # j
    fold: int
    tile: str
    place: Place | None  # of the whole patch
    year: int | None


@dataclass(frozen=True, eq=False)
class Pastis24Reader:
    """Windows in the order of patch and number, each as a patch of its own of 24 px."""

    root: Path
    labels: Labelling
    windows: tuple[Window, ...]

    @property
    def legend(self) -> Legend:
        return self.labels.legend

    def __len__(self) -> int:
        return len(self.windows)

    def __iter__(self) -> Iterator[Patch]:
        return (self.read(index) for index in range(len(self)))

    def read(self, index: int) -> Patch:
        """Decode and check one pickle; raises DataError."""
        window = self.windows[index]
        content = load_pickle(window.path)
        images, target, days = (_member(window.path, content, name) for name in ("img", "labels", "doy"))
        row, column = (WINDOW * part for part in divmod(window.number, WINDOWS_A_ROW))
        place = window.place
        corner = (place.corner[0] + PIXEL * column, place.corner[1] - PIXEL * row) if place else None
        patch = Patch(
            name=window.patch,
            fold=window.fold,
            split=None,
            tile=window.tile,
            images=images,
            days=_int16(window.path, days),
            labels=common_labels(target, self.labels, window.path),
            corner=corner,
            crs=place.crs if place else None,
            pixel=PIXEL,
            source=window.path,
            first_window=window.number,
            offset=(row, column),
            year=window.year,
        )
        return checked(patch, self.legend)


def open_pastis24(
    root: Path, classes: Literal["all"] | list[int], folds: Folds, dataset: str = "pastis24"
) -> Pastis24Reader:
    """List the pickles under `root`/pickle24x24 or `root` itself, with their folds; opens none of them.

    Raises:
        DataError: no pickles, a fold file that is missing or names a missing window, a window without a fold.
    """
    labels = labelling(classes, f"{dataset}.source.classes")
    folder = _folder(root, dataset)
    paths = {path.stem: path for path in folder.glob("*.pickle") if re.fullmatch(r"\d+_\d+", path.stem)}
    if not paths:
        raise DataError(f"{folder} holds no pickles named <patch>_<window>.pickle: fetch the published ones again")
    entries = _entries(root, wanted=folds == "metadata", dataset=dataset)
    fold_of = _folds(folds, root, folder, paths, entries, dataset)
    windows = []
    for name in sorted(fold_of, key=_order):
        patch, number = _order(name)
        entry = entries.get(str(patch))
        tile, place = (entry.tile, entry.place) if entry else ("", None)
        year = year_of(root / "metadata.geojson", entry) if entry else None
        windows.append(Window(paths[name], str(patch), number, fold_of[name], tile, place, year))
    return Pastis24Reader(root, labels, tuple(windows))


def _folder(root: Path, dataset: str) -> Path:
    for folder in (root / "pickle24x24", root):
        if folder.is_dir() and any(folder.glob("*.pickle")):
            return folder
    raise DataError(
        f"no PASTIS24 under {root}: looked for *.pickle in {root / 'pickle24x24'} and in {root}; put the pickles "
        f"there, or mend `datasets.{dataset}` in params.yaml"
    )


def _entries(root: Path, wanted: bool, dataset: str) -> dict[str, Entry]:
    for path in (root / "metadata.geojson", root.parent / "metadata.geojson"):
        if path.exists():
            return read_metadata(path)
    if wanted:
        raise DataError(
            f"no metadata.geojson in {root} or {root.parent}: put the one of PASTIS there, or set "
            f"`{dataset}.source.folds` in params.yaml to fold_paths or by_patch"
        )
    return {}


def _folds(
    folds: Folds, root: Path, folder: Path, paths: dict[str, Path], entries: dict[str, Entry], dataset: str
) -> dict[str, int]:
    """Window name -> official fold, by the rule of `source.folds`."""
    if folds == "fold_paths":
        return _folds_of_files(root, folder, paths, dataset)
    if folds == "by_patch":  # for loose files: patches dealt round in the order of their ids
        patches = sorted({_order(name)[0] for name in paths})
        dealt = {patch: FOLDS[position % len(FOLDS)] for position, patch in enumerate(patches)}
        return {name: dealt[_order(name)[0]] for name in paths}
    for name, path in paths.items():
        if str(_order(name)[0]) not in entries:
            raise DataError(f"{path}: metadata.geojson does not know patch {_order(name)[0]}, so it has no fold")
    return {name: entries[str(_order(name)[0])].fold for name in paths}


def _folds_of_files(root: Path, folder: Path, paths: dict[str, Path], dataset: str) -> dict[str, int]:
    """Read fold_<i>_paths.csv (relative paths, one a line): exactly the windows they name are used."""
    found: dict[str, int] = {}
    for fold in FOLDS:
        file = _fold_file(root, fold, dataset)
        for number, line in enumerate(_lines(file), start=1):
            name = PureWindowsPath(line.strip()).stem  # takes both slashes, whichever system wrote the file
            if not line.strip():
                continue
            if name not in paths:
                raise DataError(
                    f"{file}, line {number}: window {line.strip()} is missing (searched {folder}): fetch it"
                )
            if found.setdefault(name, fold) != fold:
                raise DataError(f"{file}, line {number}: window {name} is in fold {found[name]} too: mend the files")
    return found


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as text ({error}): fetch it again") from None


def _fold_file(root: Path, fold: int, dataset: str) -> Path:
    name = f"fold_{fold}_paths.csv"
    for path in (root / "fold-paths" / name, root / name):
        if path.exists():
            return path
    raise DataError(
        f"{name} is missing (looked in {root / 'fold-paths'} and {root}): fetch PASTIS24's fold files, or set "
        f"`{dataset}.source.folds` in params.yaml to metadata or by_patch"
    )


def _order(name: str) -> tuple[int, int]:
    patch, number = name.split("_")
    return int(patch), int(number)


def _member(path: Path, content: dict[str, Any], name: str) -> NDArray:
    value = content.get(name)
    if not isinstance(value, np.ndarray):
        raise DataError(f"{path} holds no array {name!r} (it has {sorted(content)}): fetch the published file again")
    return value


def _int16(path: Path, days: NDArray) -> NDArray[np.int16]:
    if days.dtype.kind not in "iu" or (days.size and (days.min() < 1 or days.max() > 366)):
        raise DataError(f"{path}: 'doy' ({days.dtype}) should hold days of the year 1..366: fetch the file again")
    return days.astype(np.int16)
