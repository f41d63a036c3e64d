"""The date of a file or folder, from its name, its place, or the scene's table of dates."""

import re
from datetime import date
from pathlib import Path
from typing import NamedTuple

from cluemap.data.scenes.scene_file import NAME, Images
from cluemap.data.scenes.tables import nearest, plain, read_csv
from cluemap.errors import DataError

DAY = re.compile(r"(?<!\d)((?:19|20)\d\d)([-_.]?)(\d\d)\2(\d\d)(?!\d)")


class When(NamedTuple):
    """What a name or a line of the table of dates says about a file or folder."""

    day: date
    offset: float | None = None  # of its reflectance, where the table has it


def dated(home: Path, images: Images, paths: list[Path]) -> list[When]:
    """The date of each file or folder under `home`; raises DataError where there is none."""
    if images.dates == "names":
        return [When(date_of(path, home)) for path in paths]
    table = home.parent / images.dates if (home.parent / images.dates).exists() else home / images.dates
    rows = read_csv(table, ["file", "date"])
    rows["file"] = rows["file"].str.replace("\\", "/", regex=False)
    written = dict(zip(rows["file"], rows.to_dict("records"), strict=True))
    return [_line(written, path, home, table) for path in paths]


def date_of(path: Path, home: Path) -> date:
    """The first date YYYYMMDD (or with -, _ or . between) in a name, else in its folders below `home` (2018/08/26)."""
    parents = "-".join(path.relative_to(home).parts) if path.is_relative_to(home) else path.name
    for text in (path.name, parents):
        found = _first(text)
        if found:
            return found
    raise _no_date(path.name, path)


def _line(written: dict[str, dict], path: Path, home: Path, table: Path) -> When:
    row = written.get(plain(path.name)) or written.get(plain(path.relative_to(home).as_posix()))
    if row is None:
        raise DataError(f"{table} has no date for {path.name}{nearest(path.name, list(written))}: add a line for it")
    try:
        offset = float(row["offset"]) if row.get("offset") else None
    except ValueError:
        raise DataError(f"{table}: the offset {row['offset']!r} of {row['file']} is no number (like -0.1)") from None
    day = _first(row["date"])
    if day is None:
        raise _no_date(row["date"], table)
    return When(day, offset)


def _first(text: str) -> date | None:
    for found in DAY.finditer(text):
        try:
            return date(int(found[1]), int(found[3]), int(found[4]))
        except ValueError:  # 20181399: some other number
            continue
    return None


def _no_date(text: str, where: Path) -> DataError:
    return DataError(
        f"{where}: {text!r} holds no date like 2018-07-12 or 20180712: rename it, or give a table (CSV: file, date) as "
        f"images.dates in {NAME}"
    )
