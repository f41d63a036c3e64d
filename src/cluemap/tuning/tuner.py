"""The tuning itself: asks the study for trials, runs them side by side, watches them, and tells what became of them."""

import logging
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from cluemap.errors import CheckpointError, CluemapError, Interrupted, ParamsError, TrackingError
from cluemap.experiments.gpu_assignment import processes
from cluemap.experiments.pipelines import Pipeline, contents, make_pipeline
from cluemap.files import read_json
from cluemap.params import load_params
from cluemap.tracking import NoRun, Run, RunRef, open_run
from cluemap.tuning.objectives import objective
from cluemap.tuning.progress_table import Table
from cluemap.tuning.search_space import PARCEL_SCORE, Tuning
from cluemap.tuning.study import Asked, StoreDown, Study
from cluemap.tuning.trial import Running, out_of_memory
from cluemap.tuning.trial_slots import Place, Slot, Trial

logger = logging.getLogger("cluemap.tuning")
LOOK = 0.2  # seconds between two looks at the trials
ALIVE = 60.0  # seconds between two signs of life
PATIENCE = 900.0  # seconds that the study's store may be away before the trials are stopped
ROOM = 64 * 2**20  # bytes: with less on the disk, a failure is the disk's and not the trial's
TRIES = 2  # the same params failing so often are given up
IN_A_ROW = 5  # trials given up one after another: something else is wrong
MISFITS = 100  # trials one after another whose values contradict each other
ASK = 5.0  # seconds until a study that had nothing to do is asked again
Answer = TypeVar("Answer")


class TuningError(CluemapError):
    """The study cannot continue."""


class Tuner:
    """Runs trials of one study; see `run`."""

    def __init__(
        self, study: Study, tuning: Tuning, place: Place, shares: Sequence[dict[str, str]], run: Run | NoRun,
        tags: Mapping[str, str], say: Callable[[str], None] = print,
    ):  # fmt: skip
        self.study, self.tuning, self.place, self.study_run, self.tags = study, tuning, place, run, dict(tags)
        self.slots = [Slot(dict(share)) for share in shares]
        self.stopping = ""  # the signal that was heard
        self.trouble = ""  # why no further trial makes sense
        self.given_up = 0  # trials in a row
        self.ask_at = 0.0
        self.table = Table(tuning, say)

    def run(self, wanted: int, timeout: float = math.inf) -> bool:
        """Run trials until the study has `wanted` finished ones; False when the time (seconds) was over before.

        Raises:
            Interrupted: SIGTERM or Ctrl-C; the trials under way are saved and queued.
            TuningError: trial after trial fails, or the disk is full.
            StoreDown: the study's store stayed away.
        """
        before = {number: signal.signal(number, self._heard) for number in (signal.SIGTERM, signal.SIGINT)}
        end = time.monotonic() + timeout
        self.table.begin(wanted, len(self.slots))
        try:
            while not (self.stopping or self.trouble or time.monotonic() > end or self._full(wanted)):
                self._fill(wanted)
                self._look_after()
        finally:
            try:
                self._stop_all()
            finally:  # the store may be what fails
                for number, handler in before.items():
                    signal.signal(number, handler)
        if self.trouble:
            raise TuningError(self.trouble)
        if self.stopping:
            raise Interrupted(f"{self.stopping}: the same command continues this study")
        return self._full(wanted)

    def _full(self, wanted: int) -> bool:
        if any(slot.busy for slot in self.slots) or time.monotonic() < self.ask_at:
            return False
        return sum(row.finished for row in self._patiently(self.study.rows)) >= wanted

    def _fill(self, wanted: int) -> None:
        """Begin a trial on every free share, as long as some are wanted."""
        for slot in self.slots:
            if not slot.busy and time.monotonic() >= self.ask_at and not self._start(slot, wanted):
                self.ask_at = time.monotonic() + ASK

    def _start(self, slot: Slot, wanted: int) -> bool:
        """Begin the next trial on a free share; False when none is wanted now."""
        asked = self._patiently(lambda: self.study.next(wanted))
        if asked is None:
            return False
        try:
            pipeline = self._pipeline(asked)
        except ParamsError as error:  # values that cannot stand together (mu_low under mu_high), as params.py has it
            why = str(error)
            self._patiently(lambda: self.study.infeasible(asked, why, refused=True))
            self._give_up(why, MISFITS)
            return True
        aim = objective(self.tuning.scores[0], load_params(self.place.dataset, pipeline.params_file))
        running = Running(pipeline, aim.stages, aim.trained, f"{self.study.key}-{asked.number}", slot.share)
        tracked = self._tracked(asked)
        slot.trial = Trial(asked, running, aim, tracked, tracked.__enter__())
        return True

    def _pipeline(self, asked: Asked) -> Pipeline:
        folder, changes = self.place.folder / f"{asked.number:04d}", self.tuning.changes(asked.values)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return make_pipeline(self.place.dataset, folder, self.place.prepared, changes, self.place.base)
        except CheckpointError:  # an earlier try's, with other code
            shutil.rmtree(folder)
            folder.mkdir()
            return make_pipeline(self.place.dataset, folder, self.place.prepared, changes, self.place.base)

    def _tracked(self, asked: Asked) -> AbstractContextManager[Run | NoRun]:
        own = {"values": asked.attributes["values"]} if "values" in asked.attributes else {}
        tags = {**self.tags, "study": self.study.name, "trial": asked.number, **own}
        journal = self.place.state / f"tune_{self.study.name}_{asked.number:04d}" / "journal.jsonl"
        key = RunRef(f"{self.study.key}-{asked.number}")  # the same run, whichever process continues the trial
        params = {**asked.values, "tune.budget": self.tuning.budget}
        name = f"{self.study.name} {asked.number:04d}"
        return open_run(f"{self.place.dataset}/tuning", name, params, journal, tags=tags, resume=key)

    def _look_after(self) -> None:
        """One look at every trial under way."""
        time.sleep(LOOK)
        for slot in self.slots:
            trial = slot.trial
            if trial is None:
                continue
            for point in trial.running.poll():
                self._point(trial, point)
            if trial.running.done:
                slot.trial = None
                self._ended(trial, processes(slot.share))
            elif time.monotonic() - trial.alive > ALIVE and not trial.why:
                trial.alive = time.monotonic()
                if not self._patiently(lambda trial=trial: self.study.mine(trial.asked)):  # type: ignore[misc]
                    trial.end("lost")

    def _point(self, trial: Trial, point: dict[str, Any]) -> None:
        """A point of the watched training: onto the trial's curves, and to the pruner if it is the score."""
        trial.run.log(point["step"], point["values"])
        found = trial.report(point, self.tuning.reports)
        if found is None:
            return
        prune = self._patiently(lambda: self.study.report(trial.asked, *found))
        if prune and point["step"] < trial.aim.steps:
            trial.end("pruned")

    def _ended(self, trial: Trial, processes: int) -> None:
        """Tell the study what became of a trial whose processes are gone."""
        asked, study = trial.asked, self.study
        seconds = asked.attributes.get("seconds", 0.0) + trial.running.seconds
        hours = seconds * processes / 3600
        error: BaseException | None = None
        if trial.why == "lost":
            error = Interrupted("another process took this trial for dead and continues it")
        else:
            self._patiently(lambda: asked.note(seconds=seconds))
        if trial.why == "stopped":
            self._patiently(lambda: study.release(asked))
            error = Interrupted("stopped, queued again")
        elif trial.why == "pruned":
            self._patiently(lambda: study.prune(asked))
            shutil.rmtree(trial.running.pipeline.folder / self.place.dataset, ignore_errors=True)
        elif not trial.why:
            error = self._completed(trial, hours) if trial.running.status is None else self._crashed(trial)
        trial.run.summary({"gpu_hours": hours})
        trial.run.tags({"state": trial.why or ("failed" if error else "complete")})
        trial.tracked.__exit__(type(error) if error else None, error, None)
        self._told(trial, error)

    def _completed(self, trial: Trial, hours: float) -> BaseException | None:
        pipeline = trial.running.pipeline
        try:
            value = trial.aim.value(pipeline)
        except CluemapError as error:
            return self._failed(trial, str(error))
        values = [value, hours][: len(self.tuning.scores)]
        self._patiently(lambda: self.study.complete(trial.asked, values))
        trial.run.summary({"score": value})
        self.given_up = 0
        for stage, heavy in (("make_cams", "cams"), ("make_masks", "masks")):
            shutil.rmtree(pipeline.folder / self.place.dataset / stage / heavy, ignore_errors=True)
        return None

    def _crashed(self, trial: Trial) -> BaseException:
        status, stage = trial.running.status or 0, trial.running.stage
        how = f"killed by signal {-status}" if status < 0 else f"ended with {status}"
        return self._failed(trial, f"{stage} {how}:\n{trial.running.tail()}")

    def _failed(self, trial: Trial, said: str) -> BaseException:
        """Queue it once more, give it up the second time; too little memory is a property of its params."""
        asked, study = trial.asked, self.study
        if shutil.disk_usage(self.place.folder).free < ROOM:
            self._patiently(lambda: study.release(asked))
            self.trouble = (
                f"the disk of {self.place.folder} is full: make room, then the same command. It said:\n{said}"
            )
            return TuningError(said)
        failures = [*asked.attributes.get("failures", []), said[-2000:]]
        self._patiently(lambda: asked.note(failures=failures))
        if out_of_memory(said):
            self._patiently(lambda: study.infeasible(asked, f"out of memory in {trial.running.stage}"))
        elif len(failures) < TRIES:
            self._patiently(lambda: study.release(asked))
        else:
            self._patiently(lambda: study.fail(asked))
            self._give_up(said, IN_A_ROW)
        return TuningError(said)

    def _give_up(self, said: str, bound: int) -> None:
        self.given_up += 1
        if self.given_up >= bound:
            self.trouble = f"{self.given_up} trials in a row could not be run; the last one: {said}"

    def _told(self, trial: Trial, error: BaseException | None) -> None:
        """The trial's line, and the study's own curve."""
        rows = self._patiently(self.study.rows)
        row = next(row for row in rows if row.number == trial.asked.number)
        self.table.line(row, rows, trial.asked.values, str(error or ""))
        if row.state == "COMPLETE":
            best = max(row.values[0] for row in rows if row.state == "COMPLETE")
            done = sum(row.finished for row in rows)
            self.study_run.log(done, {"best/score": best, "trial/score": row.values[0]})

    def _stop_all(self) -> None:
        """End what runs, saved and queued again; a second signal kills it."""
        for slot in self.slots:
            if slot.trial is not None and not slot.trial.why:
                slot.trial.end("stopped")
        down: StoreDown | None = None
        while any(slot.busy for slot in self.slots):
            try:
                self._look_after()
            except StoreDown as error:  # its trials stay as running, and the next start finds their process gone
                down = error
        if down:
            raise down

    def _heard(self, number: int, _frame: object) -> None:
        if self.stopping:
            for slot in self.slots:
                if slot.trial is not None:
                    slot.trial.running.stop(0.0)
        self.stopping = self.stopping or f"stopped by {signal.Signals(number).name}"

    def _patiently(self, call: Callable[[], Answer]) -> Answer:
        """Call the study, again and again while its store is away; the trials run on meanwhile."""
        start, wait = time.monotonic(), 1.0
        while True:
            try:
                return call()
            except StoreDown as error:
                if time.monotonic() - start > (10.0 if self.stopping else PATIENCE):
                    raise
                if wait == 1.0:
                    logger.warning("%s\nThe trials continue; it is asked again for %.0f minutes", error, PATIENCE / 60)
                time.sleep(wait)
                wait = min(30.0, 2 * wait)


def identity(tuning: Tuning, prepared: Path) -> dict[str, Any]:
    """Flat: what the trials of one study share.

    Raises:
        DataError: there are no prepared windows.
    """
    card = prepared / "windows" / "card.json"
    named = {f"content of {key}": value for key, value in contents(tuning.params).items()}
    if tuning.scores[0] == PARCEL_SCORE and not card.exists():  # a data set of parcels alone
        return {**tuning.identity(), **named}
    return {**tuning.identity(), **named, "windows": read_json(card)["digest"]}


@contextmanager
def study_run(
    study: Study, place: Place, tags: Mapping[str, str], identity: Mapping[str, Any]
) -> Iterator[Run | NoRun]:
    """The study's own run, one a study. Where another process of this machine has it open, that one keeps it."""
    journal = place.state / f"tune_{study.name}" / "journal.jsonl"
    name, mine = f"{study.name} (study)", {**tags, "study": study.name}
    tracked = open_run(f"{place.dataset}/tuning", name, identity, journal, tags=mine, resume=RunRef(study.key))
    with ExitStack() as stack:
        try:
            run: Run | NoRun = stack.enter_context(tracked)
        except TrackingError as error:
            logger.warning("%s\nThe study's own curve is left to it", error)
            run = NoRun()
        yield run
