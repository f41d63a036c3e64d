"""Trained parcel networks as files: everything that is needed to use one stands in the file itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluemap.data.parcels.batches import Scaling
from cluemap.data.parcels.parcels import Parcels
from cluemap.data.patches import Legend
from cluemap.data.series_features import YEAR
from cluemap.errors import CheckpointError
from cluemap.model.networks.parcels.parcel_network import ParcelNetwork
from cluemap.model.storage import checkpoints
from cluemap.model.storage.trained_models import Training, training_of
from cluemap.params import ParcelParams

FILE, KIND = "parcels.safetensors", "parcel network"
SCALES = ("mean", "std", "geometry_mean", "geometry_std")


@dataclass(frozen=True)
class ParcelModel:
    """A network, ready for inference, and how its inputs are made."""

    network: ParcelNetwork
    scaling: Scaling
    dataset: str
    digest: str  # of the prepared parcels
    legend: Legend
    geometry: tuple[str, ...]
    background: bool
    params: ParcelParams
    training: Training | None = None  # None: a model of before these were noted
    temperature: float = 1.0  # that logits are divided by before a softmax says how sure the model is

    @property
    def mean(self) -> NDArray[np.float32]:
        return self.scaling.mean

    @property
    def std(self) -> NDArray[np.float32]:
        return self.scaling.std


def about_parcels(
    parcels: Parcels, scaling: Scaling, params: ParcelParams, train: NDArray[np.int64], temperature: float = 1.0
) -> dict[str, Any]:
    """The description that goes into a model's file; no times or run ids: same training, same bits."""
    card, lengths = parcels.card, parcels.dates[train]
    days = {(int(day) - 1) % YEAR + 1 for index in train.tolist() for day in parcels.series(index)[1]}
    return {
        "kind": KIND,
        "dataset": card.dataset,
        "digest": card.digest,
        "legend": card.legend.to_json(),
        "geometry": list(card.geometry),
        "background": card.background,
        "scaling": {name: getattr(scaling, name).tolist() for name in SCALES},
        "network": params.model_dump(mode="json"),
        "middle_day": parcels.middle_day(train),
        "training": {"days": sorted(days), "dates": [int(f(lengths)) for f in (np.min, np.median, np.max)]},
        "temperature": temperature,
    }


def load_parcel_model(file: Path) -> ParcelModel:
    """Raises CheckpointError: missing, damaged, or no parcel network."""
    found = checkpoints.load(file)
    content = found.about
    if content.get("kind") != KIND:
        raise CheckpointError(f"{file} holds a {content.get('kind')}, not a {KIND}: give the other model's file")
    params, legend = ParcelParams.model_validate(content["network"]), Legend.from_json(content["legend"])
    classes = len(legend.classes) + content["background"]
    counts = len(legend.bands), len(content["geometry"]), classes
    network = ParcelNetwork(*counts, params, content.get("middle_day"))  # none: a model of before it was noted
    try:
        network.load_state_dict(checkpoints.split(found.tensors, "network/"))
    except RuntimeError as error:
        raise CheckpointError(f"{file} does not fit its own description: {error}") from None
    network.eval().requires_grad_(False)
    scaling = Scaling(*(np.array(content["scaling"][name], np.float32) for name in SCALES))
    return ParcelModel(
        network, scaling, content["dataset"], content["digest"], legend, tuple(content["geometry"]),
        content["background"], params, training_of(content.get("training")), content.get("temperature", 1.0),
    )  # fmt: skip
