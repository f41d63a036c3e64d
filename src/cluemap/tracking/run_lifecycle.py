"""Opening a run, new or resumed, and ending it with the status that tells what became of it."""

import json
import logging
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluemap.errors import Interrupted, TrackingError
from cluemap.tracking.delivery import OfflineSender, Sender
from cluemap.tracking.journal import Journal
from cluemap.tracking.metric_names import metric_name, plain
from cluemap.tracking.pending_runs import store_if_pending
from cluemap.tracking.process_owner import end_dead_runs, process_tags, user_tags
from cluemap.tracking.run import NoRun, Run, RunRef

logger = logging.getLogger("cluemap.tracking")


@contextmanager
def open_run(
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    journal: Path | str,
    tags: Mapping[str, Any] | None = None,
    upstream: Mapping[str, str | None] | None = None,
    resume: RunRef | None = None,
    rank: int = 0,
) -> Iterator[Run | NoRun]:
    """Open a run and end it as FINISHED, as FAILED on an error, or as KILLED when it was interrupted.

    experiment: `<data set>/results|training|tuning`. name: the stage. journal: a file in the stage's `state_folder`.
    upstream: stage -> id of the run whose outputs are read. resume: the run that an interrupted try had; without it,
    a run that was killed before its first checkpoint continues when params, code and inputs are still the same.

    Raises:
        TrackingError: another process writes the same journal. A store that is down raises nothing.
    """
    if rank:
        yield NoRun()
        return
    above = {f"upstream.{stage}": run_id for stage, run_id in (upstream or {}).items()}
    start = {
        "experiment": experiment,
        "name": name,
        "params": {metric_name(key): plain(value) for key, value in params.items()},
        "tags": _texts({"stage": name, **user_tags(), **(tags or {}), **above, **process_tags()}),
    }
    run = _begin(Journal(journal), start, upstream or {}, resume)
    try:
        yield run
    except BaseException as error:
        if _was_interrupted(error):
            run.close("KILLED", {"interrupted": "true"})
        else:
            run.close("FAILED", {"error": f"{type(error).__name__}: {error}"})
        raise
    run.close("FINISHED")


def tracked() -> bool:
    """Whether runs go to the store: not with CLUEMAP_TRACKING=off."""
    return os.environ.get("CLUEMAP_TRACKING") != "off"


def _begin(journal: Journal, start: dict[str, Any], upstream: Mapping[str, str | None], resume: RunRef | None) -> Run:
    history = journal.history
    if _continues(journal, start, resume):
        error = {"error": ""} if history.status == "FAILED" else {}
        again = {"interrupted": "false", "resumed": str(history.reopened + 1), **error}
        journal.write("status", status="RUNNING")
        journal.write("tags", tags={**start["tags"], **again})
    else:
        journal = _new_journal(journal)
        key = resume.key if resume and resume.key else uuid.uuid4().hex
        journal.write("start", key=key, **start, adopt=resume.id if resume else None)
    sender = Sender(journal) if tracked() else OfflineSender(journal)
    if sender.send() and sender.store is not None:
        try:
            end_dead_runs(sender.store)
        except TrackingError as error:
            logger.warning("Runs whose process died were not looked for: %s", error)
    return Run(journal, sender, upstream)


def _continues(journal: Journal, start: dict[str, Any], resume: RunRef | None) -> bool:
    """Whether the journal's run is the one to continue."""
    history = journal.history
    before = history.start
    if before is None:
        return False
    if resume:
        return resume.key == history.key or (resume.id is not None and resume.id == history.run_id)
    same = all(before[part] == start[part] for part in ("experiment", "name"))
    same = same and json.dumps(before["params"]) == json.dumps(start["params"])
    return history.status not in ("FAILED", "FINISHED") and same and _code_and_inputs(before) == _code_and_inputs(start)


def _code_and_inputs(start: dict[str, Any]) -> dict[str, str]:
    """The tags that say which code and inputs a run has."""
    return {key: value for key, value in start["tags"].items() if key.startswith(("code.", "input."))}


def _new_journal(journal: Journal) -> Journal:
    """A new journal in the place of that of an earlier run, which is ended and sent or kept to be sent."""
    if not journal.history.start:
        return journal
    if not journal.history.ended:
        journal.write("status", status="KILLED")
    Sender(journal).send()
    store_if_pending(journal)
    journal.close()
    return Journal(journal.path)


def _texts(tags: Mapping[str, Any]) -> dict[str, str]:
    return {metric_name(key): str(value) for key, value in tags.items() if value is not None}


def _was_interrupted(error: BaseException) -> bool:
    stopped = isinstance(error, SystemExit) and isinstance(error.code, int) and error.code >= 128  # 128 + signal
    return stopped or isinstance(error, KeyboardInterrupt | GeneratorExit | Interrupted)
