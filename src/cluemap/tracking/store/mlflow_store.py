"""The run store: MLflow's client, the only file that imports mlflow. Import it late; it takes 1.5 s and 126 MiB."""

import logging
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before the import: no telemetry, and a server that hangs may cost seconds, never minutes. The user's own values win.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "60",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "PGCONNECT_TIMEOUT": "5",
}.items():
    os.environ.setdefault(_name, _value)

import mlflow.store.db.utils  # noqa: E402
from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag, ViewType  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from sqlalchemy import event  # noqa: E402
from sqlalchemy.engine import Engine  # noqa: E402

from cluemap.errors import TrackingError  # noqa: E402
from cluemap.files import atomic  # noqa: E402
from cluemap.tracking.store import store_location, ui_views  # noqa: E402
from cluemap.tracking.store.mlflow_errors import Refused, RunGone, explained  # noqa: E402

mlflow.store.db.utils.MAX_RETRY_COUNT = 2  # MLflow's own 10 take 100 s, for instance for a wrong password
KEY_TAG = "journal"  # tag that says which journal a run was made from
EXPERIMENTS = ("results", "training", "tuning")  # `<data set>/<one of these>`


@dataclass(frozen=True)
class RunRecord:
    """What the store knows about one run."""

    id: str
    experiment: str
    name: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]  # last values
    artifact_uri: str


class Store:
    """An open run store."""

    def __init__(self, uri: str | None = None):
        """Open it, creating database and tables on first use.

        Raises:
            TrackingError: it cannot be reached or used.
        """
        for noisy in ("alembic", "mlflow.store.db.utils", "urllib3.connectionpool"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        self._uri = uri or store_location.store_uri()
        self.name = store_location.without_credentials(self._uri)
        store_location.check_reachable(self._uri)
        self._server = self._uri.startswith("http")  # it creates its own database
        with self._first_use(), explained(self.name), _default_artifacts_at_root():
            file = store_location.sqlite_file(self._uri)
            if file and not file.exists():
                _create_database(file)
            self.client = MlflowClient(self._uri, self._uri)
            self._experiments = {experiment.name: experiment for experiment in self._all_experiments()}

    def _first_use(self) -> AbstractContextManager[None]:
        return nullcontext() if self._server else store_location.first_use()

    def _all_experiments(self) -> Iterator[Any]:
        token: Any = None
        while True:
            page = self.client.search_experiments(view_type=ViewType.ALL, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def experiment(self, name: str) -> str:
        """The id of an experiment, created on first use with its own artifact folder."""
        if name not in self._experiments:
            with self._first_use(), explained(self.name):
                found = self.client.get_experiment_by_name(name) or self._create_experiment(name)
                self._experiments[name] = found
        found = self._experiments[name]
        if found.lifecycle_stage != "active":
            with explained(self.name):
                self.client.restore_experiment(found.experiment_id)
                self._experiments[name] = self.client.get_experiment(found.experiment_id)
        self._show_columns(name)
        return found.experiment_id

    def _show_columns(self, name: str) -> None:
        """Give the experiment its view, where it has none or an older version's."""
        found, wanted = self._experiments[name], ui_views.tags_of(name)
        if any(found.tags.get(key) != value for key, value in wanted.items()):
            with explained(self.name):
                for key, value in wanted.items():
                    self.client.set_experiment_tag(found.experiment_id, key, value)
                self._experiments[name] = self.client.get_experiment(found.experiment_id)

    def _create_experiment(self, name: str) -> Any:
        try:
            self.client.create_experiment(name, None if self._server else f"{store_location.artifact_root()}/{name}")
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another machine was quicker
                raise
        return self.client.get_experiment_by_name(name)

    def create(self, experiment: str, name: str, key: str, time: int, tags: dict[str, str]) -> str:
        """The run made from journal `key`; a second call finds the first one's."""
        folder = self.experiment(experiment)
        with explained(self.name):
            found = self.client.search_runs([folder], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
            if found:
                return found[0].info.run_id
            tags = {**_texts(tags, 8000), KEY_TAG: key}
            shown = tags.setdefault("mlflow.runName", name)
            return self.client.create_run(folder, start_time=time, tags=tags, run_name=shown).info.run_id

    def has(self, run_id: str) -> bool:
        try:
            with explained(self.name):
                return self.client.get_run(run_id).info.lifecycle_stage == "active"
        except (RunGone, Refused):
            return False

    def batch(
        self,
        run_id: str,
        points: Iterable[tuple[str, float, int, int]] = (),
        params: dict[str, Any] | None = None,
        tags: dict[str, Any] | None = None,
    ) -> None:
        """Log points (name, value, time, step), params and tags in as few calls as the limits allow."""
        metrics = [Metric(name, value, time, step) for name, value, time, step in points]
        options = [Param(key, value) for key, value in _texts(params or {}, 6000).items()]
        labels = [RunTag(key, value) for key, value in _texts(tags or {}, 8000).items()]
        with explained(self.name):
            for part in _parts(metrics, 1000):
                self.client.log_batch(run_id, metrics=part)
            for part in _parts(options, 100):
                self.client.log_batch(run_id, params=part)
            for part in _parts(labels, 100):
                self.client.log_batch(run_id, tags=part)

    def artifact(self, run_id: str, file: Path, folder: str) -> None:
        with explained(self.name):
            self.client.log_artifact(run_id, str(file), folder or None)

    def dataset(self, run_id: str, name: str, digest: str, source: str, schema: str, context: str) -> None:
        data = Dataset(name, digest[:36], "local", source, schema or None)
        with explained(self.name):
            self.client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", context)])])

    def status(self, run_id: str, status: str, time: int | None) -> None:
        with explained(self.name):
            if status == "RUNNING":
                self.client.update_run(run_id, status)
            else:
                self.client.set_terminated(run_id, status, time)

    def run(self, run_id: str) -> RunRecord:
        with explained(self.name):
            run = self.client.get_run(run_id)
            return _record(run, self.client.get_experiment(run.info.experiment_id).name)

    def runs(self, experiments: Iterable[str] | None = None, where: str = "") -> Iterator[RunRecord]:
        """The active runs of some experiments (None: all of this project's), newest first, as MLflow's filter picks."""
        wanted = self.project_experiments() if experiments is None else list(experiments)
        names = {self._experiments[name].experiment_id: name for name in wanted if name in self._experiments}
        ids, token = list(names), None
        while ids:
            with explained(self.name):
                page = self.client.search_runs(ids, where, max_results=1000, page_token=token)
            yield from (_record(run, names[run.info.experiment_id]) for run in page)
            token = page.token
            if not token:
                return

    def run_of_model(self, name: str, alias: str) -> str:
        """The id of the run that the registered model's version under `alias` was made from.

        Raises:
            TrackingError: no such model or alias, or a version that names no run.
        """
        with explained(self.name):
            version = self.client.get_model_version_by_alias(name, alias)
        if not version.run_id:
            raise TrackingError(f"{self.name}: version {version.version} of {name} names no run: register it again")
        return version.run_id

    def locations(self) -> dict[str, str]:
        """Experiment -> its artifact folder."""
        return {name: found.artifact_location for name, found in self._experiments.items()}

    def find(self, key: str) -> RunRecord | None:
        """The run made from the journal `key` (`key` in a `run.json`), in any of this project's experiments."""
        return next(self.runs(where=f"tags.`{KEY_TAG}` = '{key}'"), None)

    def project_experiments(self) -> list[str]:
        return [name for name in self._experiments if name.rpartition("/")[2] in EXPERIMENTS]

    def history(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """The points (step, value) of one metric."""
        with explained(self.name):
            return [(point.step, point.value) for point in self.client.get_metric_history(run_id, metric)]

    def last(self, run_id: str) -> dict[str, tuple[int, float]]:
        """Metric -> its last step and value."""
        histories = {name: self.history(run_id, name) for name in self.run(run_id).metrics}
        return {name: max(points) for name, points in histories.items() if points}

    def files(self, run_id: str, folder: str = "") -> list[str]:
        """Paths of a run's artifacts, in all folders."""
        with explained(self.name):
            found = self.client.list_artifacts(run_id, folder or None)
        nested = [self.files(run_id, entry.path) if entry.is_dir else [entry.path] for entry in found]
        return [path for group in nested for path in group]

    def fetch(self, run_id: str, path: str, folder: Path) -> Path:
        """Copy one of a run's artifacts into a folder."""
        with explained(self.name):
            return Path(self.client.download_artifacts(run_id, path, str(folder)))

    def link(self, experiment: str) -> str:
        """Where the UI shows an experiment's table of runs (the UI itself opens in another view)."""
        server = self.name.rstrip("/") if self._server else "http://127.0.0.1:5000"
        return ui_views.link(server, self.experiment(experiment))


def _record(run: Any, experiment: str) -> RunRecord:
    data, info = run.data, run.info
    places = (data.params, data.tags, data.metrics, info.artifact_uri or "")
    return RunRecord(info.run_id, experiment, info.run_name or "", info.status, *places)


def _texts(values: dict[str, Any], longest: int) -> dict[str, str]:
    return {key: str(value)[:longest] for key, value in values.items()}


def _parts(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _create_database(file: Path) -> None:
    """Make a SQLite store whole or not at all: MLflow's hundreds of small steps, cut by a kill, leave it broken."""
    new = file.with_name(f"{file.name}.{uuid.uuid4().hex}")  # a second try needs another address: MLflow remembers them
    event.listen(Engine, "connect", _without_sync)
    try:
        with atomic(file) as temporary:
            MlflowClient(f"sqlite:///{new}").search_experiments(max_results=1)
            os.replace(new, temporary)
    finally:
        event.remove(Engine, "connect", _without_sync)
        new.unlink(missing_ok=True)


def _without_sync(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA synchronous=OFF")  # the finished file is synced once, not a thousand times on the way


@contextmanager
def _default_artifacts_at_root() -> Iterator[None]:
    """MLflow gives its own experiment `Default` an artifact folder under cwd, unless this variable says otherwise."""
    name = "_MLFLOW_SERVER_ARTIFACT_ROOT"
    before = os.environ.get(name)
    os.environ[name] = before or store_location.artifact_root()
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
