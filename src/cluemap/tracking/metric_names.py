"""Numbers as they go into metrics.json and the run store: plain, flat, and under names that the store takes."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

LONGEST = 250  # characters
UNFIT = ("", ".", "..")  # between two `/`, MLflow takes them for a path that it does not trust


def metric_name(name: str) -> str:
    """MLflow takes letters, digits, `_ - . space : /`, at most 250 of them, and no empty part between two `/`.

    A name that has to be changed ends in four digits that stand for the whole of it: `oats + peas` and `oats & peas`
    stay two names, the same in every run.
    """
    fit = "/".join("_" if part in UNFIT else re.sub(r"[^\w\-. :]", "_", part) for part in name.split("/"))
    fit = f"_{fit[1:]}" if fit.startswith("..") else fit
    if fit == name and len(name) <= LONGEST:
        return name
    return f"{fit[: LONGEST - 5]}_{hashlib.blake2b(name.encode(), digest_size=2).hexdigest()}"


def plain(value: Any) -> Any:
    """The same with numbers of numpy or torch as Python's own, so that JSON keeps them to the last digit."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def flat(values: Mapping[str, Any]) -> dict[str, float]:
    """Nested numbers -> `outer/inner` and the number. Texts and nulls are not metrics; lists get their positions."""
    return dict(_flat(plain(values), ""))


def _flat(value: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = dict(enumerate(value)).items()
    else:
        if isinstance(value, bool | int | float):
            yield metric_name(name), float(value)
        return
    for key, inner in pairs:
        yield from _flat(inner, f"{name}/{key}" if name else str(key))
