"""scene.yaml as frozen, strictly checked classes: one field per key."""

from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cluemap.data.scenes.tables import nearest, plain, read_csv
from cluemap.errors import DataError
from cluemap.files import parsed_yaml

NAME = "scene.yaml"
BACKGROUND = "background"  # the class of this name is id 0
COLOURS = (  # for classes without one, in turn
    *("#ff7f0e", "#2ca02c", "#1f77b4", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf"),
    *("#ffbb78", "#98df8a", "#aec7e8", "#ff9896", "#c5b0d5", "#c49c94", "#f7b6d2", "#dbdb8d", "#9edae5"),
)
SEEN_BADLY = [0, 1, 3, 8, 9, 10]  # SCL: no data, saturated, cloud shadow, cloud (medium, high), thin cirrus


class Part(BaseModel):
    """One block of scene.yaml: frozen, no unknown keys, no conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Images(Part):
    kind: Literal["safe", "files", "folders", "stac", "cube"]  # L2A products | a file | a folder a date | items | cube
    path: str = "."  # folder that holds them; stac: the JSON file; cube: the NetCDF file or Zarr store
    bands: list[str] = Field(min_length=1)  # what windows hold, in this order
    file_bands: list[str] | None = None  # `files`: the bands of every file; absent: its band descriptions
    dates: str = "names"  # `names`, or a table (CSV: file, date, and if wanted offset)
    scale: float | None = Field(
        default=None, gt=0
    )  # reflectance = value * scale + offset; absent: the product's, else 0.0001
    offset: float | None = None  # absent: the product's (-0.1 from processing baseline 04.00 on), else 0
    nodata: float | None = None  # absent: what the file says, else 0
    hide: list[int] = SEEN_BADLY  # SCL values whose pixels count as not seen; [] keeps all
    true_colour: list[str] = Field(default=["B04", "B03", "B02"], min_length=3, max_length=3)  # red, green, blue
    season_start: str | date | None = None  # 2018-10-01: only images of the twelve months from this day on

    @field_validator("season_start")
    @classmethod
    def _is_date(cls, value: str | date | None) -> str | date | None:
        if isinstance(value, str):
            date.fromisoformat(value)  # a ValueError of its own
        return value

    @property
    def season(self) -> date | None:
        told = self.season_start
        if isinstance(told, str):
            return date.fromisoformat(told)
        return told.date() if isinstance(told, datetime) else told


class GridPart(Part):
    crs: str | None = None  # absent: that of the first image
    pixel: float = Field(default=10.0, gt=0)  # metres
    bounds: list[float] | None = Field(
        default=None, min_length=4, max_length=4
    )  # x min, y min, x max, y max; absent: all
    resample: bool = False  # true: dates on other grids are brought to this one (bilinear)


class Class(Part):
    name: str
    colour: str | None = Field(default=None, pattern="^#[0-9a-fA-F]{6}$")
    values: list[str | int] | None = None  # what the labels call it; absent: its name

    @field_validator("name")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not plain(value):
            raise ValueError("a class needs a name")
        return plain(value)


class Polygons(Part):
    kind: Literal["polygons"]
    file: str
    column: str  # holds the class
    layer: str | None = None
    crs: str | None = None  # of a file that does not say
    encoding: str | None = None  # of a Shapefile's texts, like UTF-8 or cp1252; absent: what it says, else found out
    outside: Literal["unlabelled", "background"] = "unlabelled"  # land without a polygon
    others: Literal["refuse", "unlabelled", "background"] = "refuse"  # polygons of a class that is not in `classes`
    silence: Literal["absent", "unknown"] = "absent"  # a class that is not named where not all land has a label
    keep_unlabelled: bool = False  # training windows of which nothing is known stay (`semisupervised`, params.yaml)


class Points(Part):
    kind: Literal["points"]
    file: str  # CSV with x and y, or any vector file of points
    column: str
    x: str = "x"
    y: str = "y"
    layer: str | None = None
    crs: str | None = None
    encoding: str | None = None
    others: Literal["refuse", "unlabelled", "background"] = "refuse"
    silence: Literal["absent", "unknown"] = "absent"  # a class that is not named where not all land has a label
    keep_unlabelled: bool = False  # training windows of which nothing is known stay (`semisupervised`, params.yaml)


class Areas(Part):
    kind: Literal["areas"]
    file: str  # polygons: cells, villages
    column: str  # holds the list of crops
    separator: str = ";"
    layer: str | None = None
    crs: str | None = None
    encoding: str | None = None
    table: str | None = None  # CSV that holds `column`; absent: the polygons hold it
    key: str | None = None  # with `table`: the column by which polygons and table are joined
    cover: float = Field(default=0.5, gt=0, le=1)  # a window takes the crops of an area that covers this share of it
    silence: Literal["absent", "unknown"] = "absent"  # a class that is not named where not all land has a label
    keep_unlabelled: bool = False  # training windows of which nothing is known stay (`semisupervised`, params.yaml)


Labels = Annotated[Polygons | Points | Areas, Field(discriminator="kind")]


class Borders(Part):
    """Known borders of fields, for the stages of parcels; without this block they take the polygons of the labels."""

    file: str
    layer: str | None = None
    crs: str | None = None
    encoding: str | None = None


class Split(Part):
    kind: Literal["blocks", "parcels", "auto"] = "blocks"  # parcels: fields are kept whole; auto: and sizes proposed
    block: float = Field(default=4800.0, gt=0)  # metres a side of a block; all of a block is in one fold
    gap: float = Field(default=240.0, ge=0)  # metres between windows of two blocks, or fields of two folds
    seed: int = Field(default=0, ge=0)


class Scene(Part):
    """All that scene.yaml says. Without `labels` a scene can be mapped, but not learned from."""

    images: Images
    grid: GridPart = GridPart()
    classes: list[Class] | str = []  # a list, or a table (CSV: value, name, and if wanted colour)
    labels: Labels | None = None
    truth: Polygons | None = None  # with areas: polygons to score against; never seen by training
    split: Split = Split()
    parcels: Borders | None = None


def read_scene(folder: Path) -> Scene:
    """Read `folder`/scene.yaml (YAML 1.2); a table of classes is read in.

    Raises:
        DataError: missing, no YAML, or a key that is unknown, missing, wrong-typed or impossible.
    """
    file = folder / NAME
    try:
        tree = parsed_yaml(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{file} is missing: write it as docs/data/scene.md says") from None
    except Exception as error:  # damaged files make the parser fail in ways that are no YAMLError
        raise DataError(f"{file} is not YAML: {error}") from None
    try:
        scene = Scene.model_validate(tree)
    except ValidationError as error:
        raise DataError(
            "\n".join(dict.fromkeys(f"{file}: {_explain(problem)}" for problem in error.errors()))
        ) from None
    if isinstance(scene.classes, str):
        scene = scene.model_copy(update={"classes": _table(folder / scene.classes)})
    _check(file, scene)
    return scene


def classes_of(scene: Scene) -> list[Class]:
    """The table of classes as read."""
    if isinstance(scene.classes, str):
        raise ValueError("read_scene reads the table of classes")
    return scene.classes


def _table(file: Path) -> list[Class]:
    table = read_csv(file, ["value", "name"])
    colours = table["colour"] if "colour" in table else pd.Series([""] * len(table))
    found = []
    for name in dict.fromkeys(table["name"]):
        rows = table["name"] == name
        colour = next((text for text in colours[rows] if text), None)
        try:
            found.append(Class(name=name, colour=colour, values=list(table["value"][rows])))
        except ValidationError:
            raise DataError(f"{file}: class {name!r} has colour {colour!r}: write it as #rrggbb") from None
    return found


def _check(file: Path, scene: Scene) -> None:
    names = [one.name for one in classes_of(scene)]
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise DataError(f"{file}: class {double[0]!r} comes twice: give each class once, with all its `values`")
    missing = [band for band in scene.images.true_colour if band not in scene.images.bands]
    if missing:
        raise DataError(f"{file}: images.true_colour names {missing[0]}, which images.bands lacks: name three of them")
    if scene.labels and not set(names) - {BACKGROUND}:
        raise DataError(f"{file}: there are labels but no `classes`: list them (name, values), or name a CSV table")
    if scene.truth and not isinstance(scene.labels, Areas):
        raise DataError(f"{file}: `truth` goes with labels of kind areas; polygons and points are their own truth")
    if isinstance(scene.labels, Areas) and (scene.labels.table is None) != (scene.labels.key is None):
        raise DataError(f"{file}: labels.table and labels.key go together: give both, or none")


def _explain(problem: Any) -> str:
    path = [str(part) for part in problem["loc"] if part not in ("polygons", "points", "areas")]
    key = ".".join(path) or "the file"
    if problem["type"] == "extra_forbidden":
        return f"unknown key `{key}`{nearest(path[-1], _known(problem['loc']))}"
    if problem["type"] == "missing":
        return f"missing key `{key}`"
    return f"`{key}`: {problem['msg']}, found {problem['input']!r}"


def _known(place: tuple[int | str, ...]) -> list[str]:
    """The keys of the block in which an unknown one was found."""
    kinds: dict[Any, type[Part]] = {
        "images": Images, "grid": GridPart, "classes": Class, "split": Split, "truth": Polygons, "parcels": Borders,
        "polygons": Polygons, "points": Points, "areas": Areas,
    }  # fmt: skip
    block = next((kinds[part] for part in reversed(place[:-1]) if part in kinds), Scene)
    return list(block.model_fields)
