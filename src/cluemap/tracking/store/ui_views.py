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
SECTIONS = {  # of charts (the part of a metric's name before the slash), in this order; True: open
    "results": {"Model metrics": True, "test": True, "pseudo_masks": True, "validation": True, "sources": False,
                "cost": False},
    "training": {"loss": True, "validation": True, "Model metrics": True, "clues": True,
                 "clue distance": False, "clue usage": False, "cost": False, "System metrics": False},
    "tuning": {"Model metrics": True, "best": True},
}  # fmt: skip
NAME = "attributes.`Run Name`"
WIDTHS = {NAME: 440}  # pixels: a name of results says what differs
PARAMS = ("seed", "cams.source", "masks.threshold", "clues.count", "temporal_weighting.sharpness")
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
    view = {"selectedColumns": columns, "columnOrder": order, "columnWidths": WIDTHS, **_charts(SECTIONS[kind])}
    return {
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{KEY}": json.dumps(view),
    }


def _charts(sections: dict[str, bool]) -> dict[str, Any]:
    """Sections without a chart yet: the page puts each metric's chart into the section of its name."""
    listed = [
        {"uuid": f"{KEY} {name}", "name": name, "display": shown, "isReordered": False, "isGenerated": True}
        for name, shown in sections.items()
    ]
    return {"compareRunCharts": [], "compareRunSections": listed, "isAccordionReordered": True, "hideEmptyCharts": True}


def link(server: str, experiment_id: str) -> str:
    """The page of an experiment's table of runs."""
    return f"{server}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={KEY}"
