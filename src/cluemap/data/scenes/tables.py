"""Tables of text, as people save them: with blanks, a byte order mark, semicolons, or accents in two parts."""

import difflib
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd

from cluemap.errors import DataError


def plain(text: str) -> str:
    """Without blanks around it, accents composed (NFC): what looks the same is the same."""
    return unicodedata.normalize("NFC", text).strip()


def text_of(value: object) -> str:
    """How a value is written in scene.yaml: 3.0 (a number column with gaps) is "3", a gap is ""."""
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else plain(str(value))


def read_csv(file: Path, wanted: list[str]) -> pd.DataFrame:
    """A table with at least the columns `wanted`, all as plain text; separated by commas or semicolons.

    Raises:
        DataError: names the file and what it lacks.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as handle:
            heading = handle.readline()
        separator = ";" if ";" in heading and "," not in heading else ","
        table = pd.read_csv(file, dtype=str, keep_default_na=False, sep=separator, encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{file} is missing: correct its name in scene.yaml, or write it") from None
    except (ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        raise DataError(f"{file} is no CSV table ({error}): write it as comma-separated UTF-8 with a header") from None
    table.columns = [plain(str(name)) for name in table.columns]
    for name in wanted:
        if name not in table:
            raise DataError(f"{file} has no column {name!r}{nearest(name, list(table))}; it has {list(table)}")
    return table.map(lambda value: plain(value) if isinstance(value, str) else "")


def nearest(name: str, known: list[str]) -> str:
    """ ": did you mean ...?", or nothing."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f": did you mean {near[0]!r}?" if near else ""


def listed(names: list[str], most: int = 8) -> str:
    """The first `most` names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
