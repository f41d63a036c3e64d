"""Does the best trial hold? Its values, the data set's own and the paper's, retrained whole with several seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluemap.experiments.ablation import line, table
from cluemap.experiments.pipelines import make_pipeline, run_all
from cluemap.params import load_params
from cluemap.tuning.objectives import objective
from cluemap.tuning.search_space import Tuning


def confirm(
    tuning: Tuning, best: Mapping[str, Any], seeds: Sequence[int], folder: Path, base: Path, prepared: Path, jobs: int
) -> dict[str, list[float]]:
    """{"best" | "params.yaml" | "paper": validation score per seed}. Goes on where it was stopped.

    Raises:
        StageFailed: a training ended with an error; what is finished stays.
    """
    dataset, found = tuning.params.dataset, {}
    for name, values in (("best", best), ("params.yaml", tuning.current), ("paper", tuning.paper)):
        for seed in seeds:
            changes = {**tuning.changes(values, budget=1.0), "seed": seed}
            pipeline = make_pipeline(dataset, folder / f"{name}_{seed}", prepared, changes, base)
            found[name, seed] = pipeline, objective(tuning.scores[0], load_params(dataset, pipeline.params_file))
    run_all([(pipeline, aim.stages) for pipeline, aim in found.values()], jobs)
    scores: dict[str, list[float]] = {}
    for (name, _), (pipeline, aim) in found.items():
        scores.setdefault(name, []).append(aim.value(pipeline))
    return scores


def confirmed(found: Mapping[str, Sequence[float]], seeds: Sequence[int]) -> str:
    """The scores as Markdown, in %."""
    return table([line(name, values) for name, values in found.items()], seeds, "validation score in %")
