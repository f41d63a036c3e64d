"""One pipeline with other params in a folder of its own, run by the same stage scripts as `dvc repro`."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from ruamel.yaml import YAML
from tqdm import tqdm

from cluemap.data.preparation_state import identity_of
from cluemap.data.readers import open_reader
from cluemap.data.unseen_files import content_of
from cluemap.errors import CluemapError, ParamsError
from cluemap.experiments.gpu_assignment import devices, shares
from cluemap.files import atomic, atomic_folder, read_json, write_json
from cluemap.model.storage.checkpoints import check_same
from cluemap.model.storage.named_files import named_files
from cluemap.params import METHOD_BLOCKS, Params, load_params
from cluemap.paths import ROOT, STAGES, stage_folder
from cluemap.tracking.provenance import code

MADE_OF = "made_of.json"


class StageFailed(CluemapError):
    """A stage script of a pipeline ended with an error; the message holds the end of its log."""


@dataclass(frozen=True)
class Pipeline:
    """A params file and an output folder; the prepared windows are shared, never copied."""

    dataset: str
    folder: Path
    prepared: Path

    @property
    def params_file(self) -> Path:
        return self.folder / "params.yaml"

    def metrics(self, stage: str) -> dict[str, Any]:
        return read_json(stage_folder(self.dataset, stage, self.folder) / "metrics.json")

    def done(self, stage: str) -> bool:
        return (stage_folder(self.dataset, stage, self.folder) / "metrics.json").exists()

    def take_over(self, other: "Pipeline", reached: Sequence[str]) -> None:
        """Link the finished outputs of another pipeline's stages that come before the last of `reached` and are not in
        it; a stage that has outputs here keeps them.
        """
        last = max(STAGES.index(stage) for stage in reached)
        for stage in STAGES[1:last]:
            source = stage_folder(other.dataset, stage, other.folder)
            target = stage_folder(self.dataset, stage, self.folder)
            if stage not in reached and other.done(stage) and not target.exists():
                self._take(source, target)

    def take(self, other: "Pipeline", stages: Sequence[str]) -> None:
        """Link the finished outputs of these stages of another pipeline; a stage that has outputs here keeps them."""
        for stage in stages:
            target = stage_folder(self.dataset, stage, self.folder)
            if not target.exists():
                self._take(stage_folder(other.dataset, stage, other.folder), target)

    @staticmethod
    def _take(source: Path, target: Path) -> None:
        with atomic_folder(target) as temporary:
            shutil.copytree(source, temporary, dirs_exist_ok=True, copy_function=_link)

    def command(self, stage: str) -> list[str]:
        where = ["--params", str(self.params_file), "--out", str(self.folder), "--prepared", str(self.prepared)]
        return [sys.executable, str(ROOT / "src" / f"{stage}.py"), "--dataset", self.dataset, *where]

    def run(self, stages: Sequence[str], share: Mapping[str, str] | None = None) -> None:
        """Run the stages that are not done yet, one after another; what they say goes to `<folder>/log.txt`.

        share: the part of the machine they get, as variables of the environment (see `devices.shares`).

        Raises:
            StageFailed: one ended with an error.
        """
        environment = {**os.environ, **(share or {})}
        for stage in stages:
            if self.done(stage):
                continue
            log = self.folder / "log.txt"
            with log.open("ab") as handle:
                status = subprocess.run(self.command(stage), stdout=handle, stderr=handle, env=environment).returncode
            if status:
                tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
                raise StageFailed(f"{stage} in {self.folder} ended with {status}:\n{tail}")


def run_all(wanted: Sequence[tuple[Pipeline, Sequence[str]]], jobs: int = 1) -> None:
    """Run the stages of several pipelines, `jobs` pipelines at once, each on its share of the machine.

    Raises:
        TrainingError: more jobs than GPUs.
        StageFailed: a stage ended with an error; what is finished stays, so that the same call continues.
    """
    free: SimpleQueue[dict[str, str]] = SimpleQueue()
    for share in shares(devices(), jobs):
        free.put(share)

    def one(pipeline: Pipeline, stages: Sequence[str]) -> None:
        share = free.get()
        try:
            pipeline.run(stages, share)
        finally:
            free.put(share)

    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(wanted), unit="pipeline") as bar:
        running = [pool.submit(one, *each) for each in wanted]
        try:
            for future in as_completed(running):
                future.result()
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def make_pipeline(
    dataset: str, folder: Path, prepared: Path, changes: Mapping[str, Any], base: Path | None = None
) -> Pipeline:
    """A pipeline in `folder`, with `changes` (dotted key -> value) laid over the data set's params.

    Raises:
        ParamsError: a key that does not exist, or an impossible value.
        CheckpointError: the folder holds results of other params, windows or code.
    """
    pipeline = Pipeline(dataset, folder, prepared)
    wanted = folder / ".wanted.yaml"
    write_changed(base or ROOT / "params.yaml", dataset, changes, wanted)
    new = made_of(dataset, wanted, prepared)
    if pipeline.params_file.exists():
        check_same(read_json(folder / MADE_OF), new, folder, "remove that folder, or give another one with --out")
    wanted.replace(pipeline.params_file)
    write_json(folder / MADE_OF, new)
    return pipeline


def made_of(dataset: str, params_file: Path, prepared: Path) -> dict[str, Any]:
    """What a pipeline's results depend on: its params, the prepared windows (where it prepares its own: the raw data
    they are cut from), the files that params name, the code.
    """
    params, card = load_params(dataset, params_file), prepared / "windows" / "card.json"
    own = prepared.is_relative_to(params_file.parent)
    known = identity_of(open_reader(params), params)["raw files"] if own else None
    windows = read_json(card)["digest"] if card.exists() and not own else None
    named = {f"content of {key}": value for key, value in contents(params).items()}
    return {**params.flat(), **named, "windows": windows, "raw files": known, "code": code()["code.digest"]}


def contents(params: Params) -> dict[str, str | None]:
    """Key of params that names a file -> the hash of its content; {} where none is named."""
    return {key: content_of(file)["md5"] for key, file in named_files(params).items()}


def write_changed(base: Path, dataset: str, changes: Mapping[str, Any], file: Path) -> None:
    """Write a copy of a params file, comments kept, with a data set's block overriding some keys."""
    tree = deepcopy(_commented(base.read_text(encoding="utf-8")))
    for key, value in changes.items():
        block, _, name = key.partition(".")
        if key == "seed":
            tree["seed"] = value
        elif block in METHOD_BLOCKS and name in tree[block]:
            tree[dataset][block][name] = value
        else:
            raise ParamsError(f"{base} has no key `{key}`: see its blocks for the right name")
    with atomic(file) as temporary, temporary.open("w", encoding="utf-8") as handle:
        _keeps_comments().dump(tree, handle)


@lru_cache(maxsize=4)
def _commented(text: str) -> Any:
    """Params with their comments, read once for all the pipelines made of them: work on copies."""
    return _keeps_comments().load(text)


def _keeps_comments() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    return yaml
