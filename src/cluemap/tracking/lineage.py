"""Lineage of a result: which runs, code, params, data and commands made it, and what of it is still the same."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluemap import paths
from cluemap.errors import DataError, TrackingError
from cluemap.files import parsed_yaml
from cluemap.tracking.provenance import code, path_hash
from cluemap.tracking.store.mlflow_errors import RunGone

UPSTREAM, INPUT, OUTPUT = "upstream.", "input.", "output."  # tags of a run
PATCH = "code/changes.patch"  # artifact of a run whose code differed from its commit


@dataclass(frozen=True)
class Lineage:
    """One run and all runs that it was made of."""

    run: Any  # tracking.store.RunRecord
    upstream: dict[str, Any]  # stage -> RunRecord, in the order of the stages; None where the store has it no more

    @property
    def hashes(self) -> dict[str, set[str]]:
        """Path -> DVC's hash of it as these runs read or wrote it; two where they did not have the same."""
        found: dict[str, set[str]] = {}
        for run in filter(None, [*self.upstream.values(), self.run]):
            for tag, value in run.tags.items():
                if tag.startswith((INPUT, OUTPUT)):
                    found.setdefault(tag.partition(".")[2], set()).add(value)
        return dict(sorted(found.items()))


@dataclass(frozen=True)
class Finding:
    """What became of one thing that the runs were made of."""

    name: str
    state: str  # same | changed | missing | unclear
    detail: str = ""

    @property
    def good(self) -> bool:
        return self.state == "same"


def trace(store: Any, run_id: str) -> Lineage:
    """The run, by its id or as `key:<the key in its run.json>`, and those it was made of.

    Raises:
        TrackingError: the store does not have that run, or does not answer.
    """
    run = _found(store, run_id)
    if run is None:
        raise TrackingError(f"{store.name} has no run {run_id}: ids stand in `mlflow ui` and in out/*/*/run.json")
    known: dict[str, Any] = {}
    _gather(store, run, known)
    order = [stage for stage in paths.STAGES if stage in known]
    return Lineage(run, {stage: known[stage] for stage in [*order, *(known.keys() - set(order))]})


def _found(store: Any, name: str) -> Any:
    if name.startswith("key:"):
        return store.find(name.removeprefix("key:"))
    try:
        return store.run(name)
    except RunGone:
        return None


def _gather(store: Any, run: Any, known: dict[str, Any]) -> None:
    for tag, name in run.tags.items():
        stage = tag.removeprefix(UPSTREAM)
        if tag.startswith(UPSTREAM) and stage not in known:
            known[stage] = _found(store, name)
            if known[stage]:
                _gather(store, known[stage], known)


def describe(lineage: Lineage) -> str:
    """All of it as text for people."""
    run, tags = lineage.run, lineage.run.tags
    dirty = tags.get("git.dirty") == "true"
    changed = f", changed since in {tags.get('git.changed', 'files that git does not know')}" if dirty else ""
    lines = [
        f"{run.experiment}  {run.name}  run {run.id}  {run.status}",
        "",
        f"code      commit {tags.get('git.commit', 'unknown')} ({tags.get('git.branch', 'no branch')}){changed}",
        f"          digest of src/: {tags.get('code.digest', 'unknown')}",
        f"machine   {tags.get('machine.cpu')}, {tags.get('machine.gpus')} GPU, torch {tags.get('version.torch')}",
        "",
        "commands, in their order, and the runs that they made",
    ]
    for stage, one in {**lineage.upstream, run.name: run}.items():
        made = f"{one.id}  {one.tags.get('command', '')}" if one else "not in the store any more"
        lines.append(f"  {stage:17} {made}")
    lines += ["", "data, masks and models, by DVC's hash"]
    lines += [f"  {' or '.join(sorted(values)):36}  {path}" for path, values in lineage.hashes.items()]
    lines += ["", "params", *(f"  {key:40} {value}" for key, value in sorted(run.params.items()))]
    return "\n".join(lines)


def verify(lineage: Lineage, root: Path | None = None) -> Iterator[Finding]:
    """Hash everything again as it lies in `root` now; the code and the params too."""
    root = Path(root or paths.ROOT)
    yield _verified_code(lineage.run.tags, root)
    yield from _verified_params(lineage.run, root)
    for path, values in lineage.hashes.items():
        if len(values) > 1:
            yield Finding(path, "unclear", f"the runs did not have the same: {' and '.join(sorted(values))}")
            continue
        (wanted,) = values
        try:
            found = path_hash(root / path)
        except DataError:
            yield Finding(path, "missing", f"was {wanted}")
            continue
        yield Finding(path, "same" if found == wanted else "changed", "" if found == wanted else f"{wanted} -> {found}")


def _verified_code(tags: Mapping[str, str], root: Path) -> Finding:
    now, was = code(root), tags.get("code.digest")
    if now["code.digest"] == was:
        return Finding("src", "same")
    commits = f"commit {tags.get('git.commit')} -> {now['git.commit']}"
    return Finding("src", "changed", f"{commits}, digest {was} -> {now['code.digest']}")


def _verified_params(run: Any, root: Path) -> Iterator[Finding]:
    changes = changed_params(run, root / "params.yaml")
    if not changes:
        yield Finding("params.yaml", "same")
    for key, (was, now) in changes.items():
        yield Finding(f"params.yaml: {key}", "changed", f"{was} -> {now}")


def _alike(one: str, other: str) -> bool:
    """Whether two texts are the same, or the same number (1 and 1.0)."""
    try:
        return one == other or float(one) == float(other)
    except ValueError:
        return False


def changed_params(run: Any, file: Path) -> dict[str, tuple[str, str]]:
    """Key -> (the run's value, the file's value), of the params that differ, as MLflow's texts.

    The file is read loosely: that of an older commit may lack blocks that this version wants.

    Raises:
        DataError: there is no such file.
    """
    if not file.exists():
        raise DataError(f"{file} is missing: the project's own lies beside dvc.yaml")
    tree = parsed_yaml(file.read_text(encoding="utf-8"))
    own = tree.get(run.tags.get("dataset", ""), {})
    changes = {}
    for key, was in run.params.items():
        block, _, name = key.partition(".")
        if block in ("dataset", "root"):
            continue
        merged = tree.get(block) if not name else {**(tree.get(block) or {}), **(own.get(block) or {})}
        now = merged.get(name) if name and isinstance(merged, dict) else merged
        if not _alike(str(now), was):
            changes[key] = (was, str(now))
    return changes
