"""The classifier as a training task: eq. 15's losses, clues that move beside the network, scores on validation."""

from collections.abc import Callable

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cluemap.data.batches import Batch
from cluemap.data.windows import Windows
from cluemap.model.method.affinity import refine
from cluemap.model.method.cams import raw_cam
from cluemap.model.method.clues import Clues, Used, clue_loss, learn, random_clues
from cluemap.model.method.losses import classification_loss, tap_loss
from cluemap.model.method.pseudo_masks import best_class, pseudo_mask, upsample
from cluemap.model.networks.classifier import Classified, Classifier
from cluemap.params import Params
from cluemap.runtime.distributed import Ranks
from cluemap.runtime.execution import autocast
from cluemap.training.inference import clue_cams, gather_rows, in_order, refined_cams, scan
from cluemap.training.input_whitening import whiten
from cluemap.training.metrics import Ids, average_precision, confusion, curve, curve_counts, scores

CURVE_POINTS = 60  # thresholds tried when the clue CAM is scored during training
FIXED_THRESHOLD = 0.30  # METHOD section 7's label-free one; not `masks.threshold`, which a later stage depends on


def new_classifier(windows: Windows, params: Params) -> tuple[Classifier, Clues]:
    """A classifier and its clues as they are before the first step; a function of the seed."""
    card = windows.card
    torch.manual_seed(params.seed)
    network = Classifier(len(card.legend.bands), len(card.legend.classes), card.size, params.classifier)
    whiten(network, windows, params.classifier.whitening)
    return network, new_clues(windows, params)


def new_clues(windows: Windows, params: Params) -> Clues:
    """Random clues, a function of the seed."""
    generator = torch.Generator().manual_seed(params.seed)
    return random_clues(len(windows.card.legend.classes), params.clues.count, params.classifier.width, generator)


class ClassifierTask:
    """See `cluemap.training.task.Task`."""

    network: nn.Module

    def __init__(self, network: nn.Module, clues: Clues, windows: Windows, params: Params, ranks: Ranks):
        self.network, self.windows, self.params, self.ranks = network, windows, params, ranks
        self.clues = Clues(*(clue.to(ranks.device) for clue in clues))
        self.select = None if params.classifier.select == "last" else params.classifier.select
        self._used: tuple[Used, Used] | None = None  # of the last step, for the curves
        self._start = self.clues

    def losses(self, forward: Callable[[Batch], Classified], batch: Batch, step: int) -> dict[str, Tensor]:
        """ "total", "classification", "auxiliary", "tap", "clue": this rank's shares."""
        return self.label_losses(forward(batch), batch, step)

    def label_losses(self, out: Classified, batch: Batch, step: int) -> dict[str, Tensor]:
        """The losses of what the network said of a batch with image labels; moves the clues."""
        labels, total, params = batch.image_labels, self.ranks.total, self.params
        raw = raw_cam(out.temporal.float(), out.spatial.float())
        seen = out.watched
        refined = refine(
            raw, seen.sequence, seen.attention, batch.valid, labels,
            params.affinity, params.temporal_weighting, params.affinity.blend,
        )  # fmt: skip
        parts = {
            "classification": classification_loss(out.logits.float(), labels, total, batch.known),
            "auxiliary": auxiliary_loss(out, labels, total, batch.known),
            "tap": tap_loss(raw, refined, labels, total),
            "clue": self._clue_loss(seen.dense, raw, batch) if step >= params.clues.start_step else raw.new_zeros(()),
        }
        whole = (
            parts["classification"]
            + parts["auxiliary"]
            + params.losses.lambda_tap * parts["tap"]
            + params.losses.lambda_clue * parts["clue"]
        )
        return {"total": whole, **parts}

    def _clue_loss(self, dense: Tensor, raw: Tensor, batch: Batch) -> Tensor:
        total, params, labels = self.ranks.total, self.params.clues, batch.image_labels
        dense, flat = dense.float(), rearrange(raw.detach(), "b k i j -> b k (i j)")
        self.clues, positive, negative = learn(dense, flat, labels, self.clues, params, total, known=batch.known)
        self._used = positive, negative
        return clue_loss(
            dense, self.clues, positive, negative, labels, params.tau, params.positive_in_denominator, total
        )

    def points(self) -> dict[str, float]:
        """Clue statistics of the last step: how far positive clues are from negative ones (1 - cosine, per class),
        drift from the start, which share of a class's positions each clue takes, and how evenly they are shared.
        """
        if self._used is None:
            return {}
        names = self.windows.card.legend.class_names
        near = torch.einsum("kmd,kld->kml", *self.clues).mean(dim=(1, 2))  # k
        drift = 1 - (torch.cat(self.clues) * torch.cat(self._start)).sum(dim=-1).mean()
        found = {"clues/positive_to_negative_cosine": near.mean().item(), "clues/drift": drift.item()}
        found |= {f"clue distance/{name}": 1 - value for name, value in zip(names, near.tolist(), strict=True)}
        for sign, used in zip(Clues._fields, self._used, strict=True):
            taken = self.ranks.total(positions_taken(used, self.params.clues.count))
            found[f"clues/{sign}_evenness"] = evenness(taken)
            shares = (taken / taken.sum(dim=1, keepdim=True).clamp_min(1.0)).tolist()
            for name, row in zip(names, shares, strict=True):
                found |= {f"clue usage/{sign} {name} {clue}": share for clue, share in enumerate(row, start=1)}
        return found

    def state(self) -> dict[str, Tensor]:
        return {"clues/positive": self.clues.positive, "clues/negative": self.clues.negative}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.clues = Clues(*(tensors[f"clues/{sign}"].to(self.ranks.device) for sign in ("positive", "negative")))

    @property
    def published(self) -> Classifier:
        """What is scored, and stays after the training."""
        return self.network  # type: ignore[return-value]

    def validate(self) -> dict[str, float]:
        """Scores on validation: average precision of the image labels; mIoU of the clue CAM's masks at their best and
        at the fixed threshold; and, without any mask, how far the clue CAM and the propagated raw CAM agree (mIoU).
        """
        windows, params = self.windows, self.params
        ids = Ids(len(windows.card.legend.classes), windows.card.legend.background)
        indexes, truth = windows.indexes("validation"), windows.masks("validation")
        logits: dict[int, NDArray] = {}
        bins = torch.zeros(CURVE_POINTS + 1, ids.size, ids.crops, dtype=torch.int64)
        agreed = torch.zeros(ids.size, ids.size + 1, dtype=torch.int64)
        for batch in scan(windows, indexes, params.compute.inference_batch, self.ranks):
            with torch.no_grad(), autocast(params.compute, self.ranks.device):
                out = self.published(batch.images, batch.day, batch.valid)
            logits.update(zip(batch.index.tolist(), out.logits.float().cpu().numpy(), strict=True))
            found = clue_cams(self.published, self.clues, batch, out.watched, params)
            score, winner = best_class(upsample(found, windows.card.size), batch.image_labels)
            agreed += torch.from_numpy(self._agreement(score, winner, refined_cams(out, batch, params), batch, ids))
            rows = truth[windows.mask_row[batch.index.cpu().numpy()]]
            counts = curve_counts(score.cpu().numpy(), winner.cpu().numpy(), rows, CURVE_POINTS, ids)
            bins += torch.from_numpy(counts)
        line = curve(self.ranks.total(bins.to(self.ranks.device)).cpu().numpy(), ids)
        agreement = scores(self.ranks.total(agreed.to(self.ranks.device)).cpu().numpy())
        return {
            **self._precision(logits),
            "clue_cam_miou": float(line.miou[line.best]),
            "clue_cam_miou_fixed": float(line.miou[round(FIXED_THRESHOLD * CURVE_POINTS)]),
            "cam_agreement": float(agreement.miou),
            "clue_cam_accuracy": float(line.overall_accuracy[line.best]),
        }

    def _agreement(self, score: Tensor, winner: Tensor, other: Tensor, batch: Batch, ids: Ids) -> NDArray[np.int64]:
        """b h w, b h w, b k i j -> confusion of two CAMs' masks at the fixed threshold; no truth is read."""
        background, size = ids.background, self.windows.card.size
        masks = [
            pseudo_mask(*pair, FIXED_THRESHOLD, background)
            for pair in ((score, winner), best_class(upsample(other, size), batch.image_labels))
        ]
        return confusion(masks[0].cpu().numpy(), masks[1].cpu().numpy(), ids)

    def _precision(self, logits: dict[int, NDArray]) -> dict[str, float]:
        """Average precision per class, macro and micro, the same on every rank, from every rank's logits."""
        windows, indexes = self.windows, self.windows.indexes("validation")
        together = gather_rows(logits, self.ranks)
        found, told = {}, None if windows.known is None else windows.known[indexes]
        if self.ranks.first:
            found = average_precision(in_order(together, indexes), windows.image_labels[indexes], told)
        found = self.ranks.agree(found)
        names = windows.card.legend.class_names
        per_class = {f"average_precision/{name}": value for name, value in zip(names, found["classes"], strict=True)}
        known = {name: value for name, value in per_class.items() if value == value}
        return {"mean_average_precision": found["macro"], "micro_average_precision": found["micro"], **known}


def auxiliary_loss(
    out: Classified, labels: Tensor, total: Callable[[Tensor], Tensor], known: Tensor | None = None
) -> Tensor:
    """Mean of the classification loss on the two auxiliary logits (means of the patch scores over the grid)."""
    parts = [classification_loss(logits, labels, total, known) for logits in auxiliary_logits(out)]
    return sum(parts) / len(parts)  # type: ignore[return-value]


def auxiliary_logits(out: Classified) -> list[Tensor]:
    """b k of each kind of patch scores: their means over the grid."""
    return [scores_.float().mean(dim=(2, 3)) for scores_ in (out.temporal, out.spatial)]


def positions_taken(used: Used, count: int) -> Tensor:
    """-> k m: how many positions each clue was given."""
    return (F.one_hot(used.assigned, count) * used.mask[..., None]).sum(dim=(0, 1)).double()


def evenness(taken: Tensor) -> float:
    """k m positions -> entropy of the clues' shares, 1 = all alike, 0 = one clue takes all; mean over used classes."""
    taken, count = taken[taken.sum(dim=1) > 0], taken.shape[1]
    if count == 1 or not len(taken):
        return 1.0
    shares = taken / taken.sum(dim=1, keepdim=True)
    entropy = torch.special.entr(shares).sum(dim=1)
    return (entropy / torch.log(torch.tensor(float(count)))).mean().item()
