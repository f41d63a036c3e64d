"""Does the best trial hold? The best values and the paper's, each retrained at full length with several seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cluemap.experiments.ablation import line, table
from cluemap.experiments.objectives import objective
from cluemap.experiments.pipelines import make_pipeline
from cluemap.experiments.space import Tuning
from cluemap.params import load_params


def confirm(
    tuning: Tuning, best: Mapping[str, Any], seeds: Sequence[int], folder: Path, base: Path, prepared: Path
) -> dict[str, list[float]]:
    """{"best" | "paper": validation score per seed}. Goes on where it was stopped.

    Raises:
        StageFailed: a training ended with an error; what is finished stays.
    """
    found: dict[str, list[float]] = {}
    wanted = [(name, values, seed) for name, values in (("best", best), ("paper", tuning.paper)) for seed in seeds]
    for name, values, seed in tqdm(wanted, unit="training"):
        changes = {**tuning.changes(values, budget=1.0), "seed": seed}
        dataset = tuning.params.dataset
        pipeline = make_pipeline(dataset, folder / f"{name}_{seed}", prepared, changes, base)
        aim = objective(tuning.scores[0], load_params(dataset, pipeline.params_file))
        pipeline.run(aim.stages)
        found.setdefault(name, []).append(aim.value(pipeline))
    return found


def confirmed(found: Mapping[str, Sequence[float]], seeds: Sequence[int]) -> str:
    """The scores as Markdown, in %."""
    return table([line(name, values) for name, values in found.items()], seeds, "validation score in %")
