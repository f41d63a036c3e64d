"""A trained network as a version in the model registry: exported, described, tagged with its scores."""

from importlib.metadata import version as installed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cluemap.files import read_json
from cluemap.model.storage import exported_parcels
from cluemap.model.storage.exported_model import example, export_segmenter
from cluemap.model.storage.exported_parcels import export_parcels
from cluemap.model.storage.parcel_models import FILE
from cluemap.model.storage.trained_models import SEGMENTER
from cluemap.params import Params
from cluemap.paths import stage_folder
from cluemap.tracking import made_by
from cluemap.tracking.store.model_registry import DIGEST, Packing, Registry, Version

PARCELS = "train_parcels"


def publish(registry: Registry, name: str, digest: str, run_id: str, params: Params, out: Path, stage: str) -> Version:
    """Make a registered version of what a stage trained; `digest`: DVC's hash of its model folder."""
    folder = stage_folder(params.dataset, stage, out)
    metrics = read_json(folder / "metrics.json")
    with TemporaryDirectory() as temporary:
        place = Path(temporary)
        packing, data = _parcels(folder, place, params) if stage == PARCELS else _segmenter(folder, place, params)
        tags: dict[str, Any] = {DIGEST: digest, "windows": data, f"run.{stage}": made_by(folder) or "none"}
        scores = metrics["validation"][params.parcels.kind] if stage == PARCELS else validation_scores(metrics)
        tags |= {"stage": stage}
        tags |= {f"validation.{metric}": scores[metric] for metric in ("miou", "accuracy") if metric in scores}
        return registry.publish(name, run_id, packing, tags)


def _segmenter(folder: Path, place: Path, params: Params) -> tuple[Packing, str]:
    """A segmenter, and the digest of the windows that it was scored on."""
    card = export_segmenter(folder / "model" / SEGMENTER, place / "segmenter.pt2")
    names = ["background"] * card.legend.background + list(card.legend.class_names)
    first = 0 if card.legend.background else 1
    about = {"classes": dict(enumerate(names, start=first)), "bands": list(card.legend.bands), "window": card.size}
    images, days = (tensor.numpy() for tensor in example(card))
    packing = Packing(
        kind="segmenter", network=place / "segmenter.pt2", checkpoint=folder / "model" / SEGMENTER,
        inputs={"images": (images, 2), "days": (days, 2)}, output=("uint8", (-1, card.size, card.size)),
        metadata={"dataset": params.dataset, **about}, requirements=_needs(),
    )  # fmt: skip
    return packing, card.digest


def _parcels(folder: Path, place: Path, params: Params) -> tuple[Packing, str]:
    """A parcel network, and the parcels and fold that it was scored on."""
    model = export_parcels(folder / "model" / FILE, place / "parcels.pt2")
    names = ["background"] * model.background + list(model.legend.class_names)
    classes = dict(enumerate(names, start=1 - model.background))
    about = {"classes": classes, "bands": list(model.legend.bands), "geometry": list(model.geometry)}
    free = {"pixels": 3, "days": 2, "geometry": 1}
    given = {name: (tensor.numpy(), free[name]) for name, tensor in exported_parcels.example(model).items()}
    packing = Packing(
        kind="parcels", network=place / "parcels.pt2", checkpoint=folder / "model" / FILE, inputs=given,
        output=("float32", (-1, len(names))), metadata={"dataset": params.dataset, **about}, requirements=_needs(),
    )  # fmt: skip
    return packing, f"parcels {model.digest}, fold {params.windows.fold}"


def _needs() -> list[str]:
    return [f"{library}=={installed(library).split('+')[0]}" for library in ("torch", "numpy", "mlflow")]


def validation_scores(metrics: dict[str, Any]) -> dict[str, float]:
    """mIoU and accuracy on the validation fold of the model in a stage's folder, out of its metrics.json; NaN without
    a labelled pixel there: such a model wins against none.
    """
    chosen = metrics.get("chosen")
    found = metrics["validation"] if chosen is None else {name: chosen[name] for name in ("miou", "accuracy")}
    return {name: float("nan") if score is None else score for name, score in found.items()}
