"""Series that a model was taught, kept in its file: what the series of another scene are held against."""

from dataclasses import dataclass, fields
from pathlib import Path

from torch import Tensor

from cluemap.errors import CheckpointError
from cluemap.model.storage import checkpoints

PREFIX = "known_series/"


@dataclass(frozen=True, eq=False)
class KnownSeries:
    """Raw bands at even days, a day's bands side by side. Axes: g day, n pixel taught, m pixel held out, f = g c."""

    days: Tensor  # int64 g, days of the year, counted on over its turn
    taught: Tensor  # int16 n f
    classes: Tensor  # uint8 n
    held: Tensor  # int16 m f

    def tensors(self) -> dict[str, Tensor]:
        """As they stand in a model's file."""
        return {f"{PREFIX}{field.name}": getattr(self, field.name) for field in fields(self)}


def read_known_series(file: Path) -> KnownSeries:
    """Those of a trained segmenter.

    Raises:
        CheckpointError: missing or damaged; a model that was trained before they were kept.
    """
    found = checkpoints.split(checkpoints.load(file).tensors, PREFIX)
    if not found:
        raise CheckpointError(
            f"{file} keeps no series of its training, as it is older than they are: train again, or map without"
        )
    try:
        return KnownSeries(**found)
    except TypeError as error:
        raise CheckpointError(f"{file} does not fit its own description: {error}") from None
