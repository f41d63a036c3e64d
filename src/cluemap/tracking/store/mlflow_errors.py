"""What a run store's failure means: it is not there, it has no such run, or it will never take this record."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from cluemap.errors import TrackingError

SCHEMA = re.compile(r"out-of-date database schema \(found version (\w+)")  # MLflow's words for any other schema


class Refused(TrackingError):
    """The store is there but does not take this record, and never will."""


class RunGone(TrackingError):
    """The store has no such run (any more)."""


@contextmanager
def explained(store: str) -> Iterator[None]:
    """Turn whatever MLflow, a database driver or a bucket raises into one of the three, naming the store.

    Raises:
        TrackingError: the store failed, and may work later; or one of the two above.
    """
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:
        text = (str(error).splitlines() or [""])[0]
        code = getattr(error, "error_code", None)  # of an MlflowException
        if other := SCHEMA.search(text):
            raise TrackingError(_other_schema(store, other[1])) from error
        if code == "RESOURCE_DOES_NOT_EXIST" or "must be in the 'active' state" in text:
            raise RunGone(f"{store}: {text}") from error
        if code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST"):
            raise Refused(f"{store}: {text}") from error
        raise TrackingError(f"the run store {store} failed: {type(error).__name__}: {text}") from error


def _other_schema(store: str, found: str) -> str:
    """What to type for a database of another MLflow, which names its schema `found`."""
    spec = find_spec("mlflow")
    migrations = Path(spec.origin or "").parent / "store" / "db_migrations" / "versions" if spec else Path()
    if any(migrations.glob(f"{found}_*.py")):
        return f"{store} was made by an older MLflow: keep a copy of it, then type `mlflow db upgrade {store}`"
    return f"{store} was made by a newer MLflow: give another MLFLOW_TRACKING_URI, or update MLflow"
