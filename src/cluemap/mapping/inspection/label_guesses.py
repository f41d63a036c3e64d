"""What a file of labels holds: of which kind it is, which column is the class, and the classes."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import geopandas as gpd
import pandas as pd
import pyogrio

from cluemap.data.scenes.tables import listed, nearest, read_csv, text_of
from cluemap.data.scenes.vectors.vector_files import FAILURES, PARQUET, VectorFile, file_info
from cluemap.errors import DataError

NAMES = re.compile(r"crop|cult|kultur|klass|class|label|land_?cover|code|type|nutz|gewas|species", re.IGNORECASE)
X = ("x", "lon", "longitude", "long", "easting")
Y = ("y", "lat", "latitude", "northing")
MOST = 60  # classes


@dataclass
class LabelGuess:
    """The block `labels`, the values of its column with their counts, and what should be looked at."""

    kind: str
    column: str
    counts: Counter[str]
    settings: dict[str, str] = field(default_factory=dict)  # x, y, crs
    guessed: list[str] = field(default_factory=list)


def guess_labels(file: Path, column: str | None = None) -> LabelGuess:
    """Look at a label file; raises DataError: unreadable, or no column that could be the class."""
    if not file.exists():
        raise DataError(f"{file} is missing: correct its name")
    if file.suffix.lower() == ".csv":
        return _of_csv(file, column)
    source, settings, guessed = VectorFile(file), dict[str, str](), list[str]()
    table = _attributes(source)
    if isinstance(table, gpd.GeoDataFrame):
        kinds, crs = set(table.geom_type.dropna()), table.crs
        table = pd.DataFrame(table.drop(columns=table.geometry.name))
    else:
        info = file_info(source)
        kinds, crs = {str(info["geometry_type"])}, info["crs"]
    if crs is None:
        settings["crs"] = "EPSG:4326"
        guessed.append("labels.crs: the file does not say it")
    kind = "points" if all("Point" in name for name in kinds) else "polygons"
    name = _class_column(file, table, column, guessed)
    return LabelGuess(kind, name, _counts(table[name]), settings, guessed)


def _of_csv(file: Path, column: str | None) -> LabelGuess:
    table, guessed = read_csv(file, []), ["labels.crs: a CSV does not say it"]
    lower = {name.lower(): name for name in table.columns}
    x, y = (next((lower[name] for name in names if name in lower), None) for names in (X, Y))
    if x is None or y is None:
        raise DataError(f"{file} has no columns of coordinates (x, y or lon, lat); it has {list(table)}: rename them")
    name = _class_column(file, table.drop(columns=[x, y]), column, guessed)
    return LabelGuess("points", name, _counts(table[name]), {"x": x, "y": y, "crs": "EPSG:4326"}, guessed)


def _attributes(source: VectorFile) -> pd.DataFrame:
    try:
        if source.path.suffix.lower() in PARQUET:
            return gpd.read_parquet(source.path)
        return pd.DataFrame(
            pyogrio.read_dataframe(source.path, read_geometry=False, encoding=file_info(source)["encoding"])
        )
    except FAILURES as error:
        raise DataError(f"{source.path} cannot be read ({error}): export it again, e.g. as GeoPackage") from None


def _class_column(file: Path, table: pd.DataFrame, wanted: str | None, guessed: list[str]) -> str:
    """`wanted`, or the column that looks most like a class: by its name, then by how few values it has."""
    names = [str(name) for name in table.columns]
    if wanted is not None:
        if wanted not in names:
            raise DataError(f"{file} has no column {wanted!r}{nearest(wanted, names)}; it has {names}")
        return wanted
    sizes = {name: len(_counts(table[name])) for name in names if table[name].dtype.kind != "f"}
    fitting = [name for name, size in sizes.items() if 1 <= size <= MOST]
    if not fitting:
        raise DataError(f"{file} has no column with 1 to {MOST} values that could be the class: give --column")
    best = min(fitting, key=lambda name: (not NAMES.search(name), sizes[name] < 2, sizes[name]))
    if len(fitting) > 1:
        guessed.append(f"labels.column: of {listed(fitting)}")
    return best


def _counts(values: pd.Series) -> Counter[str]:
    return Counter(text for text in map(text_of, values.tolist()) if text)
