"""A stage's run: what the stage says goes into the journal on disk at once, and to the run store when it is time."""

import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluemap import paths
from cluemap.errors import TrackingError
from cluemap.files import read_json, write_json
from cluemap.tracking.delivery import Sender
from cluemap.tracking.journal import Journal
from cluemap.tracking.metric_names import flat, metric_name, plain
from cluemap.tracking.pending_runs import COMMAND, store_if_pending
from cluemap.tracking.run_artifacts import describe_artifact, name_of
from cluemap.tracking.store import store_location

logger = logging.getLogger("cluemap.tracking")


@dataclass(frozen=True)
class RunRef:
    """What a checkpoint keeps of its run, to continue the same one: `dataclasses.asdict` makes JSON of it."""

    key: str
    id: str | None = None


def made_by(folder: Path | str) -> str | None:
    """The run that made a stage's output folder, from its `run.json`; None if there is none.

    It is the id in the store, or `key:<the run's tag journal>` if no store had the run when it ended.
    """
    file = Path(folder) / "run.json"
    if not file.exists():
        return None
    card = read_json(file)
    return card["run_id"] or f"key:{card['key']}"


class Run:
    """An open run; made by `open_run`."""

    def __init__(self, journal: Journal, sender: Sender, upstream: Mapping[str, str | None]):
        self._journal, self._sender, self._upstream = journal, sender, dict(upstream)
        self._lost = 0  # records that a full disk did not take

    @property
    def id(self) -> str | None:
        """The run's id in the store; None as long as the store has not answered."""
        return self._journal.history.run_id

    @property
    def ref(self) -> RunRef:
        return RunRef(self._journal.history.key, self.id)

    @property
    def link(self) -> str | None:
        """Where the UI shows this run among the others of its experiment; None while the store does not answer."""
        start, store = self._journal.history.start, self._sender.store
        try:
            return store.link(start["experiment"]) if store and start else None
        except TrackingError:
            return None

    @property
    def seconds(self) -> float:
        """How long the run has worked, the time between an interruption and the next try left out."""
        history = self._journal.history
        return (history.worked + max(0, int(time.time() * 1000) - history.until)) / 1000

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve; a step that a curve already has is left as it is (a resumed run repeats some)."""
        last = self._journal.history.last
        named = {metric_name(name): float(value) for name, value in values.items()}
        fresh = {name: value for name, value in named.items() if name not in last or step > last[name][0]}
        if fresh:
            self._write("points", step=int(step), values=fresh)
        self._sender.maybe()

    def summary(self, values: Mapping[str, Any]) -> None:
        """Log headline numbers, nested or not, at the last step; they become the values in the table of runs."""
        history = self._journal.history
        by_step: dict[int, dict[str, float]] = {}
        for name, value in flat(values).items():
            step, last = history.last.get(name, (-1, None))
            if last is None or not (value == last or (math.isnan(value) and math.isnan(last))):
                by_step.setdefault(max(history.step, step + 1), {})[name] = value
        for step, points in sorted(by_step.items()):
            self._write("points", step=step, values=points)

    def artifact(self, path: Path | str, folder: str = "") -> None:
        """Keep a file, or each file of a folder, with the run. It must stay as it is until the run has ended."""
        path = Path(path)
        if not path.exists():
            raise TrackingError(f"{path} does not exist: write it before logging it as an artifact")
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                below = file.parent.relative_to(path).as_posix() if path.is_dir() else "."
                self._write(
                    "artifact",
                    folder=folder if below == "." else f"{folder}/{below}".lstrip("/"),
                    **describe_artifact(file),
                )
        self._sender.maybe()

    def tags(self, values: Mapping[str, Any]) -> None:
        self._write("tags", tags={metric_name(key): str(value) for key, value in values.items()})

    def dataset(
        self,
        name: str,
        digest: str,
        source: Path | str,
        schema: Mapping[str, Any] | None = None,
        context: str = "training",
    ) -> None:
        """Say which data the run used: MLflow's dataset input, with the DVC hash as its digest."""
        where, columns = json.dumps({"uri": name_of(source)}), json.dumps(schema) if schema else ""
        self._write("dataset", name=name, digest=digest, source=where, schema=columns, context=context)

    def result(self, folder: Path | str, metrics: Mapping[str, Any]) -> None:
        """Write `metrics.json` and `run.json` into a stage's outputs and log the same numbers, flattened by `/`."""
        write_json(Path(folder) / "metrics.json", plain(metrics))
        self.summary(metrics)
        self.flush()
        self.write_card(folder)

    def write_card(self, folder: Path | str) -> None:
        """Write `run.json`: which run made this folder, from which runs' outputs, and what it cost."""
        history = self._journal.history
        start = history.start or {}
        started = datetime.fromtimestamp(start["time"] / 1000, UTC).isoformat(timespec="seconds")
        card = {"run_id": self.id, "key": history.key, "experiment": start["experiment"], "stage": start["name"]}
        store = store_location.without_credentials(store_location.store_uri())
        cost = {"seconds": round(self.seconds, 1), "gpus": int(start["tags"].get("gpus", 0))}
        about = {"tracking_uri": store, "started": started, **cost, "upstream": self._upstream}
        write_json(Path(folder) / "run.json", {**card, **about})
        self._write("card", path=name_of(Path(folder) / "run.json"))

    def points(self) -> list[dict[str, float]]:
        """Every point logged so far, an interrupted try's too: {"step": 10, "loss/total": 0.3, ...} each."""
        records = (record for record, _ in self._journal.records(0) if record["kind"] == "points")
        return [{"step": record["step"], **record["values"]} for record in records]

    def flush(self) -> bool:
        """Deliver everything now; False if the store does not take it."""
        return self._sender.send()

    def close(self, status: str, tags: Mapping[str, str] | None = None) -> None:
        """End the run. A finished run's journal is removed, or moved to the pending ones; others may be resumed."""
        if tags:
            self.tags(tags)
        self._write("status", status=status)
        sent = self._sender.send()
        try:
            if (
                status == "FINISHED" or store_location.main_root() != paths.ROOT
            ):  # DVC removes its temporary copy of the project
                store_if_pending(self._journal)
            elif not sent:
                logger.warning("The run is not in the store; when it answers, type: %s", COMMAND)
        except TrackingError as error:
            logger.warning("%s", error)
        finally:
            self._journal.close()

    def _write(self, kind: str, **content: Any) -> None:
        try:
            self._journal.write(kind, **content)
        except TrackingError as error:
            if not self._lost:
                logger.warning("%s", error)
            self._lost += 1


class NoRun:
    """A run that takes everything and keeps nothing: for all processes but the first."""

    id = None
    ref = RunRef("")
    link = None
    seconds = 0.0

    def log(self, step: int, values: Mapping[str, float]) -> None: ...
    def summary(self, values: Mapping[str, Any]) -> None: ...
    def artifact(self, path: Path | str, folder: str = "") -> None: ...
    def tags(self, values: Mapping[str, Any]) -> None: ...
    def dataset(
        self,
        name: str,
        digest: str,
        source: Path | str,
        schema: Mapping[str, Any] | None = None,
        context: str = "training",
    ) -> None: ...
    def result(self, folder: Path | str, metrics: Mapping[str, Any]) -> None: ...
    def write_card(self, folder: Path | str) -> None: ...
    def points(self) -> list[dict[str, float]]:
        return []

    def flush(self) -> bool:
        return True

    def close(self, status: str, tags: Mapping[str, str] | None = None) -> None: ...
