"""The study: Optuna's samplers, pruners and store, and the only import of it. One trial has one row, whatever happens.

A trial that lost its process, was interrupted or crashed once is put back into the queue under its own number, with its
params: the next process that asks continues it. Everything that reads the rows and then decides happens under one lock.
"""

import fcntl
import json
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from numpy.random import SeedSequence
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from cluemap.errors import CluemapError
from cluemap.model.storage.checkpoints import check_same
from cluemap.tracking.process_owner import is_dead, this_process
from cluemap.tuning.search_space import Searched, Tuning

optuna.logging.set_verbosity(optuna.logging.ERROR)  # its warnings of a store that is away are pages of SQL
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
warnings.filterwarnings("ignore", message="The reported value is ignored")  # a continued trial tells some again
# Seconds without a sign of life from another machine: more than it waits for a store that is away (tuner.PATIENCE), and
# then for its trials to stop.
STALE = 1500.0
LOCKS = {  # by the store's kind; held by a connection of its own until that is closed
    "postgresql": "select pg_advisory_lock(7301442)",
    "mysql": "select get_lock('cluemap_tune', 600)",
}


class StoreDown(CluemapError):
    """The study's store does not answer, or cannot be written."""


class OtherSchema(CluemapError):
    """The study's store was made by another version of Optuna."""


@dataclass(frozen=True)
class Row:
    """One trial as the store has it."""

    number: int
    state: str  # COMPLETE | PRUNED | FAIL | RUNNING | WAITING
    values: tuple[float, ...]
    params: dict[str, Any]
    attributes: dict[str, Any]
    reports: dict[int, float]

    @property
    def infeasible(self) -> bool:
        return "infeasible" in self.attributes

    @property
    def finished(self) -> bool:
        """Whether it counts: a trial that failed, or whose params contradict each other, is not finished."""
        return self.state in ("COMPLETE", "PRUNED") and "refused" not in self.attributes


class Asked:
    """A trial that this process runs."""

    def __init__(self, trial: optuna.Trial, values: dict[str, Any]):
        self.trial, self.number, self.values = trial, trial.number, values
        self.attributes = dict(trial.user_attrs)

    def note(self, **attributes: Any) -> None:
        """Keep something with the trial."""
        for name, value in attributes.items():
            self.trial.set_user_attr(name, value)
            self.attributes[name] = value


class Study:
    """A study in its store; every method may raise StoreDown, and can then be called again."""

    def __init__(
        self,
        url: str,
        name: str,
        tuning: Tuning,
        identity: Mapping[str, Any],
        sampler: str,
        seed: int,
        prune: bool = True,
    ):
        """Open it, or make it with the current and the paper's values as its first trials.

        `prune`: end bad trials early, where sampler and objective allow it.

        Raises:
            CheckpointError: it was made for other params; names the first that differs.
            OtherSchema: the store is another Optuna's.
        """
        self.url, self.name, self.tuning, self.seed = url, name, tuning, seed
        self.sampler, self.prune_bad = sampler, prune
        self._me, self._asked = this_process(), set[int]()  # ids of the trials that this process runs
        self._locks = sqlalchemy.create_engine(url, poolclass=NullPool)
        with answering(url), self.alone():
            options = {"connect_args": {"timeout": 60}} if self.sqlite else {"pool_pre_ping": True}
            self._store = optuna.storages.RDBStorage(url, engine_kwargs=options)
            directions = [optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE]
            self._study = optuna.create_study(
                storage=self._store,
                study_name=name,
                directions=directions[: len(tuning.scores)],
                load_if_exists=True,
                pruner=self._pruner(),
            )
            self._begin(identity)

    @property
    def sqlite(self) -> Path | None:
        """The store's file, if it is one."""
        made = sqlalchemy.make_url(self.url)
        return Path(made.database) if made.get_backend_name() == "sqlite" and made.database else None

    @property
    def key(self) -> str:
        """Names this study among all of them."""
        return self._study.user_attrs["key"]

    @property
    def prunes(self) -> bool:
        return not isinstance(self._study.pruner, optuna.pruners.NopPruner)

    def next(self, wanted: int) -> Asked | None:
        """The next trial to run, a waiting one first; None when finished and running ones already make `wanted`."""
        with answering(self.url), self.alone():
            self._sweep()
            rows = self.rows()
            if sum(row.finished or row.state == "RUNNING" for row in rows) >= wanted:
                return None
            self._study.sampler = self._sampler(len(rows))
            trial = self._study.ask()
            trial.set_user_attr("owner", json.dumps(self._me))
            trial.set_user_attr("seen", time.time())
            asked = Asked(trial, self.tuning.ask(lambda entry: _suggest(trial, entry)))
            self._asked.add(trial._trial_id)
            return asked

    def report(self, asked: Asked, index: int, value: float) -> bool:
        """Note a score on the way; True when the trial (none of the two first) is not worth going on with."""
        with answering(self.url):
            asked.note(seen=time.time())
            if len(self.tuning.scores) > 1:
                return False  # Optuna prunes no trial of several objectives
            asked.trial.report(value, index)
            return self.prunes and "values" not in asked.attributes and asked.trial.should_prune()

    def mine(self, asked: Asked) -> bool:
        """Say that the trial is alive; False when it was taken for dead and is somebody else's now."""
        with answering(self.url), self.alone():
            owned = self._owned(asked)
            if owned:
                asked.note(seen=time.time())
            return owned

    def complete(self, asked: Asked, values: Sequence[float]) -> None:
        self._tell(asked, list(values), TrialState.COMPLETE)

    def prune(self, asked: Asked) -> None:
        self._tell(asked, None, TrialState.PRUNED)

    def infeasible(self, asked: Asked, why: str, refused: bool = False) -> None:
        """End a trial that cannot be run (`refused`: never was), so that the sampler keeps away from such params."""
        with answering(self.url):
            asked.note(infeasible=why, **({"refused": True} if refused else {}))
            asked.trial.set_constraint("feasible", 1.0)
        self._tell(asked, None, TrialState.PRUNED if len(self.tuning.scores) == 1 else TrialState.FAIL)

    def fail(self, asked: Asked) -> None:
        self._tell(asked, None, TrialState.FAIL)

    def release(self, asked: Asked) -> None:
        """Put a trial back into the queue, with its number and params; called again, it takes it from nobody."""
        with answering(self.url), self.alone():
            if self._owned(asked):
                self._store.set_trial_state_values(asked.trial._trial_id, TrialState.WAITING)
        self._asked.discard(asked.trial._trial_id)

    def close(self) -> None:
        """Leave no trial of a dead process as running."""
        with answering(self.url), self.alone():
            self._sweep()

    def rows(self) -> list[Row]:
        with answering(self.url):
            return [_row(trial) for trial in self._study.get_trials(deepcopy=False)]

    def best(self) -> Row | None:
        """The best finished trial by the first score."""
        done = [row for row in self.rows() if row.state == "COMPLETE"]
        return max(done, key=lambda row: row.values[0], default=None)

    def importances(self) -> dict[str, float]:
        """Share of the score's variation that each key of every trial explains (fANOVA); {} for few trials."""
        done = [row for row in self.rows() if row.state == "COMPLETE"]
        if len(done) < 4 or len({row.values[0] for row in done}) < 2:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self.seed)
        target = (lambda trial: trial.values[0]) if len(self.tuning.scores) > 1 else None
        return optuna.importance.get_param_importances(self._study, evaluator=evaluator, target=target)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Held by one process at a time, on all machines that share the store."""
        if self.sqlite:
            self.sqlite.parent.mkdir(parents=True, exist_ok=True)
            with self.sqlite.with_suffix(".lock").open("a") as handle:
                fcntl.lockf(handle, fcntl.LOCK_EX)
                yield
            return
        with self._locks.connect() as connection:
            take = LOCKS.get(connection.dialect.name)
            if take:
                connection.execute(sqlalchemy.text(take))
            yield  # the lock ends with the connection

    def _begin(self, identity: Mapping[str, Any]) -> None:
        found = self._study.user_attrs.get("identity")
        plain = json.loads(json.dumps(identity))
        if found is not None:
            check_same(found, plain, f"study {self.name!r}", "put it back, or give another name with --study")
        elif not self._study.get_trials(deepcopy=False):
            self._study.enqueue_trial(self.tuning.current, user_attrs={"values": "of params.yaml"})
            if self.tuning.paper != self.tuning.current:
                self._study.enqueue_trial(self.tuning.paper, user_attrs={"values": "the paper's"})
        if "key" not in self._study.user_attrs:
            self._study.set_user_attr("key", uuid.uuid4().hex)
        self._study.set_user_attr("identity", plain)

    def _sweep(self) -> None:
        """Queue the trials that say running though their process is gone, or was cut off from the store while it asked
        for them. Only under the lock.
        """
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            owner = json.loads(trial.user_attrs.get("owner", "null"))
            silent = time.time() - trial.user_attrs.get("seen", 0.0) > STALE
            here = owner is not None and owner.get("host") == self._me["host"]
            cut_off = owner == self._me and trial._trial_id not in self._asked
            if owner is None or cut_off or is_dead(owner) or (silent and not here):
                self._store.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    def _owned(self, asked: Asked) -> bool:
        """Whether the trial runs, and in this process."""
        row = self._store.get_trial(asked.trial._trial_id)
        return row.state is TrialState.RUNNING and row.user_attrs.get("owner") == json.dumps(self._me)

    def _tell(self, asked: Asked, values: list[float] | None, state: TrialState) -> None:
        with answering(self.url):
            self._study.tell(asked.trial, values, state=state, skip_if_finished=True)

    def _sampler(self, trials: int) -> optuna.samplers.BaseSampler:
        """A function of the seed and of how many trials there are: a resumed study does not repeat its draws."""
        seed = int(SeedSequence([self.seed, trials]).generate_state(1)[0])
        if self.sampler == "gp":
            return optuna.samplers.GPSampler(seed=seed)
        if self.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed)

    def _pruner(self) -> optuna.pruners.BasePruner:
        """Hyperband over a trial's reports; none for gp, which is worse with one, nor for several scores."""
        if not self.prune_bad or self.sampler == "gp" or len(self.tuning.scores) > 1:
            return optuna.pruners.NopPruner()
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=self.tuning.reports, reduction_factor=3)


@contextmanager
def answering(url: str) -> Iterator[None]:
    """Turn what a store's failure raises into StoreDown, and what another version's store raises into OtherSchema."""
    try:
        yield
    except RuntimeError as error:
        if "table schema" not in str(error):  # Optuna's own words for it
            raise
        raise OtherSchema(_other_schema(url, str(error))) from None
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, OSError) as error:
        name = sqlalchemy.make_url(url).render_as_string(hide_password=True)
        cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else None
        why = (str(cause or error).splitlines() or [type(error).__name__])[0]
        raise StoreDown(f"the study's store {name} cannot be used: {why}") from error


def _other_schema(url: str, text: str) -> str:
    name = sqlalchemy.make_url(url).render_as_string(hide_password=True)
    if "storage upgrade" in text:
        mend = f"`optuna storage upgrade --storage {name}`"
        return f"{name} was made by an older Optuna: keep a copy of it, then type {mend}"
    return f"{name} was made by a newer Optuna than {optuna.__version__}: give another --storage, or update Optuna"


def _suggest(trial: optuna.Trial, entry: Searched) -> Any:
    if entry.kind == "choice":
        return trial.suggest_categorical(entry.key, entry.choices)
    if entry.kind == "int":
        return trial.suggest_int(entry.key, int(entry.low), int(entry.high), log=entry.log)
    return trial.suggest_float(entry.key, entry.low, entry.high, log=entry.log)


def _row(trial: FrozenTrial) -> Row:
    values = tuple(trial.values or ()) if trial.state is TrialState.COMPLETE else ()
    reports = dict(trial.intermediate_values)
    return Row(trial.number, trial.state.name, values, dict(trial.params), dict(trial.user_attrs), reports)
