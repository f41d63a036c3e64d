"""Whether a GPU computes what the CPU does: every network with its gradients, the clue maths, the batches.

Errors are relative to the CPU in float32: |found - CPU| / |CPU| (2-norms over the whole array). Without a GPU the other
side is the same code path on the CPU: blocks and attention over dates as they run outside the CPU's tiles.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from work import CLASSIFIER, Size, batch, params, ranks, task_of

from cluemap.data.batches import Batch
from cluemap.model.cpu import tiled_block, tiled_date_attention
from cluemap.model.method import affinity, cams, clues, losses, pseudo_masks
from cluemap.runtime.execution import autocast

SIZE = Size(11, 5, 3)  # dates, classes, windows: small, since the CPU computes them too
LIMIT = 1e-4  # of the relative error in float32
ALIKE = 0.999  # share of equal answers where they are whole numbers
LONG = 70_000  # sequences in one call of attention: more than some kernels' grids hold (65,535)
Arrays = dict[str, Tensor]


@contextmanager
def as_on_gpu(device: str) -> Iterator[None]:
    """On the CPU: what would run on a GPU. There: nothing changes."""
    with ExitStack() as stack:
        if device == "cpu":
            for module in (tiled_block, tiled_date_attention):
                stack.enter_context(patch.object(module, "usable", lambda *_: False))
        yield


def network(name: str, size: str, precision: str, device: str) -> dict[str, Any]:
    """Outputs of the forward pass and the gradient of a training step, with padding and a class that is absent."""
    told = params(size, precision)
    told = told.model_copy(update={"augmentation": told.augmentation.model_copy(update={"flips": False})})
    exact = params(size, "fp32").compute
    expected = step_of(name, told.model_copy(update={"compute": exact}), "cpu")
    with as_on_gpu(device):
        found = step_of(name, told, device)
    return compared(found, expected, LIMIT if precision == "fp32" else None)


def step_of(name: str, told: Any, device: str) -> Arrays:
    here = ranks(device)
    task, made = task_of(name, SIZE, told, here), padded(batch(SIZE, torch.device("cpu"))).to(here.device)
    task.network.train()
    given: list[Any] = []

    def forward(given_batch: Batch) -> Any:
        with autocast(told.compute, here.device):
            given.append(task.network(given_batch.images, given_batch.day, given_batch.valid))
        return given[-1]

    parts = task.losses(forward, made, told.clues.start_step)
    parts["total"].backward()
    gradient = torch.cat([weight.grad.flatten() for weight in task.network.parameters() if weight.grad is not None])
    out = given[0]
    outputs = {"logits": out}
    if name == CLASSIFIER:
        seen = {"dense": out.watched.dense, "attention": out.watched.attention}
        outputs = {"logits": out.logits, "temporal": out.temporal, "spatial": out.spatial, **seen, **task.state()}
    return {**outputs, **{f"loss {part}": value for part, value in parts.items()}, "gradient": gradient}


def padded(made: Batch) -> Batch:
    """The last window has two dates fewer; no window holds the last class."""
    valid, day, labels = made.valid.clone(), made.day.clone(), made.image_labels.clone()
    valid[-1, -2:], day[-1, -2:], labels[:, -1] = False, 0, False
    return replace(made, valid=valid, day=day, image_labels=labels)


def clue_maths(size: str, device: str) -> dict[str, Any]:
    """Every function of the method on random numbers."""
    told = params(size, "fp32")
    expected = method(told, torch.device("cpu"))
    return compared(method(told, torch.device(device)), expected, LIMIT)


def method(told: Any, device: torch.device) -> Arrays:
    made = padded(batch(SIZE, torch.device("cpu"))).to(device)
    truth = torch.zeros(0) if made.mask is None else made.mask
    draws = torch.Generator().manual_seed(1)
    b, k, t, side, d = SIZE.batch, SIZE.classes, SIZE.dates, 12, told.classifier.width
    drawn: Callable[..., Tensor] = lambda *shape: torch.randn(*shape, generator=draws).to(device)
    dense, sequence, raw = drawn(b, side**2, k, d), drawn(b, side**2, t, d), drawn(b, k, side, side).relu()
    attention, labels, told_clues = drawn(b, k, t).sigmoid(), made.image_labels, told.clues
    start = clues.Clues(*(x.to(device) for x in clues.random_clues(k, told_clues.count, d, draws)))
    flat = raw.flatten(2)
    moved, positive, negative = clues.learn(dense, flat, labels, start, told_clues)
    plan = clues.transport(drawn(k, 7 * side, told_clues.count), drawn(k, 7 * side) > 0, told_clues.eta, 3)
    listened = affinity.affinity(drawn(b, d, side, side), told.affinity.dilation, told.affinity.temperature)
    refined = affinity.refine(
        raw, sequence, attention, made.valid, labels, told.affinity, told.temporal_weighting, told.affinity.blend
    )  # fmt: skip
    cam = cams.min_max(cams.clue_cam(dense, moved, labels, side))
    score, winner = pseudo_masks.best_class(pseudo_masks.upsample(cam, 24), labels)
    logits = drawn(b, k + 1, 24, 24)
    return {
        "clues": torch.cat(moved), "assigned": torch.stack([positive.assigned, negative.assigned]),
        "used": torch.stack([positive.mask, negative.mask]), "transport": plan, "affinity": listened,
        "propagated": affinity.propagate(raw[:, 0], listened, told.affinity.dilation, 3), "refined": refined,
        "clue loss": clues.clue_loss(dense, moved, positive, negative, labels, told_clues.tau, True),
        "clue CAM": cam, "score": score.clamp_min(-1), "mask": pseudo_masks.pseudo_mask(score, winner, 0.3, True),
        "classification loss": losses.classification_loss(raw.mean((2, 3)), labels),
        "tap loss": losses.tap_loss(raw, refined, labels), "pixel loss": losses.pixel_loss(logits, truth),
    }  # fmt: skip


def batches(folder: Any, device: str) -> dict[str, Any]:
    """Batches of prepared windows: streamed, and of windows that lie on the device, against those of the CPU."""
    from cluemap.data.batches import stream
    from cluemap.data.windows import Windows
    from cluemap.training.device_windows import DeviceWindows

    windows = Windows.open(folder)
    order = windows.indexes("train")[:8].reshape(2, -1)
    ways = {
        "streamed": stream(windows, order, device),
        "resident": DeviceWindows(windows, windows.indexes("train"), device).stream(order),
    }
    expected = list(stream(windows, order, "cpu"))
    found: dict[str, Any] = {"errors": {}, "within": True}
    for way, made in ways.items():
        for number, pair in enumerate(zip(made, expected, strict=True)):
            names = [field.name for field in fields(Batch) if getattr(pair[1], field.name) is not None]
            mine, theirs = ({f"{way} {number} {name}": getattr(one, name) for name in names} for one in pair)
            one = compared(mine, theirs, LIMIT)
            found = {"errors": {**found["errors"], **one["errors"]}, "within": found["within"] and one["within"]}
    return found


def many_sequences(device: str, count: int = LONG) -> dict[str, Any]:
    """One block on more short sequences than a kernel's grid may have rows, half of them padded."""
    from cluemap.model.networks.transformer import Block

    torch.manual_seed(0)
    block, x = Block(16, 2, 8, 2, 0.0, "plain"), torch.randn(count, 5, 16)
    seen = torch.ones(count, 5, dtype=torch.bool)
    seen[::2, -1] = False
    outputs = []
    for place in ("cpu", device):
        inside = block.to(place)
        with torch.no_grad():
            out, attention = inside.watched(x.to(place), seen.to(place), 2)
        outputs.append({"tokens": out, "attention": attention})
    return compared(outputs[1], outputs[0], LIMIT)


def compared(found: Arrays, expected: Arrays, limit: float | None) -> dict[str, Any]:
    """Errors by name (whole numbers: share that differs), and whether all are within the limit (None: no limit)."""
    errors = {name: error(found[name], expected[name]) for name in expected}
    fine = [
        value <= (limit if expected[name].is_floating_point() else 1 - ALIKE)
        for name, value in errors.items()
        if limit is not None
    ]
    return {"errors": errors, "largest": max(errors.values()), "within": all(fine) if limit is not None else None}


def error(found: Tensor, expected: Tensor) -> float:
    """Relative error in the 2-norm; infinite where something is not finite or has another shape."""
    one, other = found.detach().cpu(), expected.detach().cpu()
    if one.shape != other.shape:
        return float("inf")
    if not other.is_floating_point():
        return (one != other).double().mean().item()
    away = torch.linalg.vector_norm(one.double() - other.double()) / torch.linalg.vector_norm(other.double()).clamp_min(
        1e-30
    )
    return away.item() if torch.isfinite(away) else float("inf")
