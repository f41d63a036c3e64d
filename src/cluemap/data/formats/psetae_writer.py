"""Parcels written in PSE-TAE's own layout, for its users and for tests of the way back."""

import json
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from cluemap.data.parcels.parcels import Parcels
from cluemap.data.patches import VOID
from cluemap.files import atomic_folder

YEAR = 2018  # days are counted from its start: the common form does not know the year
NOMENCLATURE = "crop"


def write_psetae(parcels: Parcels, folder: Path) -> None:
    """DATA and META as `formats.psetae` reads them; dates for all parcels where all have the same, else per parcel."""
    dates, labels, features = {}, {}, {}
    with atomic_folder(folder) as temporary:
        (temporary / "DATA").mkdir()
        (temporary / "META").mkdir()
        for index, row in enumerate(parcels.table.itertuples()):
            pixels, days = parcels.series(index)
            np.save(temporary / "DATA" / f"{row.name}.npy", pixels.transpose(1, 2, 0))
            dates[row.name] = [(date(YEAR, 1, 1) + timedelta(int(day) - 1)).isoformat() for day in days]
            features[row.name] = [float(number) for number in parcels.geometry[index]]
            if row.crop != VOID:
                labels[row.name] = int(row.crop)
        first = next(iter(dates.values()))
        shared = {str(number): int(day.replace("-", "")) for number, day in enumerate(first)}
        alike = all(days == first for days in dates.values())
        tables = {
            "dates": shared if alike else dates, "labels": {NOMENCLATURE: labels}, "geomfeat": features,
        }  # fmt: skip
        for name, table in tables.items():
            (temporary / "META" / f"{name}.json").write_text(json.dumps(table), encoding="utf-8")
