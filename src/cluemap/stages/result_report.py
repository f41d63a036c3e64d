"""The report of a result: what `evaluate` found, with its pictures, params and lineage, on one page to mail."""

from pathlib import Path
from typing import Any

from cluemap.data.windows import Windows
from cluemap.figures.report import write_report
from cluemap.stages.stage import Stage

CAPTIONS = {
    "overview": "From a series and its image label to a map: three validation windows.",
    "validation_windows": "Validation windows: true colour of the clearest date, truth, pseudo mask, map, clue CAMs.",
    "patch": "All validation windows of one patch: truth, and where each segmenter's map is wrong.",
    "class_scores": "IoU per class.",
    "border_errors": "Test pixels that are wrong, by their distance from a true border.",
    "reliability": "How often pixels are right at each confidence, on the test windows; the diagonal is honest.",
    "confusion_weak": "Confusion on the test windows, segmenter trained on pseudo masks.",
    "confusion_full": "Confusion on the test windows, segmenter trained on true masks.",
}
EARLIER = {
    "refine_masks": ("rounds", "Masks in rounds under the image label; agreement is with the round before."),
    "make_masks": ("threshold_curve", "Pseudo masks at every threshold; the best one (star) is never used."),
    "make_cams": ("temporal_weights", "Which dates matter for which crop; 1 = an even share of the dates."),
    "train_classifier": ("training", "The classifier's training."),
}


def report(stage: Stage, windows: Windows, metrics: dict[str, Any], lineage: dict[str, Any]) -> Path:
    """Write `<evaluate>/report.html`: one file, nothing loaded from anywhere."""
    params = stage.params
    sections = [
        {
            "title": "Result",
            "parts": [
                *_warnings(metrics),
                _learners(metrics),
                _won(metrics["won"]),
                *_pictures(stage.folder, ("overview", "patch")),
                _legend(windows),
            ],
        },
        {"title": "Scores", "parts": [_masks(metrics), _test(metrics), *_pictures(stage.folder, ("class_scores",))]},
        {"title": "Borders", "parts": [_edges(metrics), *_pictures(stage.folder, ("border_errors",))]},
        {"title": "Windows", "parts": _pictures(stage.folder, ("validation_windows",))},
        {"title": "Confusion", "parts": _pictures(stage.folder, ("confusion_weak", "confusion_full"))},
        {"title": "Confidence", "parts": [_confidence(metrics), *_pictures(stage.folder, ("reliability",))]},
        {"title": "Few labels", "parts": _curve(stage)},
        {"title": "Provenance of the result", "parts": [*_earlier(stage)]},
        {"title": "Params", "parts": [{"kind": "values", "values": params.model_dump(mode="json")}]},
        {"title": "Lineage", "parts": [{"kind": "values", "values": lineage}]},
    ]
    content = {
        "title": f"cluemap: {params.dataset}",
        "subtitle": f"{len(windows)} windows, {len(windows.card.legend.classes)} crops, fold {params.windows.fold}",
        "headline": _headline(metrics),
        "sections": [section for section in sections if section["parts"]],
    }
    return write_report(content, stage.folder / "report.html")


def lineage(stage: Stage, upstream: tuple[str, ...]) -> dict[str, Any]:
    """What made the result: the code's state, the machine, DVC's hashes, and the runs of the stages before."""
    runs = {name: stage.run_of(name) or "not in the store" for name in upstream}
    tags: dict[str, Any] = dict(stage.tags(upstream))
    return {"runs": runs, **dict(sorted(tags.items()))}


def story(stage: Stage, metrics: dict[str, Any], upstream: tuple[str, ...]) -> str:
    """Markdown for the run's page: the result in a sentence, and links to the runs that it was made of."""
    runs = {name: stage.run_of(name) for name in upstream}
    links = [f"- {name}: [{run}](#/runs/{run})" for name, run in runs.items() if run and not run.startswith("key:")]
    first = f"Test mIoU {_share(metrics['test_miou'])}, {_share(metrics['ratio'])} of full supervision."
    return "\n".join([first, "", "Made of", *links, "", "Traced by `python src/lineage.py <run id>`."])


def _headline(metrics: dict[str, Any]) -> list[dict[str, str]]:
    weak, full, trees = metrics["test"]["weak"], metrics["test"]["full"], metrics["baselines"]["trees"]
    return [
        {"name": "test mIoU from image labels", "value": _share(weak["miou"]), "note": "held-out fold"},
        {"name": "trees on the same masks", "value": _share(trees["weak"]["miou"]), "note": "the simple baseline"},
        {"name": "test mIoU from true masks", "value": _share(full["miou"]), "note": "the upper bound"},
        {"name": "ratio", "value": _share(metrics["ratio"]), "note": "of full supervision"},
        {"name": "refined masks, mIoU", "value": _share(metrics["refined_masks"]["miou"]),
         "note": f"{_share(metrics['pseudo_masks']['miou'])} before"},
    ]  # fmt: skip


def _warnings(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """What a reader must know before believing the scores; nothing where there is nothing to say."""
    if not metrics["warnings"]:
        return []
    rows = [[text] for text in metrics["warnings"]]
    return [{"kind": "table", "columns": ["Mind"], "rows": rows, "caption": "Warnings about these scores."}]


def _learners(metrics: dict[str, Any]) -> dict[str, Any]:
    """Networks and baselines side by side, from both kinds of masks."""
    named = {"segmenter": metrics["test"], **metrics["baselines"]}
    kinds = {"weak": "image labels", "full": "true masks"}
    columns = {"mIoU": "miou", "OA": "overall_accuracy", "balanced accuracy": "balanced_accuracy",
               "boundary IoU": "boundary_iou", "mIoU within 1 px of a border": "border_1px_miou",
               "within 2 px": "border_miou",
               "mIoU away from borders": "interior_miou"}  # fmt: skip
    rows = [
        [f"{name}, {words}", *(_cell(found[kind][key]) for key in columns.values())]
        for kind, words in kinds.items()
        for name, found in named.items()
    ]
    caption = "On the test windows. mIoU is the mean over the classes that the test windows hold."
    return {"kind": "table", "columns": ["learner, taught by", *columns], "rows": rows, "caption": caption}


def _won(won: dict[str, Any]) -> dict[str, Any]:
    """Which model to map with."""
    rows = [
        [f"{won['model']}, mIoU", _cell(won["validation_miou"]), _cell(won["test_miou"])],
        [f"lead over {won['second']}", _cell(won["validation_lead"]), _cell(won["test_lead"])],
    ]
    caption = "The best model taught by image labels, chosen on the validation windows, and its lead over the second."
    return {"kind": "table", "columns": ["which model won", "validation", "test"], "rows": rows, "caption": caption}


def _confidence(metrics: dict[str, Any]) -> dict[str, Any]:
    """Calibration of every model."""
    rows = [
        [name, round(one["temperature"], 3), _cell(one["ece_before"]), _cell(one["ece"])]
        for name, one in metrics["calibration"].items()
    ]
    caption = (
        "The temperature is fitted on the validation windows and divides the logits in maps. ECE: mean distance of "
        "confidence and accuracy over 15 bins of the test windows' labelled pixels."
    )
    columns = ["model", "temperature", "ECE as trained", "ECE with the temperature"]
    return {"kind": "table", "columns": columns, "rows": rows, "caption": caption}


def _masks(metrics: dict[str, Any]) -> dict[str, Any]:
    rows = [
        [source, *(_cell(found["train"][name]) for name in ("miou", "overall_accuracy")),
         _cell(found["train"]["oracle"]["miou"]), round(found["train"]["oracle"]["threshold"], 2)]
        for source, found in metrics["sources"].items()
    ]  # fmt: skip
    columns = ["CAM", "mIoU", "OA", "mIoU at best threshold", "that threshold"]
    caption = "Pseudo masks of the training windows. The best threshold is only reported, never used."
    return {"kind": "table", "columns": columns, "rows": rows, "caption": caption}


def _test(metrics: dict[str, Any]) -> dict[str, Any]:
    found = {
        "refined masks (train)": metrics["refined_masks"],
        "segmenter, image labels": metrics["test"]["weak"],
        "trees, same masks": metrics["baselines"]["trees"]["weak"],
        "segmenter, true masks": metrics["test"]["full"],
        "trees, true masks": metrics["baselines"]["trees"]["full"],
    }
    support = metrics["test"]["weak"]["support"]
    rows = [
        [name, f"{pixels:,}", *(_cell(scores["iou"][name]) for scores in found.values())]
        for name, pixels in support.items()
    ]
    caption = "IoU per class; on the test windows but for the masks. Empty = class not there."
    return {"kind": "table", "columns": ["IoU", "true test pixels", *found], "rows": rows, "caption": caption}


def _edges(metrics: dict[str, Any]) -> dict[str, Any]:
    """Class by class: at borders, near them, away from them."""
    columns = {"boundary IoU": "boundary_iou", "within 1 px": "border_1px_iou", "within 2 px": "border_iou",
               "interior": "interior_iou"}  # fmt: skip
    kinds = {"weak": "image labels", "full": "true masks"}
    rows = [
        [name, *(_cell(metrics["edges"][kind][key][name]) for key in columns.values() for kind in kinds)]
        for name in metrics["test"]["weak"]["support"]
    ]
    head = [f"{words}, {whose}" for words in columns for whose in kinds.values()]
    caption = "IoU per class of the segmenters on the test windows, at and near true borders and away from them."
    return {"kind": "table", "columns": ["class", *head], "rows": rows, "caption": caption}


def _pictures(folder: Path, names: tuple[str, ...]) -> list[dict[str, Any]]:
    files = [(folder / "figures" / f"{name}.png", CAPTIONS[name]) for name in names]
    return [{"kind": "picture", "file": str(f), "caption": c, "alt": c} for f, c in files if f.exists()]


def _curve(stage: Stage) -> list[dict[str, Any]]:
    """The learning curve, where src/ablate.py has drawn one of this data set."""
    file = stage.folder_of("ablate") / "learning_curve.png"
    caption = "Score on the test fold against the number of labelled windows, as of the last run of src/ablate.py."
    return [{"kind": "picture", "file": str(file), "caption": caption, "alt": caption}] if file.exists() else []


def _earlier(stage: Stage) -> list[dict[str, Any]]:
    parts = []
    for name, (picture, caption) in EARLIER.items():
        file = stage.folder_of(name) / "figures" / f"{picture}.png"
        if file.exists():
            parts.append({"kind": "picture", "file": str(file), "caption": caption, "alt": caption})
    return parts


def _legend(windows: Windows) -> dict[str, Any]:
    legend = windows.card.legend
    classes = [{"name": crop.name, "colour": crop.colour} for crop in legend.classes]
    if legend.background:
        classes.insert(0, {"name": "background", "colour": legend.background_colour})
    return {"kind": "legend", "classes": classes}


def _cell(score: float | None) -> dict[str, float] | None:
    """A score in a table; empty where there is none (NaN here, null in another stage's metrics.json)."""
    return None if score is None or score != score else {"share": score}


def _share(score: float | None) -> str:
    return "none" if score is None or score != score else f"{100 * score:.1f} %"
