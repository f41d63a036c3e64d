"""Blocks, temporal encoder, classifier and segmenter against slow oracles, then their laws (METHOD 2 and 8)."""

import numpy as np
import oracles
import pytest
import torch
from torch import nn

from cluemap.model.networks.classifier import Classifier
from cluemap.model.networks.temporal_encoder import TemporalEncoder
from cluemap.model.networks.transformer import Transformer
from cluemap.model.networks.tsvit import TsvitSegmenter
from cluemap.params import ClassifierParams, SegmenterParams

B, K, T, C, D, GRID, SIDE = 2, 3, 5, 7, 11, 3, 2  # window, class, date, band, width, grid positions a side, patch
HEADS, HEAD_WIDTH, PIXELS = 2, 13, GRID * SIDE
COURSE = {
    "batch": 1, "steps": 1, "learning_rate": 1e-3, "final_learning_rate": 1e-6, "warmup": 0.1, "weight_decay": 0.0,
    "validate_every": 1, "select": "last", "token_spread": 1.0, "weight_averaging": 0.0, "whitening": 0.0,
}  # fmt: skip
SMALL = {
    "patch": SIDE, "width": D, "temporal_depth": 2, "spatial_depth": 2, "heads": HEADS, "head_width": HEAD_WIDTH,
    "feed_forward": 3, "dropout": 0.0, "residual": "plain", "mask_padding": True,
}  # fmt: skip
RESIDUALS = pytest.mark.parametrize("residual", ["plain", "normed", "both"])
VALID = np.array([[True, True, False, True, False], [True, True, True, False, True]])


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def agree(ours: torch.Tensor, oracle: np.ndarray, tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), oracle, rtol=tolerance, atol=tolerance / 10)


def params(**changed) -> ClassifierParams:
    return ClassifierParams.model_validate({**SMALL, **COURSE, **changed})


def seg_params(**changed) -> SegmenterParams:
    return SegmenterParams.model_validate({**SMALL, **COURSE, "kind": "tsvit", "pixel_layout": "spatial", **changed})


def shaken(network: nn.Module, seed: int = 0) -> nn.Module:
    """In double precision, with no weight left at a value (0 or 1) that hides a mistake."""
    torch.manual_seed(seed)
    network = network.double().eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.3 * torch.randn_like(weight)
    return network


def inputs(seed: int = 0, dates: int = T) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    images, day = random.normal(size=(B, dates, C, PIXELS, PIXELS)), random.integers(1, 367, (B, dates))
    day[0, 0], day[1, 0] = 1, 366
    return [images, day, VALID if dates == T else np.ones((B, dates), bool)]


# -------------------------------------------------------------------------------- weights under the oracles' names
def arrays(network: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in network.state_dict().items()}


def pair(state: dict[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    return state[f"{name}.weight"], state[f"{name}.bias"]


def encoder_weights(state: dict[str, np.ndarray], name: str) -> dict:
    depth = 1 + max(int(key.split(".blocks.")[1].split(".")[0]) for key in state if key.startswith(f"{name}.blocks."))
    layers = []
    for i in range(depth):
        own = f"{name}.blocks.{i}"
        layers.append({
            "first_norm": pair(state, f"{own}.attention_norm"),
            "qkv": state[f"{own}.attention.to_query_key_value.weight"],
            "out": pair(state, f"{own}.attention.to_out"),
            "second_norm": pair(state, f"{own}.feed_forward.0"),
            "wide": pair(state, f"{own}.feed_forward.1"),
            "narrow": pair(state, f"{own}.feed_forward.4"),
        })  # fmt: skip
    return {"blocks": layers, "norm": pair(state, f"{name}.norm")}


def temporal_weights(state: dict[str, np.ndarray], name: str = "temporal.") -> dict:
    return {
        "patch": pair(state, f"{name}embed"),
        "day_table": state[f"{name}dates.weight"],
        "day_bias": state[f"{name}date_bias"],
        "class_tokens": state[f"{name}class_tokens"],
        "encoder": encoder_weights(state, f"{name}transformer"),
    }


def classifier_weights(network: nn.Module) -> dict:
    state = arrays(network)
    return {
        **temporal_weights(state),
        "global_token": state["global_token"],
        "positions": state["positions"],
        "spatial": encoder_weights(state, "spatial"),
        "class_norm": pair(state, "class_head.0"),
        "class_linear": pair(state, "class_head.1"),
        "patch_head": pair(state, "patch_head"),
    }


def segmenter_weights(network: nn.Module) -> dict:
    state = arrays(network)
    return {
        **temporal_weights(state),
        "positions": state["positions"],
        "spatial": encoder_weights(state, "spatial"),
        "head_norm": pair(state, "head.0"),
        "head_linear": pair(state, "head.1"),
    }


# ------------------------------------------------------------------------------------------------------- transformer
@RESIDUALS
@pytest.mark.parametrize("masked", [True, False])
def test_transformer(residual, masked):
    network = shaken(Transformer(2, D, HEADS, HEAD_WIDTH, 3, 0.0, residual))
    x = np.random.default_rng(1).normal(size=(B, K + T, D))
    seen = np.concatenate([np.ones((B, K), bool), VALID if masked else np.ones((B, T), bool)], axis=1)
    weights = encoder_weights({f"x.{name}": value for name, value in arrays(network).items()}, "x")
    slow, maps = zip(*(oracles.encoder(x[b], weights, HEADS, residual, seen[b]) for b in range(B)), strict=True)
    agree(network(tensor(x), tensor(seen) if masked else None), np.array(slow))
    watched, attention = network.watched(tensor(x), tensor(seen) if masked else None, K)
    agree(watched, np.array(slow))
    agree(attention, np.array(maps)[:, :K, K:], 1e-5)  # formed in single precision


def test_residuals_differ():
    outs, x = [], np.random.default_rng(0).normal(size=(1, K, D))
    for residual in ("plain", "normed", "both"):
        outs.append(shaken(Transformer(1, D, HEADS, HEAD_WIDTH, 3, 0.0, residual))(tensor(x)))
    assert not torch.allclose(outs[0], outs[1])
    assert not torch.allclose(outs[0], outs[2])
    assert not torch.allclose(outs[1], outs[2])


# -------------------------------------------------------------------------------------------------- temporal encoder
@RESIDUALS
@pytest.mark.parametrize("mask_padding", [True, False])
def test_temporal_encoder(residual, mask_padding):
    network = shaken(TemporalEncoder(C, K, params(residual=residual, mask_padding=mask_padding)))
    arrays_in = inputs()
    ours = network.watched(*map(tensor, arrays_in))
    weights = temporal_weights(arrays(network), "")
    for b in range(B):
        slow = oracles.temporal_encoder(*(x[b] for x in arrays_in), weights, SIDE, HEADS, residual, mask_padding)
        agree(ours.dense[b], slow[0])
        agree(ours.sequence[b], slow[1])
        agree(ours.attention[b], slow[2], 1e-5)
    agree(network(*map(tensor, arrays_in)), ours.dense.detach().numpy())


def padded(images, day, valid, more: int = 3):
    """The same series with dates behind it that are not there, whatever they hold."""
    random = np.random.default_rng(8)
    return [
        np.concatenate([images, 9 * random.normal(size=(B, more, *images.shape[2:]))], axis=1),
        np.concatenate([day, np.zeros((B, more), int)], axis=1),
        np.concatenate([valid, np.zeros((B, more), bool)], axis=1),
    ]


def test_padding_changes_nothing():
    network = shaken(Classifier(C, K, PIXELS, params()))
    short, long = network(*map(tensor, inputs())), network(*map(tensor, padded(*inputs())))
    for name in ("logits", "temporal", "spatial"):
        agree(getattr(long, name), getattr(short, name).detach().numpy())
    agree(long.watched.dense, short.watched.dense.detach().numpy())
    agree(long.watched.attention[..., :T], short.watched.attention.numpy(), 1e-5)
    assert not long.watched.attention[..., T:].any()
    segmenter = shaken(TsvitSegmenter(C, K, PIXELS, seg_params()))
    agree(segmenter(*map(tensor, padded(*inputs()))), segmenter(*map(tensor, inputs())).detach().numpy())


def test_without_masking_padding_does_change_the_answer():
    network = shaken(Classifier(C, K, PIXELS, params(mask_padding=False)))
    short, long = network(*map(tensor, inputs())), network(*map(tensor, padded(*inputs())))
    assert not torch.allclose(short.logits, long.logits, rtol=1e-3)


def test_order_of_dates_does_not_matter_but_their_days_do():
    network = shaken(TemporalEncoder(C, K, params()))
    images, day, valid = inputs()
    t = [3, 0, 4, 1, 2]
    ours = network(*map(tensor, (images, day, valid)))
    shuffled = network(*map(tensor, (images[:, t], day[:, t], valid[:, t])))
    agree(shuffled, ours.detach().numpy())
    later = network(*map(tensor, (images, day % 366 + 1, valid)))
    assert not torch.allclose(later, ours, rtol=1e-3)


def test_attention_is_a_share_and_takes_no_gradient():
    network = shaken(TemporalEncoder(C, K, params()))
    ours = network.watched(*map(tensor, inputs()))
    assert not ours.attention.requires_grad
    assert (ours.attention >= 0).all()
    assert (ours.attention.sum(dim=2) < 1).all()  # the class tokens have a share too
    assert not ours.attention[tensor(~VALID)[:, None].expand(-1, K, -1)].any()


# ------------------------------------------------------------------------------------------- classifier and segmenter
@RESIDUALS
def test_classifier(residual):
    network = shaken(Classifier(C, K, PIXELS, params(residual=residual)))
    arrays_in = inputs()
    ours, weights = network(*map(tensor, arrays_in)), classifier_weights(network)
    for b in range(B):
        slow = oracles.classifier(*(x[b] for x in arrays_in), weights, SIDE, HEADS, residual)
        for name in ("logits", "temporal", "spatial"):
            agree(getattr(ours, name)[b], slow[name])
        agree(ours.watched.dense[b], slow["dense"])
        agree(ours.watched.sequence[b], slow["sequence"])


@RESIDUALS
@pytest.mark.parametrize("pixel_layout", ["spatial", "flat"])
def test_segmenter(residual, pixel_layout):
    network = shaken(TsvitSegmenter(C, K + 1, PIXELS, seg_params(residual=residual, pixel_layout=pixel_layout)))
    arrays_in = inputs()
    ours, weights = network(*map(tensor, arrays_in)), segmenter_weights(network)
    assert ours.shape == (B, K + 1, PIXELS, PIXELS)
    for b in range(B):
        agree(ours[b], oracles.segmenter(*(x[b] for x in arrays_in), weights, SIDE, HEADS, residual, pixel_layout))


def test_what_all_classes_share_has_no_gradient_in_half_precision():
    """Adam turns any rest of it into steps of full size: the demo's segmenter lost 3 points of mIoU by it."""
    network = shaken(TsvitSegmenter(C, K + 1, PIXELS, seg_params())).float()
    images, day, valid = map(tensor, inputs())
    truth = torch.randint(0, K + 1, (B, PIXELS, PIXELS), generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images.float(), day, valid)
    assert logits.dtype == torch.float32
    nn.functional.cross_entropy(logits, truth).backward()
    weight, bias = network.head[1].weight.grad, network.head[1].bias.grad
    assert weight.norm() > 0.01
    assert bias.norm() < 1e-6
    assert network.head[0].bias.grad.norm() < 1e-6


def test_order_of_class_tokens_only_renames():
    network, k = shaken(Classifier(C, K, PIXELS, params())), [2, 0, 1]
    before = network(*map(tensor, inputs()))
    with torch.no_grad():
        network.temporal.class_tokens.copy_(network.temporal.class_tokens[k].clone())
    after = network(*map(tensor, inputs()))
    for name in ("logits", "temporal", "spatial"):
        agree(getattr(after, name), getattr(before, name)[:, k].detach().numpy())
    agree(after.watched.attention, before.watched.attention[:, k].numpy(), 1e-5)


def test_a_window_does_not_know_its_neighbours_in_the_batch():
    network, arrays_in = shaken(Classifier(C, K, PIXELS, params())), inputs()
    together, alone = network(*map(tensor, arrays_in)), network(*(tensor(x[1:]) for x in arrays_in))
    agree(together.logits[1:], alone.logits.detach().numpy())


def test_every_weight_learns():
    for network, out in (
        (Classifier(C, K, PIXELS, params()), lambda made: made.logits.sum() + made.temporal.mul(made.spatial).sum()),
        (TsvitSegmenter(C, K, PIXELS, seg_params()), lambda logits: logits.softmax(dim=1)[:, 0].sum()),
    ):
        network = shaken(network)
        out(network(*map(tensor, inputs()))).backward()
        lost = [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
        assert lost == []


def test_paper_sizes():
    """METHOD's counts hold date tables of 365 and 366 rows (ours: 367), and the classifier's its 2 x 18 x 2 clues."""
    paper = {
        **SMALL, "width": 128, "temporal_depth": 8, "spatial_depth": 4, "heads": 4, "head_width": 64, "feed_forward": 4,
    }  # fmt: skip
    classifier = Classifier(10, 18, 24, ClassifierParams.model_validate({**paper, **COURSE}))
    segmenter = TsvitSegmenter(10, 19, 24, seg_params(**{**paper, "temporal_depth": 4, "head_width": 32}))
    count = [sum(weight.numel() for weight in network.parameters()) for network in (classifier, segmenter)]
    assert count[0] - 2 * 128 + 2 * 18 * 2 * 128 == 3_245_314
    assert count[1] - 1 * 128 == 1_657_476


def test_whitening_folds_into_the_first_layer():
    """The same answer as a network without it gives on images whose bands were multiplied beforehand."""
    images, day, valid = (tensor(array) for array in inputs())
    torch.manual_seed(5)
    matrix = torch.randn(C, C, dtype=torch.float64)
    for build in (
        lambda **more: Classifier(C, K, PIXELS, params(**more)),
        lambda **more: TsvitSegmenter(C, K, PIXELS, seg_params(**more)),
    ):
        plain = shaken(build())
        whitened = build(whitening=0.1).double().eval()
        whitened.load_state_dict({**plain.state_dict(), "temporal.whitening": matrix})
        beforehand = torch.einsum("ec,btchw->btehw", matrix, images)
        ours, theirs = whitened(images, day, valid), plain(beforehand, day, valid)
        ours, theirs = (out.logits if isinstance(plain, Classifier) else out for out in (ours, theirs))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
