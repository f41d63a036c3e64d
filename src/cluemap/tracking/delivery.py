"""Brings a journal's records to the run store, seldom enough to cost about 1 % of the time and never stopping a run."""

import logging
import time
from collections.abc import Callable
from typing import Any

from cluemap.errors import TrackingError
from cluemap.tracking.journal import MARKS, Journal
from cluemap.tracking.run_artifacts import find_artifact
from cluemap.tracking.store import store_location
from cluemap.tracking.store.mlflow_errors import Refused
from cluemap.tracking.store.moved_store import moved_from

logger = logging.getLogger("cluemap.tracking")
DATASET = ("name", "digest", "source", "schema", "context")
BATCH = 1000  # points a call, MLflow's limit
EVERY = 5.0  # seconds between two deliveries, at least
SHARE = 0.01  # of the time that deliveries may take
LONGEST = 300.0  # seconds between two tries of a store that does not answer


def open_store() -> Any:
    """The store of this project; mlflow is imported here, once the store is known to answer."""
    store_location.check_reachable(store_location.store_uri())
    from cluemap.tracking.store.mlflow_store import Store

    store = Store()
    former = moved_from(store.locations())
    if former:
        raise TrackingError(
            f"the run store {store.name} was made in {', '.join(sorted(former))} and moved here, and would write its "
            "artifacts there: type `python src/resend.py --mend-moved`"
        )
    return store


class Sender:
    """Delivers one journal. It holds no data: what is not yet sent stands in the journal."""

    def __init__(
        self, journal: Journal, connect: Callable[[], Any] = open_store, clock: Callable[[], float] = time.monotonic
    ):
        self.journal = journal
        self.store: Any = None
        self._connect, self._clock = connect, clock
        self._due, self._wait = clock(), 0.0

    def maybe(self) -> None:
        """Deliver if it is time to."""
        if self._clock() >= self._due:
            self.send()

    def send(self) -> bool:
        """Deliver everything now; False, with one warning an outage, when the store cannot take it."""
        start = self._clock()
        try:
            self.journal.sync()
            if self.store is None:
                self.store = self._connect()
                _settle(self.journal, self.store)
            deliver(self.journal, self.store)
        except (TrackingError, OSError) as error:
            self._failed(error, self._clock() - start)
            return False
        if self._wait:
            logger.warning("The run store %s answers again: nothing of the run is lost", self.store.name)
        self._wait = 0.0
        self._due = self._clock() + min(LONGEST, max(EVERY, (self._clock() - start) / SHARE))
        return True

    def _failed(self, error: Exception, cost: float) -> None:
        if not self._wait:
            kept = f"The run continues; its record is kept in {self.journal.path} and sent when the store answers"
            logger.warning("%s\n%s", error, kept)
        self.store = None
        self._wait = min(LONGEST, max(2 * self._wait, 2 * EVERY, cost / SHARE))
        self._due = self._clock() + self._wait


class OfflineSender(Sender):
    """For the stages of a trial (CLUEMAP_TRACKING=off): the journal is kept, and who started them records the trial."""

    def maybe(self) -> None: ...

    def send(self) -> bool:
        self.journal.write("sent", to=self.journal.history.said)
        return True


def _settle(journal: Journal, store: Any) -> None:
    """See that the journal's run is one that this store has; if not, the whole journal goes into a new one."""
    history = journal.history
    if history.run_id and not (history.store == store.name and store.has(history.run_id)):
        journal.write("sent", to=0)
        journal.write("run", id=None, store=None)


def deliver(journal: Journal, store: Any) -> None:
    """Bring the records behind the last sent one to the store, in order, marking in the journal what has arrived.

    Sending a record twice changes nothing in the store (same time, step and value), so a kill between the two is safe.

    Raises:
        TrackingError: the store failed; what it has is marked.
    """
    points: list[tuple[str, float, int, int]] = []
    arrived = journal.history.sent
    for record, end in journal.records(arrived):
        if record["kind"] == "points":
            points += _points(record, journal.history.seen)
        elif record["kind"] not in MARKS:
            _deliver_points(journal, store, points, arrived)
            points = []
            _deliver_record(journal, store, record)
            journal.write("sent", to=end)
        arrived = end
        if len(points) >= BATCH:
            _deliver_points(journal, store, points, arrived)
            points = []
    _deliver_points(journal, store, points, arrived)


def _points(record: dict[str, Any], seen: dict[str, int]) -> list[tuple[str, float, int, int]]:
    step, when = record["step"], record["time"]
    return [(name, value, when, step) for name, value in record["values"].items() if step > seen.get(name, step - 1)]


def _deliver_points(journal: Journal, store: Any, points: list[tuple[str, float, int, int]], arrived: int) -> None:
    if points:
        run_id = journal.history.run_id
        _each(points, lambda some: store.batch(run_id, points=some))
        journal.write("sent", to=arrived)


def _deliver_record(journal: Journal, store: Any, record: dict[str, Any]) -> None:
    kind, run_id = record["kind"], journal.history.run_id
    if kind == "start":
        run_id = _deliver_start(journal, store, record)
    elif kind == "tags":
        _each(list(record["tags"].items()), lambda some: store.batch(run_id, tags=dict(some)))
    elif kind == "artifact":
        file = find_artifact(record, journal.path)
        if file is None:
            logger.warning("%s is gone or was changed since the run: it is missing among its artifacts", record["path"])
        else:
            store.artifact(run_id, file, record["folder"])
    elif kind == "dataset":
        _each([record], lambda some: store.dataset(run_id, *(some[0][name] for name in DATASET)))
    elif kind == "status":
        store.status(run_id, record["status"], record["time"])


def _deliver_start(journal: Journal, store: Any, record: dict[str, Any]) -> str:
    adopted = record.get("adopt")
    if adopted and store.has(adopted):
        run_id = adopted
        journal.write("seen", last=store.last(run_id))
        store.status(run_id, "RUNNING", record["time"])
        store.batch(run_id, tags=record["tags"])
    else:
        run_id = store.create(record["experiment"], record["name"], record["key"], record["time"], record["tags"])
        _each(list(record["params"].items()), lambda some: store.batch(run_id, params=dict(some)))
    journal.write("run", id=run_id, store=store.name)
    return run_id


def _each(items: list[Any], send: Callable[[list[Any]], None]) -> None:
    """Send all; one that the store will never take is left out, with a warning, so that the others arrive."""
    try:
        if items:
            send(items)
    except Refused as error:
        if len(items) == 1:
            logger.warning("The run store does not take %s: %s", items[0], error)
            return
        half = len(items) // 2
        _each(items[:half], send)
        _each(items[half:], send)
