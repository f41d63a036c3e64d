"""What every stage script shares: its arguments, its ranks, its run, its outputs, its handling of errors."""

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluemap.data.splits.labelled_part import with_known_labels
from cluemap.data.windows import Windows
from cluemap.errors import CluemapError, Interrupted, NotFinite
from cluemap.model.storage import checkpoints
from cluemap.model.storage.named_files import read_by
from cluemap.params import CourseParams, Params, load_params
from cluemap.paths import OUT, ROOT, stage_folder, state_folder
from cluemap.runtime import distributed
from cluemap.runtime.distributed import Ranks
from cluemap.runtime.messages import show_messages
from cluemap.runtime.stop_signals import exiting_on_sigterm
from cluemap.stages.costs import cost
from cluemap.tracking import NoRun, Run, RunRef, made_by, open_run
from cluemap.tracking.lineage import PATCH
from cluemap.tracking.provenance import changes, command, hashes_of, path_hash, provenance
from cluemap.tracking.row_names import row_name
from cluemap.training.task import Log, Pretraining, Settings, Task, Trained, TrainingData
from cluemap.training.trainer import Trainer

PRETRAINING = "pretraining"  # folder of the state of what comes before a training; its curves lie under this name
INTERRUPTED = "interrupted"  # file in the state folder: the last try was stopped by a signal and saved its state


@dataclass(frozen=True)
class Stage:
    """One execution of one stage for one data set."""

    name: str
    params: Params
    ranks: Ranks
    out: Path
    prepared: Path

    @property
    def folder(self) -> Path:
        """This stage's output folder."""
        return self.folder_of(self.name)

    def folder_of(self, stage: str) -> Path:
        """Another stage's output folder; the prepared windows may be shared by many pipelines."""
        return self.prepared if stage == "prepare" else stage_folder(self.params.dataset, stage, self.out)

    @property
    def state(self) -> Path:
        return state_folder(self.params.dataset, self.name, self.out)

    def windows(self, masks: bool = False) -> Windows:
        """The prepared windows of this data set with the image labels that `labelled` leaves known; `masks`: with the
        true masks that it leaves known too, for stages that learn from them.
        """
        return with_known_labels(Windows.open(self.prepared / "windows"), self.params.labelled, ROOT, masks)

    def run_of(self, stage: str) -> str | None:
        """The run that made another stage's outputs; None if there is none."""
        return made_by(self.folder_of(stage))

    @contextmanager
    def run(
        self, upstream: tuple[str, ...] = (), experiment: str = "training", resume: RunRef | None = None
    ) -> Iterator[Run | NoRun]:
        """Open this execution's tracked run (rank 0; the others get one that keeps nothing)."""
        named = {"mlflow.runName": row_name(self.params)} if experiment == "results" else {}
        with open_run(
            experiment=f"{self.params.dataset}/{experiment}",
            name=self.name,
            params=self.params.flat(),
            journal=self.state / "journal.jsonl",
            tags={**self.tags(upstream), **named},
            upstream={stage: self.run_of(stage) for stage in upstream},
            resume=resume,
            rank=self.ranks.rank,
        ) as run:
            self._keep_changes(run)
            yield run

    def _keep_changes(self, run: Run | NoRun) -> None:
        """Keep what the code differs from its commit in: without it a run of a dirty tree cannot be reproduced."""
        if self.ranks.first and (patch := changes()):
            file = self.state / Path(PATCH).name
            file.write_text(patch, encoding="utf-8")
            run.artifact(file, str(Path(PATCH).parent))

    @contextmanager
    def training(
        self,
        task: Task,
        data: TrainingData,
        course: CourseParams,
        blocks: tuple[str, ...],
        upstream: tuple[str, ...],
        extra: dict[str, Any] | None = None,
        before: Pretraining | None = None,
    ) -> Iterator[tuple[Run | NoRun, Trained]]:
        """Train `task` to its end (or resume an interrupted training) and give its run and the chosen weights.

        `before` comes first, in the same run. What must be the same for a training to be resumed: the params in
        `blocks`, the seed, the data's digest and `extra`. The saved state is removed when the caller has published the
        outputs.
        """
        params = self.params
        identity = {**identity_of(params, blocks), "data": data.digest, **(extra or {})}
        found = checkpoints.load_last(self.state)
        begun = checkpoints.load_last(self.state / PRETRAINING) if found is None else None
        latest = found or begun
        if latest:
            mend = f"put it back to continue that training, or train from scratch: rm -r {self.state}"
            checkpoints.check_same(latest.about["identity"], identity, self.state, mend)
        resume = RunRef(**latest.about["run"]) if latest else None
        (self.state / INTERRUPTED).unlink(missing_ok=True)
        with self.leaving_together():
            first = None if found or before is None else lambda run: self._pretrain(before, data, run, identity, begun)
            yield from self._trained(task, data, course, upstream, identity, resume, found, first)
        self.ranks.barrier()
        if self.ranks.first:
            shutil.rmtree(self.state, ignore_errors=True)

    @contextmanager
    def leaving_together(self) -> Iterator[None]:
        """When a training in it stops, every rank waits for the others: a rank that leaves first has torchrun end rank
        0 before its run is closed.
        """
        try:
            yield
        except (Interrupted, NotFinite):
            self.ranks.barrier()
            raise

    def _trained(
        self,
        task: Task,
        data: TrainingData,
        course: CourseParams,
        upstream: tuple[str, ...],
        identity: dict[str, Any],
        resume: RunRef | None,
        found: checkpoints.Checkpoint | None,
        first: Callable[[Run | NoRun], None] | None,
    ) -> Iterator[tuple[Run | NoRun, Trained]]:
        with self.run(upstream, resume=resume) as run:
            self.used(run, data.stage, data.output, data.digest, "training")
            if "masks" in identity and "refine_masks" in upstream:
                self.used(run, "refine_masks", "masks", identity["masks"], "labels")
            settings = self._settings(course, identity, run)
            try:
                if first:
                    first(run)
                trained = Trainer(task, data, settings, self.ranks, run, self.state, found).train()
            except Interrupted:
                if self.ranks.first:
                    (self.state / INTERRUPTED).touch()  # torchrun's exit status cannot say it
                raise
            yield run, trained

    def _pretrain(
        self,
        before: Pretraining,
        data: TrainingData,
        run: Run | NoRun,
        identity: dict[str, Any],
        begun: checkpoints.Checkpoint | None,
    ) -> None:
        """Train what comes before; its points go to curves of their own."""
        settings = self._settings(before.course, identity, run, before.rate)
        before.frozen.requires_grad_(False)
        log = Under(PRETRAINING, run)
        Trainer(before.task, data, settings, self.ranks, log, self.state / PRETRAINING, begun).train()
        before.frozen.requires_grad_(True)

    def _settings(
        self,
        course: CourseParams,
        identity: dict[str, Any],
        run: Run | NoRun,
        rate: Callable[[int], float] | None = None,
    ) -> Settings:
        params = self.params
        about = {"run": asdict(run.ref)}
        return Settings(course, params.compute, params.checkpoint, params.seed, identity, about, rate)

    def tags(self, upstream: tuple[str, ...]) -> dict[str, str]:
        """Commit, machine, versions, processes, the command, DVC's hashes of the inputs, and those of named files."""
        inputs = [self.params.raw, *map(self.folder_of, upstream)]
        named = {f"input.{_shown(file)}": path_hash(file) for file in read_by(self.name, self.params) if file.is_file()}
        gpus = self.ranks.world if self.ranks.device.type == "cuda" else 0
        how = {"command": command(), "processes": str(self.ranks.world), "gpus": str(gpus)}
        return {**provenance(self.params.dataset, self.name, inputs), **named, **how}

    def used(self, run: Run | NoRun, stage: str, output: str, digest: str, context: str) -> None:
        """Say that the run uses a stage's output: under DVC's hash of it, or `digest` where DVC has none."""
        folder = self.folder_of(stage) / output
        held = hashes_of([folder]).get(str(_shown(folder)), digest)
        run.dataset(f"{self.params.dataset} {output}", held, folder, context=context)

    def used_raw(self, run: Run | NoRun) -> None:
        """Say that the run reads the raw data: under DVC's hash of the folder that holds it."""
        held = next(iter(hashes_of([self.params.raw]).values()), "not in DVC")
        run.dataset(f"{self.params.dataset} raw", held, self.params.raw, context="raw")

    def finish(
        self,
        run: Run | NoRun,
        metrics: dict[str, Any],
        made: str,
        outputs: tuple[str, ...] = (),
        upstream: tuple[str, ...] = (),
    ) -> None:
        """Write metrics.json and run.json, log them, the figures, the hashes of `outputs` and the cost (of the stages
        `upstream` too), and say what was made and where.
        """
        if not self.ranks.first:
            return
        run.tags({f"output.{_shown(self.folder / name)}": path_hash(self.folder / name) for name in outputs})
        run.result(self.folder, metrics)
        run.summary({"cost": cost({stage: self.folder_of(stage) for stage in (*upstream, self.name)})})
        for stage in (*upstream, self.name):
            if (self.folder_of(stage) / "figures").exists():
                run.artifact(self.folder_of(stage) / "figures", "figures" if stage == self.name else f"figures/{stage}")
        print(f"{self.name}: {made} -> {_shown(self.folder)}")


class Under:
    """A log whose points have names under `name`."""

    def __init__(self, name: str, log: Log):
        self.name, self.under = name, log

    def log(self, step: int, values: dict[str, float]) -> None:
        self.under.log(step, {f"{self.name}/{name}": value for name, value in values.items()})


@exiting_on_sigterm()
def run_stage(name: str, description: str | None, work: Callable[[Stage], None], launches: bool = False) -> int:
    """Run a stage script; gives its exit status. `launches`: under torchrun where several processes are wanted."""
    show_messages()
    arguments = parse(name, description)
    try:
        processes = distributed.wanted_processes()
        params = load_params(arguments.dataset, arguments.params)
        if launches and processes > 1 and not distributed.launched():
            return distributed.run_under_torchrun(sys.argv[0], sys.argv[1:], processes)
        prepared = arguments.prepared or stage_folder(arguments.dataset, "prepare", arguments.out)
        ranks = distributed.join()
        work(Stage(name, params, ranks, arguments.out, prepared))
        distributed.leave(ranks)
    except Interrupted as stop:
        print(f"{name}: {stop}", file=sys.stderr)
        return 130
    except CluemapError as error:
        distributed.say_error(f"{name}: error: {error}")
        return 2
    except OSError as error:  # a full disk, a lost mount: nothing half-written is left under its final name
        free = shutil.disk_usage(arguments.out if arguments.out.exists() else ROOT).free / 2**20
        mend = f"({free:.0f} MiB free in {_shown(arguments.out)}): make room, then the same command again"
        distributed.say_error(f"{name}: error: {error} {mend}")
        return 2
    return 0


def parse(name: str, description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"src/{name}.py", description=description)
    parser.add_argument("--dataset", required=True, help="a data set of params.yaml, e.g. demo")
    parser.add_argument("--params", type=Path, default=ROOT / "params.yaml", help="another params file")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of all outputs (default: out)")
    parser.add_argument("--prepared", type=Path, help="folder of prepared windows to share (default: that of --out)")
    return parser.parse_args()


def identity_of(params: Params, blocks: tuple[str, ...]) -> dict[str, Any]:
    """The flat params that decide what a training gives."""
    decisive = ("seed", "compute.precision", "compute.clip_norm", *(f"{block}." for block in blocks))
    return {key: value for key, value in params.flat().items() if key.startswith(decisive)}


def _shown(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
