"""The work of stage evaluate: test scores of both segmenters, their ratio, and the headline numbers of all stages."""

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
from cluemap.training.inference import in_order, maps, scan
from cluemap.training.metrics import class_names, named, scores
from cluemap.training.segmenter_task import confusion_on

SEGMENTERS = {"weak": "train_segmenter", "full": "train_reference"}
HEADLINE = "headline.json"  # the few numbers that `dvc metrics show` and `dvc exp show` have a column for


def evaluate(stage: Stage, windows: Windows) -> tuple[dict[str, Any], dict[str, NDArray[np.int64]]]:
    """The stage's metrics, and the test confusion (size, size + 1) of the weak and the full segmenter."""
    names = class_names(windows.card.legend)
    confusions = {}
    for kind in SEGMENTERS:
        network = segmenter_of(stage, kind, windows)
        confusions[kind] = confusion_on(network, windows, "test", stage.params, stage.ranks)
    test = {kind: named(scores(counts), names) for kind, counts in confusions.items()}
    full = test["full"]["miou"]
    ratio = test["weak"]["miou"] / full if full else float("nan")
    found = {"test": test, **_upstream(stage)}
    masks, validation = found["pseudo_masks"], found["validation"]
    first = {
        "test_miou": test["weak"]["miou"],
        "test_accuracy": test["weak"]["overall_accuracy"],
        "reference_miou": full,
        "ratio": ratio,
        "mask_miou": masks["miou"],
        "mask_accuracy": masks["overall_accuracy"],
        "mask_oracle_gap": masks["oracle"]["gap"],
        "validation_miou": validation["weak"]["miou"],
    }
    return {**first, **found}, confusions


def headline(metrics: dict[str, Any]) -> dict[str, float]:
    """The numbers that stand for the whole result, out of `evaluate`'s."""
    return {name: value for name, value in metrics.items() if not isinstance(value, dict)}


def segmenter_of(stage: Stage, kind: str, windows: Windows) -> Segmenter:
    """The weak or the full segmenter of this pipeline, on this rank's device."""
    network, _ = load_segmenter(stage.folder_of(SEGMENTERS[kind]) / "model" / SEGMENTER, windows)
    return network.to(stage.ranks.device)


def maps_of(network: Segmenter, windows: Windows, indexes: NDArray, params: Params, ranks: Ranks) -> NDArray[np.uint8]:
    """n h w: the segmenter's maps of some windows, in the order asked for."""
    rows: dict[int, NDArray] = {}
    for batch in scan(windows, indexes, params.compute.inference_batch, ranks):
        found = maps(network, batch, params, windows.card.legend.background)
        rows.update(zip(batch.index.tolist(), found.cpu().numpy().astype(np.uint8), strict=True))
    return in_order(rows, indexes)


def _upstream(stage: Stage) -> dict[str, Any]:
    """Headline numbers of the stages before, so that one row tells the whole pipeline."""
    masks = read_json(stage.folder_of("make_masks") / "metrics.json")
    validation = {
        name: read_json(stage.folder_of(of) / "metrics.json")["validation"]
        for name, of in {"classifier": "train_classifier", **SEGMENTERS}.items()
    }
    return {"pseudo_masks": {"threshold": masks["threshold"], **masks["train"]}, "sources": masks["sources"],
            "validation": validation}  # fmt: skip
