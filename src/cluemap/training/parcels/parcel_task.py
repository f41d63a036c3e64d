"""A parcel network as a training task, on true labels or on voted ones: the same code for both."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluemap.data.parcels.batches import Loading, ParcelBatch
from cluemap.data.parcels.parcels import Parcels
from cluemap.model.method.losses import focal_loss
from cluemap.model.networks.parcels.parcel_network import ParcelNetwork
from cluemap.params import ComputeParams, Params
from cluemap.runtime.distributed import Ranks
from cluemap.runtime.execution import autocast
from cluemap.training.inference import gather_rows, in_order
from cluemap.training.metrics import scores
from cluemap.training.parcels.parcel_scores import counts_of
from cluemap.training.task import NetworkAlone


def new_parcel_network(parcels: Parcels, params: Params, train: NDArray[np.int64]) -> ParcelNetwork:
    """A network as it is before the first step; its weights are a function of the seed, its season that of `train`."""
    torch.manual_seed(params.seed)
    card = parcels.card
    counts = len(card.legend.bands), len(card.geometry), len(card.names)
    return ParcelNetwork(*counts, params.parcels, parcels.middle_day(train))


class ParcelTask(NetworkAlone):
    """See `cluemap.training.task.Task`."""

    def __init__(
        self, network: ParcelNetwork, loading: Loading, validation: NDArray[np.int64], params: Params, ranks: Ranks
    ):
        """`validation`: parcels with a true class, on which weights are chosen; without any the last ones are taken."""
        self.network, self.loading, self.validation = network, loading, validation
        self.params, self.ranks = params, ranks
        self.select = params.parcels.select if params.parcels.select != "last" and len(validation) else None

    def losses(self, forward: Callable[[ParcelBatch], Tensor], batch: ParcelBatch, step: int) -> dict[str, Tensor]:
        """ "total": the focal loss."""
        gamma = self.params.parcels.focal_gamma
        return {"total": focal_loss(forward(batch).float(), batch.target, gamma, self.ranks.total)}

    def validate(self) -> dict[str, float]:
        """OA and mIoU of the validation parcels, each parcel counted once."""
        if not len(self.validation):
            return {}
        found = predict(self.network, self.loading, self.validation, self.params.compute, self.ranks)
        parcels = self.loading.parcels
        truth = parcels.truth()[self.validation].astype(np.int64) - parcels.card.first
        result = scores(counts_of(truth, found.argmax(axis=1), found.shape[1]))
        return {"miou": float(result.miou), "accuracy": float(result.overall_accuracy)}


def predict(
    network: ParcelNetwork, loading: Loading, indexes: NDArray[np.int64], compute: ComputeParams, ranks: Ranks
) -> NDArray[np.float32]:
    """n k: the probability of each class from all pixels of each parcel; the same on every rank."""
    network.eval()
    rows: dict[int, NDArray] = {}
    for batch in loading.scan(indexes, ranks.rank, ranks.world):
        with torch.no_grad(), autocast(compute, ranks.device):
            logits = network(*batch.to(ranks.device).inputs)
        shares = logits.float().softmax(dim=1).cpu().numpy()
        rows.update(zip(batch.index.tolist(), shares, strict=True))
    together = gather_rows(rows, ranks)
    return ranks.agree(in_order(together, indexes) if ranks.first else None)
