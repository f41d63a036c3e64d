"""Journals of runs that a store missed: where they wait, and how they are sent when it answers."""

import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from cluemap.errors import DataError, TrackingError
from cluemap.files import read_json, write_json
from cluemap.tracking import provenance
from cluemap.tracking.delivery import Sender
from cluemap.tracking.journal import Journal
from cluemap.tracking.run_artifacts import copy_artifacts, find_path
from cluemap.tracking.store import store_location

COMMAND = "python src/resend.py"
logger = logging.getLogger("cluemap.tracking")


def store_if_pending(journal: Journal) -> None:
    """Remove a journal that was delivered; put one that was not where `src/resend.py` finds it.

    Raises:
        TrackingError: it cannot be moved, and stays where it is.
    """
    if not journal.has_pending:
        journal.remove()
        return
    start = journal.history.start or {}
    when = time.strftime("%Y%m%d-%H%M%S", time.gmtime(start["time"] / 1000))
    name = f"{start['experiment'].replace('/', '_')}_{start['name']}_{when}_{start['key'][:8]}"
    target = store_location.pending_folder() / f"{name}.jsonl"
    try:
        copy_artifacts(journal, target)
        journal.copy(target)
    except OSError as error:
        raise TrackingError(f"{journal.path}, a run that no store has, cannot be moved to {target}: {error}") from None
    journal.remove()
    logger.warning("The run is not in the store. Its record is %s; when the store answers, type: %s", target, COMMAND)


def pending_journals() -> list[Path]:
    """Journals with records that no store has: of finished runs, and of interrupted ones in `out/*/.state/*`."""
    states = (store_location.main_root() / "out").glob("*/.state/*/*.jsonl")
    found = [*sorted(store_location.pending_folder().glob("*.jsonl")), *sorted(states)]
    return [path for path in found if _is_pending(path)]


def resend(path: Path) -> str | None:
    """Deliver one pending journal and fill its run's id into `run.json` of its outputs; gives the id.

    Raises:
        TrackingError: the store does not take it; nothing is lost, and a second call continues where this one stopped.
    """
    journal = Journal(path)
    try:
        if not journal.history.start:
            journal.remove()
            return None
        if not journal.history.ended:
            journal.write("status", status="KILLED")  # nobody holds its lock: its process is gone
        sender = Sender(journal)
        if not sender.send():
            raise TrackingError(f"{path} was not sent, or only in part: see the warning above, then try again")
        for card in _cards(journal):
            _fill(card, journal)
        run_id = journal.history.run_id
        if path.parent == store_location.pending_folder():
            journal.remove()
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
        return run_id
    finally:
        journal.close()


def _is_pending(path: Path) -> bool:
    try:
        journal = Journal(path)
    except (TrackingError, OSError):
        return False  # its run is still active
    try:
        return journal.has_pending or (journal.history.start is not None and not journal.history.ended)
    finally:
        journal.close()


def _cards(journal: Journal) -> Iterator[Path]:
    names = {record["path"] for record, _ in journal.records(0) if record["kind"] == "card"}
    return (file for name in sorted(names) if (file := find_path(name)))


def _fill(file: Path, journal: Journal) -> None:
    """Write the run's id into its `run.json`, unless DVC holds that file: a change would make its stage run again.

    A run is found by the `key` in `run.json` too, which is the run's tag `journal`.
    """
    try:
        card = read_json(file)
        held = provenance.holder(file)
    except DataError as error:
        logger.warning("%s", error)
        return
    if card.get("key") != journal.history.key or card.get("run_id"):
        return
    if held:
        logger.warning("%s stays as it is, since DVC holds %s; its run is %s", file, held, journal.history.run_id)
    else:
        write_json(file, {**card, "run_id": journal.history.run_id, "tracking_uri": journal.history.store})
