"""How MLflow's page shows an experiment: in the view for training, and with the columns that people compare.

MLflow keeps both as tags of the experiment. Without them its table of runs has no metric in it.
"""

import json

KEY = "cluemap"  # of the view, in the address of the page
METRICS = {
    "results": ("test_miou", "ratio", "reference_miou", "mask_miou", "mask_oracle_gap", "validation_miou",
                "test_accuracy", "cost/total_seconds"),
    "training": ("validation/miou", "validation/clue_cam_miou", "validation/mean_average_precision", "train/miou",
                 "loss/total", "windows_per_second", "cost/total_seconds"),
    "tuning": ("score", "gpu_hours"),
}  # fmt: skip
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
    return {
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{KEY}": json.dumps({"selectedColumns": columns}),
    }


def link(server: str, experiment_id: str) -> str:
    """The page of an experiment's table of runs."""
    return f"{server}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={KEY}"
