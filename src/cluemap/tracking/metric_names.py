"""Numbers as they go into metrics.json and the run store: plain, flat, and under names that the store takes."""

import re
from collections.abc import Iterator, Mapping
from typing import Any


def metric_name(name: str) -> str:
    """MLflow takes letters, digits, `_ - . space : /`, at most 250 of them; all else becomes `_`."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:250]


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
