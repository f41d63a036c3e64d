"""What an ablation is made of: changes of the params, and the lines of the table that come from them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One line of the table: a number from each seed's pipeline of one variant."""

    name: str
    stage: str
    value: Callable[[dict[str, Any]], float]


class Variant(NamedTuple):
    """A change of the params, the stages that it reaches, and the lines of the table that come from it."""

    changes: Mapping[str, Any]
    stages: tuple[str, ...]
    rows: tuple[Row, ...]


def at(*path: str) -> Callable[[dict[str, Any]], float]:
    """The number under these keys of a stage's metrics; NaN where a score has none (null in metrics.json)."""

    def value(found: dict[str, Any]) -> float:
        inner: Any = found
        for key in path:
            inner = inner[key]
        return float("nan") if inner is None else float(inner)

    return value
