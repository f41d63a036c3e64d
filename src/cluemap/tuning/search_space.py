"""What `tune` in params.yaml asks for, strictly read: what is searched, and what a trial lays over the params."""

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from cluemap.errors import ParamsError
from cluemap.params import METHOD_BLOCKS, TUNE, Block, Method, Params, load_params, nearest, read_tree

PARCEL_SCORE = "parcel_miou"
Score = Literal["clue_cam_miou", "mean_average_precision", "cam_agreement", "segmenter_miou", "parcel_miou"]
OF_MAPS = ("masks", "cams")  # of parcels.labels: ways that want a pixel pipeline first
SHARED = ("windows", "compute", "checkpoint", "figures")  # blocks that say nothing about the method
FREE = ("compute.inference_batch", "compute.compile", "checkpoint.", "figures.")  # change no result


class Range(Block):
    """One searched key; its type is the one params.yaml's key has."""

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    choices: list[Any] | None = Field(default=None, min_length=2)
    when: dict[str, Any] = Field(default_factory=dict)  # searched only where another searched key has this value


class TuneParams(Block):
    objective: Score | list[Score | Literal["gpu_hours"]]
    budget: float = Field(gt=0.0)
    reports: int = Field(ge=1)
    space: dict[str, Range] = Field(min_length=1)


@dataclass(frozen=True)
class Searched:
    """One dimension of the search."""

    key: str
    kind: Literal["int", "float", "choice"]
    low: float
    high: float
    log: bool
    choices: tuple[Any, ...]
    when: Mapping[str, Any]

    def active(self, values: Mapping[str, Any]) -> bool:
        return all(values.get(key) == value for key, value in self.when.items())

    def holds(self, value: Any) -> bool:
        if self.kind == "choice":
            return value in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high

    def shown(self) -> str:
        return f"one of {list(self.choices)}" if self.kind == "choice" else f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Tuning:
    """A data set's `tune` block, checked against its params, which trials change."""

    scores: tuple[str, ...]  # the first is what counts; "gpu_hours" may come second
    budget: float
    reports: int
    space: tuple[Searched, ...]  # a key comes after those it depends on
    params: Params
    current: dict[str, Any]  # the searched keys' values in this data set's params
    paper: dict[str, Any]  # and in the method's blocks

    def ask(self, suggest: Callable[[Searched], Any]) -> dict[str, Any]:
        """Key -> value, asking only for the keys that are active."""
        values: dict[str, Any] = {}
        for entry in self.space:
            if entry.active(values):
                values[entry.key] = suggest(entry)
        return values

    def changes(self, values: Mapping[str, Any], budget: float | None = None) -> dict[str, Any]:
        """What a trial lays over the params: its values, and trainings of `budget` times their steps.

        The momentum is raised to 1 / budget: fewer moves, each larger, so that a clue forgets as much over a training.
        Scores are looked at `reports` times from the step on from which they mean something.
        """
        budget = self.budget if budget is None else budget
        if self.scores[0] == PARCEL_SCORE:
            steps = _scaled({**self.params.flat(), **values}["parcels.steps"], budget)
            return {**values, "parcels.steps": steps, "parcels.validate_every": max(1, steps // self.reports)}
        flat = {**self.params.flat(), **values}
        steps, start = _scaled(flat["classifier.steps"], budget), round(flat["clues.start_step"] * budget)
        first = start if self.scores[0] in ("clue_cam_miou", "cam_agreement") else 0
        weak = _scaled(flat["segmenter.steps"], budget)
        return {
            **values,
            "classifier.steps": steps,
            "classifier.validate_every": max(1, (steps - first) // self.reports),
            "clues.start_step": start,
            "clues.momentum": flat["clues.momentum"] ** (1 / budget),
            "segmenter.steps": weak,
            "cscl.steps": _scaled(flat["cscl.steps"], budget),
            "segmenter.validate_every": max(1, weak // self.reports),
            "cams.compare": [],
        }

    def identity(self) -> dict[str, Any]:
        """Flat: what must be the same for trials to be of one study."""
        searched = {entry.key for entry in self.space}
        kept = {key: value for key, value in self.params.flat().items() if key not in searched}
        own = {f"tune.space.{entry.key}": _plain(entry) for entry in self.space}
        top = {"tune.objective": list(self.scores), "tune.budget": self.budget, "tune.reports": self.reports}
        return {**{key: value for key, value in kept.items() if not key.startswith(FREE)}, **top, **own}


def read_tuning(dataset: str, file: Path, budget: float | None = None, only: Sequence[str] = ()) -> Tuning:
    """Read a data set's `tune` block (laid over the method's, its space key by key).

    only: search these keys of the space, the others keep the data set's values; none = search all.

    Raises:
        ParamsError: a key that does not exist, a range that cannot be, params that lie outside of it.
    """
    params, tree = load_params(dataset, file), read_tree(file)
    if TUNE not in tree:
        raise ParamsError(f"{file}: missing key `{TUNE}`: the project's own file holds it")
    asked = _asked(file, dataset, tree[TUNE] or {}, tree[dataset].get(TUNE) or {})
    flat = params.flat()
    wanted = _only(file, asked.space, only, flat) if only else asked.space
    space = tuple(_ordered(file, [_searched(file, key, given) for key, given in wanted.items()]))
    method = {f"{block}.{name}": value for block in METHOD_BLOCKS for name, value in tree[block].items()}
    current = _part(space, flat, f"{file}, {dataset}")
    paper = _part(space, method, f"{file}, the method's own")
    scores = (asked.objective,) if isinstance(asked.objective, str) else tuple(asked.objective)
    if "gpu_hours" in scores[:1] or len(scores) > 2 or (len(scores) == 2 and scores[1] != "gpu_hours"):
        raise ParamsError(f"{file}: tune.objective is {list(scores)}: give one score, or [a score, gpu_hours]")
    if scores[0] == PARCEL_SCORE:
        _check_parcels(file, space, params)
    return Tuning(scores, budget or asked.budget, asked.reports, space, params, current, paper)


def _check_parcels(file: Path, space: tuple[Searched, ...], params: Params) -> None:
    """Raises ParamsError: a key that parcels do not depend on, or labels of a stage that no trial runs."""
    if others := [entry.key for entry in space if not entry.key.startswith("parcels.")]:
        raise ParamsError(
            f"{file}: tune.objective is {PARCEL_SCORE}, which does not depend on {', '.join(others)}: search keys of "
            "`parcels` alone, with --only"
        )
    told = {
        params.parcels.labels,
        *(choice for entry in space if entry.key == "parcels.labels" for choice in entry.choices),
    }
    if wrong := sorted(told & set(OF_MAPS)):
        raise ParamsError(
            f"{file}: parcels.labels {', '.join(wrong)} want a pixel pipeline, which no trial of {PARCEL_SCORE} runs: "
            "take parcels, image_labels or instances"
        )


def _asked(file: Path, dataset: str, top: dict[str, Any], own: dict[str, Any]) -> TuneParams:
    for name, block in ((TUNE, top), (f"{dataset}.{TUNE}", own)):
        if not isinstance(block, dict) or not isinstance(block.get("space", {}), dict):
            raise ParamsError(f"{file}: {name} should hold `key: value` lines, found {block!r}")
        for key in block:
            if key not in TuneParams.model_fields:
                raise ParamsError(
                    f"{file}: unknown key `{name}.{key}`{nearest(str(key), list(TuneParams.model_fields))}"
                )
    merged = {**top.get("space", {}), **own.get("space", {})}
    space = {
        key: given for key, given in merged.items() if given is not None
    }  # `key: null` in a data set: not searched
    try:
        return TuneParams.model_validate({**top, **own, "space": space})
    except ValidationError as error:
        lines = [f"`{TUNE}.{'.'.join(map(str, e['loc']))}`: {e['msg']}, found {e['input']!r}" for e in error.errors()]
        raise ParamsError("\n".join(f"{file}: {line}" for line in lines)) from None


def _only(file: Path, space: Mapping[str, Range], only: Sequence[str], flat: Mapping[str, Any]) -> dict[str, Range]:
    """These keys of the space. What one of them waits for is searched too, or is so in the data set's params."""
    kept = {}
    for key in only:
        if key not in space:
            raise ParamsError(f"{file}: tune.space does not search `{key}`{nearest(key, list(space))}")
        for other, value in space[key].when.items():
            if other not in only and flat[other] != value:
                raise ParamsError(
                    f"{file}: tune.space.{key} waits for {other} = {value!r}, which is {flat[other]!r}: "
                    f"search {other} too, or change it"
                )
        when = {other: value for other, value in space[key].when.items() if other in only}
        kept[key] = space[key].model_copy(update={"when": when})
    return kept


def _searched(file: Path, key: str, given: Range) -> Searched:
    field, where = _field(file, key), f"{file}: tune.space.{key}"
    numbers = given.low is not None and given.high is not None
    if numbers == (given.choices is not None):
        raise ParamsError(f"{where}: give either `low` and `high`, or `choices`")
    values = given.choices if given.choices is not None else [given.low, given.high]
    adapter: TypeAdapter = TypeAdapter(Annotated[field.annotation, field])  # type: ignore
    for value in values:
        try:
            adapter.validate_python(value, strict=True)
        except ValidationError as error:
            raise ParamsError(f"{where}: {value!r} is no value of {key}: {error.errors()[0]['msg']}") from None
    if given.choices is not None:
        return Searched(key, "choice", 0, 0, False, tuple(given.choices), given.when)
    low, high = float(given.low or 0), float(given.high or 0)
    if bool in _types(field) or not low < high or (given.log and low <= 0):
        raise ParamsError(f"{where}: {given.low} to {given.high} is no range{' for log' if given.log else ''}")
    kind: Literal["int", "float"] = "int" if field.annotation is int else "float"
    return Searched(key, kind, low, high, given.log, (), given.when)


def _field(file: Path, key: str) -> FieldInfo:
    block, _, name = key.partition(".")
    known = [f"{block}.{name}" for block in METHOD_BLOCKS if block not in SHARED for name in _names(block)]
    if key in known:
        return Method.model_fields[block].annotation.model_fields[name]  # type: ignore[union-attr]
    why = f": {block} cannot be searched" if block in SHARED and name in _names(block) else nearest(key, known)
    raise ParamsError(f"{file}: tune.space has the unknown key `{key}`{why}")


def _names(block: str) -> list[str]:
    return list(Method.model_fields[block].annotation.model_fields)  # type: ignore[union-attr]


def _types(field: FieldInfo) -> tuple[Any, ...]:
    union = get_origin(field.annotation) in (Union, types.UnionType)
    return get_args(field.annotation) if union else (field.annotation,)


def _ordered(file: Path, entries: list[Searched]) -> Iterator[Searched]:
    """Conditions first.

    Raises:
        ParamsError: a condition on a key that is not searched by choices, on a value it has not, or on itself.
    """
    named = {entry.key: entry for entry in entries}
    given: set[str] = set()
    for entry in entries:
        for key, value in entry.when.items():
            if key not in named or not named[key].holds(value):
                found = named[key].shown() if key in named else "not searched"
                raise ParamsError(f"{file}: tune.space.{entry.key} waits for {key} = {value!r}, which is {found}")
    while len(given) < len(entries):
        ready = [entry for entry in entries if entry.key not in given and given >= entry.when.keys()]
        if not ready:
            raise ParamsError(f"{file}: tune.space: the conditions (`when`) wait for each other")
        yield from ready
        given |= {entry.key for entry in ready}


def _part(space: tuple[Searched, ...], flat: Mapping[str, Any], whose: str) -> dict[str, Any]:
    """The searched keys' values in given params."""
    values: dict[str, Any] = {}
    for entry in space:
        if entry.active(values):
            values[entry.key] = flat[entry.key]
            if not entry.holds(flat[entry.key]):
                raise ParamsError(
                    f"{whose}: {entry.key} is {flat[entry.key]!r}, and tune.space searches {entry.shown()}: "
                    "widen that range, since the first trials are these values"
                )
    return values


def _scaled(steps: int, budget: float) -> int:
    return max(1, round(steps * budget))


def _plain(entry: Searched) -> str:
    return (
        f"{entry.kind} {entry.shown()}{' log' if entry.log else ''}{f' when {dict(entry.when)}' if entry.when else ''}"
    )
