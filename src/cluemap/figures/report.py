"""One HTML file that tells a whole result: pictures inside, nothing loaded from anywhere, fit to mail and to print.

The content is plain data:

    {"title": "...", "subtitle": "...",                        # subtitle and headline may be left out
     "headline": [{"name": "test mIoU", "value": "61.8 %", "note": "95 % of full supervision"}, ...],
     "sections": [{"title": "...", "parts": [part, ...]}, ...]}

and a part is one of

    {"kind": "text", "text": "..."}                            # line breaks are kept
    {"kind": "code", "text": "dvc repro"}
    {"kind": "picture", "file": "scores.png", "caption": "...", "alt": "..."}          # PNG
    {"kind": "table", "columns": [...], "rows": [[cell, ...], ...], "caption": "..."}
    {"kind": "legend", "classes": [{"name": "corn", "colour": "#ffbb78"}, ...]}        # "hatched": True for void
    {"kind": "values", "values": {"clues": {"count": 2}, ...}}                         # params, lineage; may be nested

A table's cell is a word, a number, None, {"share": 0.83} (a per cent bar) or {"text": "corn", "colour": "#..."}.
"""

import base64
import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cluemap.errors import DataError
from cluemap.files import write_text

TEMPLATE = Path(__file__).with_name("report.html.j2")
PIXEL = 96 / 150  # CSS pixels a PNG pixel: figures are drawn at 150 dots an inch
PNG_START = b"\x89PNG\r\n\x1a\n"
COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
REQUIRED = {
    "text": {"text"}, "code": {"text"}, "picture": {"file"}, "table": {"columns", "rows"}, "legend": {"classes"},
    "values": {"values"},
}  # fmt: skip
OPTIONAL = {"picture": {"caption", "alt"}, "table": {"caption"}}


def write_report(content: Mapping[str, Any], path: Path | str) -> Path:
    """Write `content` (form: see above) as one self-contained HTML file; equal content gives equal bytes.

    Raises:
        DataError: a part of unknown kind or with missing or unknown keys, a table with a row of the wrong length, a
            picture that is missing or no PNG, a colour that is not #rrggbb.
    """
    sections = [
        {"title": section["title"], "parts": [_prepared(part, section["title"]) for part in section["parts"]]}
        for section in content["sections"]
    ]
    headline = [{"note": "", **tile} for tile in content.get("headline", [])]
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    html = environment.get_template(TEMPLATE.name).render(
        title=content["title"], subtitle=content.get("subtitle", ""), headline=headline, sections=sections, words=words
    )
    write_text(path, html)
    return Path(path)


def words(value: Any) -> str:
    """A value as people read it: 12,345 and 0.6183 and yes; an en dash where there is nothing."""
    value = _plain(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1e5 <= abs(value) < 1e15 else f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(words, value))
    return str(value)


def _plain(value: Any) -> Any:
    """numpy's numbers as Python's own, all else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def _prepared(part: Mapping[str, Any], section: str) -> dict[str, Any]:
    """The part, checked, with everything that the template writes."""
    kind = part.get("kind")
    if kind not in REQUIRED:
        raise DataError(f"report, section {section!r}: part of kind {kind!r}, not one of {', '.join(REQUIRED)}")
    missing, found = REQUIRED[kind] - part.keys(), part.keys() - {"kind"}
    unknown = found - REQUIRED[kind] - OPTIONAL.get(kind, set())
    if missing or unknown:
        wrong = [f"lacks {key!r}" for key in sorted(missing)] + [f"has the unknown {key!r}" for key in sorted(unknown)]
        raise DataError(f"report, section {section!r}: {kind} {' and '.join(wrong)}")
    return PREPARE[kind]({"caption": "", "alt": "", **part}, section)


def _picture(part: dict[str, Any], section: str) -> dict[str, Any]:
    file = Path(part["file"])
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise DataError(f"report, section {section!r}: picture {file} is missing: draw it first") from None
    if not data.startswith(PNG_START) or len(data) < 24:
        raise DataError(f"report, section {section!r}: picture {file} is not a PNG: draw it again")
    width, height = struct.unpack(">II", data[16:24])
    source = "data:image/png;base64," + base64.b64encode(data).decode()
    return {**part, "source": source, "width": round(width * PIXEL), "height": round(height * PIXEL)}


def _table(part: dict[str, Any], section: str) -> dict[str, Any]:
    columns = list(part["columns"])
    for row in part["rows"]:
        if len(row) != len(columns):
            raise DataError(
                f"report, section {section!r}: table row {row} has not the {len(columns)} columns {columns}"
            )
    rows = [[_cell(cell, section) for cell in row] for row in part["rows"]]
    numeric = [bool(rows) and all(row[place]["number"] for row in rows) for place in range(len(columns))]
    return {**part, "columns": columns, "rows": rows, "numeric": numeric}


def _cell(cell: Any, section: str) -> dict[str, Any]:
    """Text, whether it stands to the right as numbers do, the colour of its chip, and its bar in %."""
    cell = _plain(cell)
    if not isinstance(cell, Mapping):
        number = cell is None or (isinstance(cell, int | float) and not isinstance(cell, bool))
        return {"text": words(cell), "number": number, "colour": None, "share": None}
    if "share" in cell:
        share = cell["share"]
        if share is None or math.isnan(share):
            return _cell(None, section)
        bar = round(100 * min(max(share, 0.0), 1.0), 1)
        return {"text": f"{share * 100:.1f} %", "number": True, "colour": None, "share": bar}
    return {"text": words(cell["text"]), "number": False, "colour": _colour(cell["colour"], section), "share": None}


def _legend(part: dict[str, Any], section: str) -> dict[str, Any]:
    crops = [{"hatched": False, **crop, "colour": _colour(crop["colour"], section)} for crop in part["classes"]]
    return {**part, "classes": crops}


def _colour(colour: str, section: str) -> str:
    if not COLOUR.fullmatch(colour):
        raise DataError(f"report, section {section!r}: colour {colour!r} is not of the form #rrggbb")
    return colour


def _values(part: dict[str, Any], section: str) -> dict[str, Any]:
    return {**part, "pairs": [(name, words(value)) for name, value in _flat(part["values"])]}


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """{"clues": {"count": 2}} -> clues.count, 2"""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


PREPARE: dict[str, Callable[[dict[str, Any], str], dict[str, Any]]] = {
    "text": lambda part, section: part,
    "code": lambda part, section: part,
    "picture": _picture,
    "table": _table,
    "legend": _legend,
    "values": _values,
}
