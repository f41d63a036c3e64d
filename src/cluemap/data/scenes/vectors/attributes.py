"""The attributes of vector files: columns by name, and the encoding of their texts."""

from pathlib import Path

from cluemap.data.scenes.tables import nearest, plain
from cluemap.errors import DataError


def column_of(file: Path, wanted: str, there: list[str]) -> str:
    """The file's own spelling of a column (accents may be composed in two ways); raises DataError."""
    found = next((name for name in there if plain(name) == plain(wanted)), None)
    if found is None:
        raise DataError(f"{file} has no column {wanted!r}{nearest(wanted, there)}; it has {there}")
    return found


def encoding_of(file: Path) -> str | None:
    """UTF-8 for a Shapefile that names no encoding but whose texts are valid UTF-8; None: what GDAL finds out."""
    table = file.with_suffix(".dbf")
    named = any(file.with_suffix(ending).exists() for ending in (".cpg", ".CPG"))
    if file.suffix.lower() != ".shp" or named or not table.exists():
        return None
    try:
        with table.open("rb") as handle:
            handle.seek(32)  # the header's own flags are no text
            rest = handle.read(20_000_000)
        rest[: rest.rfind(b" ")].decode("utf-8")
    except (UnicodeDecodeError, OSError):
        return None
    return "UTF-8"
