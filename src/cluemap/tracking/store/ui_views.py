"""How MLflow's page shows an experiment: in the view for training, with the columns and charts that people compare.

MLflow keeps these settings as tags of the experiment. Without them its table of runs has no metric in it, and its
charts stand in alphabetical order.
"""

import json
from typing import Any

KEY = "cluemap"  # of the view, in the address of the page
METRICS = {
    "results": ("test_miou", "ratio", "reference_miou", "mask_miou", "mask_oracle_gap", "validation_miou",
                "test_accuracy", "cost/total_seconds"),
    "training": ("validation/miou", "validation/clue_cam_miou", "validation/mean_average_precision", "train/miou",
                 "loss/total", "windows_per_second", "cost/total_seconds"),
    "tuning": ("score", "gpu_hours"),
}  # fmt: skip
OURS: dict[str, dict[str, Any]] = {  # sections with charts of our choice, and how they are laid out
    "Params and scores": {"columns": 1, "cardHeight": 320},
    "Headline scores": {"columns": 3, "cardHeight": 300},
}
SECTIONS = {  # of charts (the part of a metric's name before the slash), in this order; True: open
    "results": {**dict.fromkeys(OURS, True), "Model metrics": False, "test": True, "pseudo_masks": True,
                "validation": True, "sources": False, "cost": False},
    "training": {"loss": True, "validation": True, "Model metrics": True, "clues": True,
                 "clue distance": False, "clue usage": False, "cost": False, "System metrics": False},
    "tuning": {"Model metrics": True, "best": True},
}  # fmt: skip
NAME = "attributes.`Run Name`"
WIDTHS = {NAME: 440}  # pixels: a name of results says what differs
PARAMS = ("seed", "clues.count", "temporal_weighting.kind", "temporal_weighting.sharpness", "cams.source",
          "masks.threshold", "refine.learner", "segmenter.kind")  # fmt: skip
COORDINATES = ("seed", "clues.count", "temporal_weighting.kind", "refine.learner", "segmenter.kind")
SCORES = ("mask_miou", "validation_miou", "test_miou")
SEARCHED = ("clues.count", "temporal_weighting.kind", "temporal_weighting.sharpness", "clues.tau", "clues.momentum")


def tags_of(experiment: str) -> dict[str, str]:
    """The tags of `<data set>/results|training|tuning`; none for other experiments."""
    kind = experiment.rpartition("/")[2]
    if kind not in METRICS:
        return {}
    columns = ["attributes.`Models`"] if kind == "results" else []
    columns += [f"metrics.`{name}`" for name in METRICS[kind]] + [
        f"params.`{name}`" for name in (SEARCHED if kind == "tuning" else PARAMS)
    ]
    order = [NAME, "runDateAndNestInfo", *columns]
    charts = [_coordinates(), *map(_bars, METRICS[kind][:-1])] if kind == "results" else []
    view = {"selectedColumns": columns, "columnOrder": order, "columnWidths": WIDTHS, **_charts(SECTIONS[kind], charts)}
    return {
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{KEY}": json.dumps(view),
    }


def _charts(sections: dict[str, bool], charts: list[dict[str, Any]]) -> dict[str, Any]:
    """Sections with `charts` of ours; the page puts each metric's own chart into the section of its name."""
    listed = [
        {"uuid": f"{KEY} {name}", "name": name, "display": shown, "isReordered": name in OURS,
         "isGenerated": name not in OURS, **OURS.get(name, {})}
        for name, shown in sections.items()
    ]  # fmt: skip
    shown = {"isAccordionReordered": True, "hideEmptyCharts": True}
    return {"compareRunCharts": charts, "compareRunSections": listed, **shown}


def _coordinates() -> dict[str, Any]:
    """Parallel coordinates: a line a run, from the params that people compare to its scores."""
    shown = {"selectedParams": list(COORDINATES), "selectedMetrics": list(SCORES), "showAllRuns": False}
    return _chart("Params and scores", "PARALLEL", "coordinates", **shown)


def _bars(metric: str) -> dict[str, Any]:
    """A bar a run."""
    return _chart("Headline scores", "BAR", metric, metricKey=metric)


def _chart(section: str, kind: str, name: str, **about: Any) -> dict[str, Any]:
    place = {"uuid": f"{KEY} chart {name}", "type": kind, "metricSectionId": f"{KEY} {section}"}
    return {**place, "runsCountToCompare": 20, "deleted": False, "isGenerated": False, **about}


def link(server: str, experiment_id: str) -> str:
    """The page of an experiment's table of runs."""
    return f"{server}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={KEY}"
