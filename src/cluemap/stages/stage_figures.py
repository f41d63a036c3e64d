"""Which picture each stage writes: gathers what figures need and puts the files under `<stage>/figures/`."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluemap.data.patches import NODATA
from cluemap.data.windows import Windows
from cluemap.figures.border_errors import border_errors
from cluemap.figures.class_scores import class_scores, confusion_matrix
from cluemap.figures.curves import threshold_curve, training_curves
from cluemap.figures.date_weights import temporal_weights
from cluemap.figures.images import assemble, clearest_date, true_colour
from cluemap.figures.overview import overview
from cluemap.figures.patch_maps import mosaic
from cluemap.figures.reliability_diagram import ReliabilityCurve, reliability_diagram
from cluemap.figures.time_courses import BIN_DAYS, ndvi_course
from cluemap.figures.window_panel import WindowView, window_panel
from cluemap.files import atomic_folder, read_json
from cluemap.stages.evaluate import SEGMENTERS, maps_of, segmenter_of
from cluemap.stages.make_cams import WEIGHTS
from cluemap.stages.make_masks import open_masks, read_cams
from cluemap.stages.stage import Stage
from cluemap.statistics.calibration import Reliability
from cluemap.statistics.model_calibration import Calibration
from cluemap.training.metrics import Curve

TITLES = {"weak": "segmenter from pseudo masks", "full": "segmenter from true masks"}
NOT_DRAWN = ("clue usage/", "clue distance/", "system/cpu", "system/machine", "system/disk", "system/gpu_percent")
NDVI_WINDOWS = 200  # windows of the validation fold whose greenness is drawn beneath the temporal weights


def draw_training(stage: Stage, points: list[dict[str, float]], marks: dict[str, int] | None = None) -> None:
    """The curves of a training, as they went to the run store, without those that are many (one a clue, say)."""
    if stage.ranks.first:
        points = [{name: value for name, value in point.items() if not name.startswith(NOT_DRAWN)} for point in points]
        with atomic_folder(stage.folder / "figures") as folder:
            training_curves(points, folder / "training.png", marks, f"{stage.name}, {stage.params.dataset}")


def day_curves(stage: Stage, windows: Windows) -> list[tuple[int, dict[str, float]]]:
    """The temporal weights as points of curves over the year (make_cams): day of year, and each class's weight."""
    names, relative = windows.card.legend.class_names, day_weights(stage.folder / "cams")
    return [
        (1 + BIN_DAYS // 2 + part * BIN_DAYS, {f"temporal weight/{name}": row[part] for name, row in known})
        for part in range(relative.shape[1])
        if (known := [(name, row) for name, row in zip(names, relative, strict=True) if not np.isnan(row[part])])
    ]


def day_weights(cams: Path) -> NDArray[np.float64]:
    """k y: each class's mean relative weight in each part of the year, from the folder of CAMs; NaN = no date."""
    weights = read_json(cams / WEIGHTS)
    return in_parts(np.array(weights["sum"]), np.array(weights["count"]))


def draw_cams(stage: Stage, windows: Windows) -> None:
    """Which dates matter for which crop (make_cams)."""
    if not stage.ranks.first:
        return
    relative = day_weights(stage.folder / "cams")
    legend = windows.card.legend
    ndvi = ndvi_course(_labelled_series(windows), legend) if "B08" in legend.bands else None
    with atomic_folder(stage.folder / "figures") as folder:
        temporal_weights(relative, legend, folder / "temporal_weights.png", ndvi)


def draw_curves(stage: Stage, curves: dict[str, Curve], threshold: float) -> None:
    """The threshold curve of every CAM source (make_masks)."""
    with atomic_folder(stage.folder / "figures") as folder:
        threshold_curve(curves, dict.fromkeys(curves, threshold), folder / "threshold_curve.png")


def draw_rounds(stage: Stage, course: list[dict[str, float]]) -> None:
    """What each round of the refinement kept, changed and agreed with (refine_masks); no picture without rounds."""
    points = [{"step": number, **{f"share of pixels/{name}": value for name, value in about.items()}}
              for number, about in enumerate(course, start=1)]  # fmt: skip
    with atomic_folder(stage.folder / "figures") as folder:
        if points:
            title = f"Rounds under the image label, {stage.params.dataset}"
            training_curves(points, folder / "rounds.png", title=title)


def draw_baselines(stage: Stage, windows: Windows, validation: dict[str, Any]) -> None:
    """IoU per class of the pixel-wise learners on the validation windows (train_baselines)."""
    kinds = {"weak": "image labels", "full": "true masks"}
    series = {
        f"{learner}, {words}": np.array(list(validation[learner][kind]["iou"].values()), dtype=float)
        for learner in ("trees", "linear")
        for kind, words in kinds.items()
    }
    with atomic_folder(stage.folder / "figures") as folder:
        if not all(np.isnan(values).all() for values in series.values()):  # else no validation pixel is labelled
            title = "IoU per class on the validation windows (%)"
            class_scores(series, windows.card.legend, folder / "class_scores.png", title)


def draw_results(
    stage: Stage, windows: Windows, metrics: dict[str, Any], confusions: dict[str, NDArray[np.int64]]
) -> None:
    """Validation windows, a whole patch, confusions and scores per class (evaluate)."""
    legend = windows.card.legend
    maps = {
        kind: maps_of(
            segmenter_of(stage, kind, windows), windows, windows.indexes("validation"), stage.params, stage.ranks
        )
        for kind in SEGMENTERS
    }
    with atomic_folder(stage.folder / "figures") as folder:
        for kind, counts in confusions.items():
            if counts.any():  # else there is no labelled test pixel
                confusion_matrix(counts, legend, folder / f"confusion_{kind}.png", f"Test windows, {TITLES[kind]}")
        if any(counts.any() for counts in confusions.values()):
            class_scores(
                _per_class(metrics), legend, folder / "class_scores.png", "IoU per class on the test windows (%)"
            )
            edges = {TITLES[kind]: found["error"] for kind, found in metrics["edges"].items()}
            border_errors(edges, metrics["edges"]["full"]["pixels"], folder / "border_errors.png")
        views = window_views(stage, windows, maps["weak"], stage.params.figures.windows)
        if views:
            window_panel(views, legend, folder / "validation_windows.png", metrics["pseudo_masks"]["threshold"])
            overview(views[:3], legend, folder / "overview.png")
        _draw_patch(windows, maps, folder / "patch.png")


def draw_calibration(stage: Stage, found: dict[str, Calibration]) -> None:
    """Reliability on the test windows as trained and with the temperature of the validation fold; beside the results'
    figures. Nothing where no test pixel is labelled.
    """
    if any(one.before.count.sum() for one in found.values()):
        curves = {
            name: {"as trained": _curve(one.before), f"temperature {one.temperature:.2f}": _curve(one.after)}
            for name, one in found.items()
        }
        reliability_diagram(curves, stage.folder / "figures" / "reliability.png")


def _curve(found: Reliability) -> ReliabilityCurve:
    share = found.count / max(int(found.count.sum()), 1)
    return ReliabilityCurve(found.mean_confidence, found.accuracy, share, found.expected_error)


def window_views(stage: Stage, windows: Windows, maps: NDArray[np.uint8], count: int) -> list[WindowView]:
    """Some validation windows with everything that was made of them; `maps` n h w, rows as the validation fold."""
    indexes = windows.indexes("validation")
    truth = windows.masks("validation")
    source = stage.params.cams.source
    cams = read_cams(stage.folder_of("make_cams") / "cams", source, "validation", windows)
    pseudo, refined = (
        open_masks(stage.folder_of(name) / "masks", "validation", windows) for name in ("make_masks", "refine_masks")
    )
    rounds = stage.params.refine.learner != "none"
    views = []
    for row in worth_a_look(windows.image_labels[indexes], count):
        images, days, valid = windows.series(indexes[row])
        views.append(
            WindowView(
                name=windows.table["name"].iloc[indexes[row]],
                images=images,
                days=days,
                present=tuple(int(k) + 1 for k in np.flatnonzero(windows.image_labels[indexes[row]])),
                valid=valid,
                truth=truth[row],
                cams=cams[row].astype(np.float32),
                pseudo_mask=pseudo[row],
                refined_mask=refined[row] if rounds else None,
                crop_map=maps[row],
            )
        )
    return views


def worth_a_look(labels: NDArray[np.bool_], count: int) -> list[int]:
    """n k -> rows of up to `count` windows with 2 to 4 classes, evenly spread; any windows where there are too few."""
    classes = labels.sum(axis=1)
    good = np.flatnonzero((classes >= 2) & (classes <= 4))
    if len(good) < count:
        good = np.flatnonzero(classes > 0)
    if not len(good):
        return []
    places = np.unique(np.linspace(0, len(good) - 1, min(count, len(good))).round().astype(int))
    return [int(good[place]) for place in places]


def in_parts(total: NDArray, count: NDArray, days: int = BIN_DAYS) -> NDArray[np.float64]:
    """k 367 sums and counts per day of year -> k y means per part of `days` days; NaN where no date lies."""
    parts = -(-366 // days)
    part = (np.arange(1, 367) - 1) // days
    sums, counts = np.zeros((len(total), parts)), np.zeros((len(total), parts))
    for day, where in enumerate(part, start=1):
        sums[:, where] += total[:, day]
        counts[:, where] += count[:, day]
    with np.errstate(invalid="ignore"):
        return sums / counts


def _per_class(metrics: dict[str, Any]) -> dict[str, NDArray[np.float64]]:
    trees = metrics["baselines"]["trees"]
    rows = {
        "segmenter, image labels": metrics["test"]["weak"],
        "trees, same masks": trees["weak"],
        "segmenter, true masks": metrics["test"]["full"],
        "trees, true masks": trees["full"],
    }
    return {name: np.array(list(found["iou"].values()), dtype=float) for name, found in rows.items()}


def _labelled_series(windows: Windows):
    truth = windows.masks("validation")
    for row, index in enumerate(windows.indexes("validation")[:NDVI_WINDOWS]):
        images, days, _ = windows.series(index)
        yield images, days, truth[row]


def _draw_patch(windows: Windows, maps: dict[str, NDArray[np.uint8]], path: Path) -> None:
    """All validation windows of the patch that has most of them: true colour, truth and both maps."""
    indexes = windows.indexes("validation")
    table = windows.table.iloc[indexes]
    patch = table["patch"].value_counts(sort=True).index[0]
    rows = np.flatnonzero((table["patch"] == patch).to_numpy())
    places = table["row"].to_numpy()[rows], table["column"].to_numpy()[rows]
    legend, truth = windows.card.legend, windows.masks("validation")
    named = {"truth": truth[rows], **{f"{kind} map": found[rows] for kind, found in maps.items()}}
    whole = {name: assemble(np.asarray(tiles), *places) for name, tiles in named.items()}
    mosaic(whole, legend, path, _patch_picture(windows, indexes[rows], places), windows.card.size)


def _patch_picture(windows: Windows, indexes: NDArray, places: tuple[NDArray, NDArray]) -> NDArray | None:
    """True colour of a patch on the clearest date of its first window; None where windows' dates differ."""
    series = [windows.series(index) for index in indexes]
    days = series[0][1]
    if any(len(other) != len(days) or (other != days).any() for _, other, _ in series):
        return None
    date = clearest_date(series[0][0], windows.card.legend, series[0][2])
    bands = np.stack([images[date] for images, _, _ in series])  # n c h w
    whole = np.stack([assemble(bands[:, band], *places, empty=NODATA) for band in range(bands.shape[1])])
    return true_colour(whole, windows.card.legend)
