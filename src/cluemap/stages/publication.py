"""A trained segmenter as a version in the model registry: exported, described, tagged with its scores."""

from importlib.metadata import version as installed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cluemap.files import read_json
from cluemap.model.storage.exported_model import example, export_segmenter
from cluemap.model.storage.trained_models import SEGMENTER
from cluemap.params import Params
from cluemap.paths import stage_folder
from cluemap.tracking import made_by
from cluemap.tracking.store.model_registry import DIGEST, Packing, Registry, Version


def publish(registry: Registry, name: str, digest: str, run_id: str, params: Params, out: Path, stage: str) -> Version:
    """Make a registered version of what a stage trained; `digest`: DVC's hash of its model folder."""
    folder = stage_folder(params.dataset, stage, out)
    scores = validation_scores(read_json(folder / "metrics.json"))
    with TemporaryDirectory() as temporary:
        network = Path(temporary) / "segmenter.pt2"
        card = export_segmenter(folder / "model" / SEGMENTER, network)
        names = ["background"] * card.legend.background + list(card.legend.class_names)
        first = 0 if card.legend.background else 1
        about = {"classes": dict(enumerate(names, start=first)), "bands": list(card.legend.bands), "window": card.size}
        images, days = (tensor.numpy() for tensor in example(card))
        needs = [f"{library}=={installed(library).split('+')[0]}" for library in ("torch", "numpy", "mlflow")]
        packing = Packing(
            network, folder / "model" / SEGMENTER, images, days, {"dataset": params.dataset, **about}, needs
        )
        tags: dict[str, Any] = {
            DIGEST: digest,
            "windows": card.digest,
            f"run.{stage}": made_by(folder) or "none",
            "stage": stage,
        }
        tags |= {f"validation.{metric}": value for metric, value in scores.items()}
        return registry.publish(name, run_id, packing, tags)


def validation_scores(metrics: dict[str, Any]) -> dict[str, float]:
    """mIoU and accuracy on the validation fold of the model in a stage's folder, out of its metrics.json; NaN without
    a labelled pixel there: such a model wins against none.
    """
    chosen = metrics.get("chosen")
    found = metrics["validation"] if chosen is None else {name: chosen[name] for name in ("miou", "accuracy")}
    return {name: float("nan") if score is None else score for name, score in found.items()}
