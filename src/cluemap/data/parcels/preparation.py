"""Stage prepare_parcels: parcels of a data set in, their common form out, in one pass over the raw data."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cluemap.data.parcels.parcel import ParcelSource
from cluemap.data.parcels.parcel_writer import ParcelWriter
from cluemap.data.patches import VOID
from cluemap.data.preparation import MOST_WORKERS, ordered
from cluemap.errors import DataError
from cluemap.files import atomic_folder
from cluemap.params import Params
from cluemap.runtime import threads

KINDS = ("read", "slivers", "never_seen", "without_pixel_centre", "off_blocks", "cut", "unlabelled")
log = logging.getLogger(__name__)


def prepare_parcels(
    source: ParcelSource, params: Params, folder: Path, progress: bool = True, workers: int | None = None
) -> dict[str, Any]:
    """Write the common form of `source`'s parcels to `folder`, whole or not at all; returns the stage's metrics.

    Raises:
        DataError: bad raw data, two parcels of one name, or no parcel at all.
    """
    counts: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
    found = ordered(source.read, len(source), workers or min(MOST_WORKERS, threads.cores()))
    with atomic_folder(folder) as temporary:
        writer = ParcelWriter(temporary, source.legend, source.geometry)
        try:
            for part in tqdm(found, total=len(source), desc="parcels", unit="part", disable=not progress):
                counts.update(part.counts)
                for parcel in part.parcels:
                    writer.add(parcel)
            _check(writer, params, counts)
            writer.finish(params.dataset, dict(counts))
        finally:
            writer.discard()
        size = sum(file.stat().st_size for file in temporary.iterdir())
    for text in getattr(source, "notes", ()):
        log.warning("%s", text)
    return {**_metrics(writer), "counts": dict(counts), "bytes": size}


def _check(writer: ParcelWriter, params: Params, counts: Counter[str]) -> None:
    if not writer.rows:
        raise DataError(
            f"{params.dataset} has no parcel of at least {params.parcels.least_pixels} pixels that was seen (of "
            f"{counts['read']} read): lower parcels.least_pixels, or look at {params.raw}"
        )
    names: set[str] = set()
    for row in writer.rows:
        if row["name"] in names:
            raise DataError(f"two parcels are called {row['name']} in {params.raw}: take one of them out")
        names.add(row["name"])


def _metrics(writer: ParcelWriter) -> dict[str, Any]:
    crops = np.array([row["crop"] for row in writer.rows])
    names = ["background", *writer.legend.class_names]
    per_class = {name: int((crops == number).sum()) for number, name in enumerate(names)}
    pixels, dates = (np.array([row[name] for row in writer.rows]) for name in ("pixels", "dates"))
    return {
        "parcels": len(crops),
        "labelled": int((crops != VOID).sum()),
        "parcels_per_class": {name: count for name, count in per_class.items() if count or name != "background"},
        "median_pixels": float(np.median(pixels)),
        "mean_dates": float(dates.mean()),
    }
