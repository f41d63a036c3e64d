"""The work of stage evaluate: test scores of segmenters and baselines, and every stage's headline numbers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluemap.data.windows import Windows
from cluemap.files import read_json
from cluemap.model.networks.segmenter import Segmenter
from cluemap.model.storage.trained_models import SEGMENTER, load_segmenter
from cluemap.params import Params
from cluemap.runtime.distributed import Ranks
from cluemap.stages.stage import Stage
from cluemap.stages.train_baselines import MASKS, best, learners, open_maps
from cluemap.statistics.model_calibration import Calibration, calibration_on
from cluemap.training.inference import in_order, maps, scan
from cluemap.training.map_scores import map_counts, named_edge_scores, named_map_scores, warnings_of
from cluemap.training.metrics import Ids, class_names
from cluemap.training.segmenter_task import counts_on

KINDS = {"weak": "image labels", "full": "true masks"}
SEGMENTERS = {"weak": "train_segmenter", "full": "train_reference"}
HEADLINE = "headline.json"  # the few numbers that `dvc metrics show` and `dvc exp show` have a column for


def evaluate(stage: Stage, windows: Windows) -> tuple[dict[str, Any], dict[str, NDArray[np.int64]]]:
    """The stage's metrics, and the test confusion (size, size + 1) of the weak and the full segmenter."""
    names = class_names(windows.card.legend)
    counts = {
        kind: counts_on(segmenter_of(stage, kind, windows), windows, "test", stage.params, stage.ranks)
        for kind in SEGMENTERS
    }
    test = {kind: named_map_scores(found, names) for kind, found in counts.items()}
    full = test["full"]["miou"]
    ratio = test["weak"]["miou"] / full if full else float("nan")
    edges = {kind: named_edge_scores(found, names) for kind, found in counts.items()}
    found = {"test": test, "edges": edges, "baselines": _baselines(stage, windows, names), **_upstream(stage)}
    found["won"] = _won(stage, found)
    first = {
        "test_miou": test["weak"]["miou"],
        "reference_miou": full,
        "ratio": ratio,
        **{f"{learner}_miou": scores["weak"]["miou"] for learner, scores in found["baselines"].items()},
        **{f"{learner}_reference_miou": scores["full"]["miou"] for learner, scores in found["baselines"].items()},
        "mask_miou": found["pseudo_masks"]["miou"],
        "refined_mask_miou": found["refined_masks"]["miou"],
        "mask_oracle_gap": found["pseudo_masks"]["oracle"]["gap"],
        "validation_miou": found["validation"]["weak"]["miou"],
        "test_accuracy": test["weak"]["overall_accuracy"],
        "test_boundary_iou": test["weak"]["boundary_iou"],
    }
    warnings = warnings_of(test, ratio, len(windows.indexes("test")))
    return {**first, **found, "warnings": warnings}, {kind: one.confusion for kind, one in counts.items()}


def _baselines(stage: Stage, windows: Windows, names: list[str]) -> dict[str, dict[str, Any]]:
    """Learner -> kind of masks it was taught by ("weak", "full") -> test scores of its maps."""
    ids, truth = Ids(len(windows.card.legend.classes), windows.card.legend.background), windows.masks("test")
    folder = stage.folder_of("train_baselines") / "maps"
    return {
        learner: {
            kind: named_map_scores(map_counts(truth, open_maps(folder, learner, kind, "test", windows), ids), names)
            for kind in MASKS
        }
        for learner in learners(stage.params.baselines)
    }


def _won(stage: Stage, found: dict[str, Any]) -> dict[str, Any]:
    """Of the models taught by image labels the one that is best on the validation fold, its lead over the second best
    there, and what the same two have on the test fold.
    """
    trained = read_json(stage.folder_of("train_baselines") / "metrics.json")["validation"]
    validation = {"segmenter": found["validation"]["weak"]["miou"]}
    validation |= {name: scores["weak"]["miou"] for name, scores in trained.items()}
    validation = {name: float("nan") if score is None else score for name, score in validation.items()}
    model = best(validation)
    second = best({name: score for name, score in validation.items() if name != model})
    test = {"segmenter": found["test"]["weak"], **{name: one["weak"] for name, one in found["baselines"].items()}}
    return {
        "model": model, "second": second, "validation_miou": validation[model],
        "validation_lead": validation[model] - validation[second],
        "test_miou": test[model]["miou"], "test_lead": test[model]["miou"] - test[second]["miou"],
    }  # fmt: skip


def calibrations(stage: Stage, windows: Windows) -> dict[str, Calibration]:
    """How the confidence of the models taught by image labels and of the reference holds on the test fold."""
    files = {f"segmenter, {KINDS[kind]}": stage.folder_of(name) / "model" for kind, name in SEGMENTERS.items()}
    files["trees, image labels"] = stage.folder_of("train_baselines") / "model" / "trees_weak"
    found = {}
    for name, folder in files.items():
        network, card = load_segmenter(folder / SEGMENTER, windows)
        network = network.to(stage.ranks.device)
        found[name] = calibration_on(network, card.temperature, windows, "test", stage.params, stage.ranks)
    return found


def calibration_scores(found: dict[str, Calibration]) -> dict[str, dict[str, float]]:
    """Temperature, and the expected calibration error without it and with it."""
    return {
        name: {"temperature": one.temperature, "ece_before": one.before.expected_error, "ece": one.after.expected_error}
        for name, one in found.items()
    }


def headline(metrics: dict[str, Any]) -> dict[str, float]:
    """The numbers that stand for the whole result, out of `evaluate`'s."""
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


def segmenter_of(stage: Stage, kind: str, windows: Windows) -> Segmenter:
    """The weak or the full segmenter of this pipeline, on this rank's device."""
    network, _ = load_segmenter(stage.folder_of(SEGMENTERS[kind]) / "model" / SEGMENTER, windows)
    return network.to(stage.ranks.device)


def maps_of(network: Segmenter, windows: Windows, indexes: NDArray, params: Params, ranks: Ranks) -> NDArray[np.uint8]:
    """n h w: the segmenter's maps of some windows, in the order asked for."""
    rows: dict[int, NDArray] = {}
    for batch in scan(windows, indexes, params.compute.inference_batch, ranks):
        found = maps(network, batch, params, windows.card.legend.background, windows)
        rows.update(zip(batch.index.tolist(), found.cpu().numpy().astype(np.uint8), strict=True))
    return in_order(rows, indexes)


def _upstream(stage: Stage) -> dict[str, Any]:
    """Headline numbers of the stages before, so that one row tells the whole pipeline."""
    masks = read_json(stage.folder_of("make_masks") / "metrics.json")
    refined = read_json(stage.folder_of("refine_masks") / "metrics.json")
    validation = {
        name: read_json(stage.folder_of(of) / "metrics.json")["validation"]
        for name, of in {"classifier": "train_classifier", **SEGMENTERS}.items()
    }
    return {"pseudo_masks": {"threshold": masks["threshold"], **masks["train"]}, "refined_masks": refined["train"],
            "sources": masks["sources"], "validation": validation}  # fmt: skip
