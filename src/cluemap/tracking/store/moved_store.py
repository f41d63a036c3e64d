"""A project folder that was moved or copied: its SQLite store still names the old place (MLflow's paths are absolute).

Listing artifacts would then give nothing, silently, and new runs would write to the old place.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from cluemap.errors import TrackingError
from cluemap.tracking.store import store_location

# Where MLflow writes absolute paths of artifacts: table -> columns (those that this version of it has are mended).
LOCATIONS = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
    "trace_tags": ("value",),
}


def moved_from(locations: dict[str, str]) -> set[str]:
    """Experiment -> artifact folder, to the roots other than ours at which a SQLite store in this folder has them."""
    file = store_location.sqlite_file(store_location.store_uri())
    if (
        file is None
        or not file.is_relative_to(store_location.main_root())
        or "MLFLOW_DEFAULT_ARTIFACT_ROOT" in os.environ
    ):
        return set()
    return _other_roots(locations)


def repair_moved_store() -> tuple[set[str], int]:
    """After the project's folder was moved or copied: point the store at the artifacts in the present folder.

    Gives the former roots and how many entries were changed. The database as it was is kept as `mlflow.db.before_mend`.

    Raises:
        TrackingError: there is no SQLite store here.
    """
    file = store_location.sqlite_file(store_location.store_uri())
    if file is None or not file.exists():
        raise TrackingError(
            f"no SQLite run store at {store_location.without_credentials(store_location.store_uri())}: nothing to mend"
        )
    with store_location.first_use(), closing(sqlite3.connect(file)) as base, base:
        rows = base.execute("select name, artifact_location from experiments").fetchall()
        former = _other_roots(dict(rows))
        if not former:
            return former, 0
        with closing(sqlite3.connect(file.with_name(f"{file.name}.before_mend"))) as copy:
            base.backup(copy)
        return former, sum(_replace(base, old, str(store_location.main_root())) for old in former)


def _replace(base: sqlite3.Connection, old: str, new: str) -> int:
    changed = 0
    for table, columns in LOCATIONS.items():
        present = {row[1] for row in base.execute(f"pragma table_info({table})")}
        for column in present.intersection(columns):
            for scheme in ("", "file://"):
                before, after = f"{scheme}{old}/mlruns/", f"{scheme}{new}/mlruns/"
                query = f"update {table} set {column} = ? || substr({column}, ?) where substr({column}, 1, ?) = ?"
                changed += base.execute(query, (after, len(before) + 1, len(before), before)).rowcount
    return changed


def _other_roots(locations: dict[str, str]) -> set[str]:
    """Experiment -> artifact folder, to the roots R other than ours where the folder is `R/mlruns/<experiment>`."""
    present = store_location.main_root().resolve()
    ends = {name: f"/mlruns/{name}" for name in locations}
    roots = {
        place.removesuffix(ends[name]).removeprefix("file://")
        for name, place in locations.items()
        if place and place.endswith(ends[name]) and place.startswith(("/", "file:///"))
    }
    return {root for root in roots if Path(root).resolve() != present}
