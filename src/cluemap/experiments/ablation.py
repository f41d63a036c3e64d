"""What each step of the method brings: the same pipeline with losses switched off, over several seeds."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from cluemap.experiments.pipelines import make_pipeline, run_all
from cluemap.paths import STAGES

MASK_STAGES = ("train_classifier", "make_cams", "make_masks")
ALL_STAGES = STAGES[1:]  # the prepared windows are shared
SOURCES: dict[str, Any] = {"cams.source": "clue", "cams.compare": ["fused", "refined"]}  # what the rows read
VARIANTS: dict[str, dict[str, float]] = {
    "none": {"losses.lambda_tap": 0.0, "losses.lambda_clue": 0.0},
    "tap": {"losses.lambda_clue": 0.0},
    "both": {},
}


class Row(NamedTuple):
    """One line of the table: a number from each seed's pipeline of one variant."""

    name: str
    variant: str
    stage: str
    value: Callable[[dict[str, Any]], float]


def masks(name: str, variant: str, source: str) -> list[Row]:
    """mIoU of one source's pseudo masks of the training windows, at the used and at the best threshold."""

    def used(found: dict[str, Any]) -> float:
        return found["sources"][source]["train"]["miou"]

    def best(found: dict[str, Any]) -> float:
        return found["sources"][source]["train"]["oracle"]["miou"]

    return [Row(name, variant, "make_masks", used), Row(f"{name}, best threshold", variant, "make_masks", best)]


ROWS = [
    *masks("raw fused CAM, neither loss", "none", "fused"),
    *masks("propagated CAM, neither loss", "none", "refined"),
    *masks("clue CAM, neither loss", "none", "clue"),
    *masks("propagated CAM, + L_tap", "tap", "refined"),
    *masks("propagated CAM, + L_tap + L_clue", "both", "refined"),
    *masks("clue CAM (Exact)", "both", "clue"),
    Row("segmenter on pseudo masks, test", "both", "evaluate", lambda found: found["test"]["weak"]["miou"]),
    Row("segmenter on true masks, test", "both", "evaluate", lambda found: found["test"]["full"]["miou"]),
    Row("ratio of the two", "both", "evaluate", lambda found: found["ratio"]),
]


def ablate(
    dataset: str,
    folder: Path,
    prepared: Path,
    seeds: Sequence[int],
    variants: Sequence[str],
    jobs: int,
) -> list[dict[str, Any]]:
    """Run (or resume) the variants for each seed, `jobs` at once; one row of numbers per line of the table.

    Raises:
        StageFailed: see `run_all`.
    """
    pipelines = {
        (variant, seed): make_pipeline(
            dataset, folder / f"{variant}_{seed}", prepared, {**SOURCES, **changes, "seed": seed}
        )
        for seed in seeds
        for variant, changes in VARIANTS.items()
        if variant in variants
    }
    stages = lambda variant: ALL_STAGES if variant == "both" else MASK_STAGES
    run_all([(pipeline, stages(variant)) for (variant, _), pipeline in pipelines.items()], jobs)
    rows = [row for row in ROWS if row.variant in variants]
    return [
        line(row.name, [row.value(pipelines[row.variant, seed].metrics(row.stage)) for seed in seeds]) for row in rows
    ]


def line(name: str, values: Sequence[float]) -> dict[str, Any]:
    """One line of a table: a value per seed, their mean and standard deviation."""
    spread = stdev(values) if len(values) > 1 else 0.0
    return {"name": name, "values": list(values), "mean": mean(values), "spread": spread}


def table(lines: list[dict[str, Any]], seeds: Sequence[int], head: str = "mIoU in %") -> str:
    """The lines as Markdown: every seed, mean and standard deviation, in %."""
    top = [head, *(f"seed {seed}" for seed in seeds), "mean ± s.d."]
    rows = [top, ["---", *["---:"] * (len(top) - 1)]]
    for one in lines:
        numbers = [f"{100 * value:.1f}" for value in one["values"]]
        rows.append([one["name"], *numbers, f"{100 * one['mean']:.1f} ± {100 * one['spread']:.1f}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
