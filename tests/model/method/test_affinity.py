"""Temporal weights and affinity propagation against slow oracles, then their laws (METHOD section 5)."""

from itertools import pairwise

import numpy as np
import oracles
import pytest
import torch

from cluemap.model.method import affinity as fast
from cluemap.params import AffinityParams, TemporalParams

B, K, H, W, T, D = 2, 3, 5, 7, 11, 13
VALID = np.array([[True] * 8 + [False] * 3, [True, False] * 5 + [True]])
LABELS = np.array([[True, False, True], [False, True, True]])
KINDS = [("power", 0.0), ("power", 1.0), ("power", 2.5), ("softmax", 1.0)]


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def agree(ours: torch.Tensor, oracle: np.ndarray, tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), oracle, rtol=tolerance, atol=tolerance / 1000)


def nearly(ours: torch.Tensor, oracle: np.ndarray) -> None:
    """For what passes through `weighted_sequence`, which gives single precision whatever it is given."""
    np.testing.assert_allclose(ours.detach().numpy(), oracle, rtol=1e-5, atol=5e-6)


def attention(random: np.random.Generator, dates: int = T) -> np.ndarray:
    drawn = random.uniform(0.001, 1, (B, K, dates))
    return drawn / (drawn.sum(2, keepdims=True) + 0.3)  # the class tokens have a share too


# ---------------------------------------------------------------------------------------------------------- over time
@pytest.mark.parametrize(("kind", "sharpness"), KINDS)
def test_temporal_weights(kind, sharpness):
    drawn = attention(draw())
    ours = fast.temporal_weights(tensor(drawn), tensor(VALID), kind, sharpness)
    agree(ours, oracles.temporal_weights(drawn, VALID, kind, sharpness))
    agree(ours.sum(dim=2), np.ones((B, K)))
    assert not ours[tensor(~VALID)[:, None].expand(-1, K, -1)].any()


def test_sharpness_is_not_for_softmax():
    drawn = attention(draw())
    ours = fast.temporal_weights(tensor(drawn), tensor(VALID), "softmax", 4.0)
    agree(ours, oracles.temporal_weights(drawn, VALID, "softmax", 1.0))


def test_sharpness_zero_is_the_plain_mean_also_over_dates_without_attention():
    drawn = attention(draw())
    drawn[0, 1, 3] = 0.0
    ours = fast.temporal_weights(tensor(drawn), tensor(VALID), "power", 0.0)
    agree(ours, np.broadcast_to((VALID / VALID.sum(1, keepdims=True))[:, None], drawn.shape))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_sharpness_leaves_one_date(dtype):
    drawn = np.where(VALID[:, None], attention(draw()), 0.9)  # padding must not be the one
    ours = fast.temporal_weights(tensor(drawn).to(dtype), tensor(VALID), "power", 1e4)
    best = np.where(VALID[:, None], drawn, -1).argmax(2)
    np.testing.assert_allclose(ours.numpy(), np.eye(T)[best], atol=1e-6)


def test_more_sharpness_gives_the_best_date_more():
    drawn = tensor(attention(draw()))
    shares = [fast.temporal_weights(drawn, tensor(VALID), "power", s).amax(dim=2) for s in (0.5, 1.0, 2.0, 4.0)]
    assert all((after > before).all() for before, after in pairwise(shares))


def test_a_date_without_any_attention_gets_nothing():
    drawn = attention(draw())
    drawn[:, :, 4] = 0.0
    ours = fast.temporal_weights(tensor(drawn), torch.ones(B, T).bool(), "power", 1.0)
    assert ours[:, :, 4].max() < 1e-9
    agree(ours.sum(dim=2), np.ones((B, K)))


def test_weighted_sequence():
    random = draw()
    sequence, weights = random.normal(size=(B, H * W, T, D)), random.uniform(size=(B, K, T))
    nearly(fast.weighted_sequence(tensor(sequence), tensor(weights)), oracles.weighted_sequence(sequence, weights))


# --------------------------------------------------------------------------------------------------------- over space
@pytest.mark.parametrize("dilation", [1, 2, 3, 6])
def test_neighbours(dilation):
    maps = draw().normal(size=(B, D, H, W))
    agree(torch.stack(fast.neighbours(tensor(maps), dilation), dim=2), oracles.neighbours(maps, dilation))


def test_neighbours_by_hand():
    maps = torch.arange(9.0).view(1, 1, 3, 3)
    near = torch.stack(fast.neighbours(maps, 1), dim=2)[0, 0]
    assert near[:, 1, 1].tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert near[:, 0, 0].tolist() == [0, 0, 1, 0, 1, 3, 3, 4]
    assert near[:, 2, 1].tolist() == [3, 4, 5, 6, 8, 6, 7, 8]


@pytest.mark.parametrize(("dilation", "temperature"), [(1, 0.3), (2, 0.3), (2, 1.7), (3, 0.05)])
def test_affinity(dilation, temperature):
    features = draw().normal(size=(B, D, H, W))
    ours = fast.affinity(tensor(features), dilation, temperature)
    agree(ours, oracles.affinity(features, dilation, temperature))
    agree(ours.sum(dim=1), np.ones((B, H, W)))


def test_affinity_of_like_features_is_even_and_finite():
    for features in (torch.ones(1, D, H, W), torch.zeros(1, D, H, W)):
        agree(fast.affinity(features.double(), 2, 0.3), np.full((1, 8, H, W), 1 / 8), 1e-6)
        agree(fast.affinity(features, 2, 0.3).sum(dim=1), np.ones((1, H, W)), 1e-5)


def test_affinity_prefers_its_own_kind():
    features = torch.randn(1, D, H, W, generator=torch.Generator().manual_seed(0)) * 0.1
    features[:, :, :, :3] += 1.0  # the left field
    features[:, :, :, 3:] -= 1.0
    ours = fast.affinity(features, 1, 0.3)[0]
    row, left_edge = 2, 2
    toward_right = ours[[2, 4, 7], row, left_edge].sum()  # the three neighbours in the column to the right
    assert toward_right < 0.05


@pytest.mark.parametrize(("dilation", "rounds"), [(2, 0), (1, 1), (2, 3), (3, 5)])
def test_propagate(dilation, rounds):
    random = draw()
    cam, shares = random.normal(size=(B, H, W)), random.dirichlet(np.ones(8), (B, H, W)).transpose(0, 3, 1, 2)
    ours = fast.propagate(tensor(cam), tensor(shares), dilation, rounds)
    agree(ours, oracles.propagate(cam, shares, dilation, rounds))


# -------------------------------------------------------------------------------------------------------------- whole
def inputs(seed: int = 0, height: int = H, width: int = W):
    random = draw(seed)
    cam, sequence = random.uniform(0, 3, (B, K, height, width)), random.normal(size=(B, height * width, T, D))
    return cam, sequence, attention(random), VALID, LABELS


def refined(arrays, kind="power", sharpness=1.0, dilation=2, temperature=0.3, rounds=3, blend=0.5):
    unlike = 0.123  # the blend that counts is the argument
    about = AffinityParams(dilation=dilation, rounds=rounds, temperature=temperature, blend=unlike)
    tensors = [x if isinstance(x, torch.Tensor) else tensor(x) for x in arrays]
    return fast.refine(*tensors, about, TemporalParams(kind=kind, sharpness=sharpness), blend)


@pytest.mark.parametrize(("kind", "sharpness"), KINDS)
def test_refine(kind, sharpness):
    arrays = inputs()
    nearly(refined(arrays, kind, sharpness), oracles.refine(*arrays, 2, 0.3, 3, kind, sharpness, 0.5))


def test_refine_with_other_numbers():
    arrays = inputs(1)
    ours = refined(arrays, dilation=1, temperature=0.8, rounds=2, blend=0.3)
    nearly(ours, oracles.refine(*arrays, 1, 0.8, 2, "power", 1.0, 0.3))


def test_blend_goes_from_raw_to_propagated():
    arrays = inputs()
    agree(refined(arrays, blend=0.0), arrays[0])
    halves = (refined(arrays, blend=0.0) + refined(arrays, blend=1.0)) / 2
    agree(refined(arrays, blend=0.5), halves.numpy())


@pytest.mark.parametrize(("kind", "sharpness"), KINDS)
def test_a_constant_map_stays_constant(kind, sharpness):
    _, *others = inputs()
    constant = np.broadcast_to(np.array([0.3, 0.0, 2.0])[:, None, None], (B, K, H, W))
    nearly(refined([constant, *others], kind, sharpness), constant)


def test_refined_values_stay_between_the_raw_ones():
    arrays = inputs()
    ours = refined(arrays, blend=1.0).numpy()
    assert (ours.min((2, 3)) >= arrays[0].min((2, 3)) - 1e-5).all()
    assert (ours.max((2, 3)) <= arrays[0].max((2, 3)) + 1e-5).all()
    assert (np.ptp(ours, (2, 3)) < np.ptp(arrays[0], (2, 3)))[LABELS].all()


@pytest.mark.parametrize(("kind", "sharpness"), KINDS)
def test_padding_changes_nothing(kind, sharpness):
    cam, sequence, looks, valid, labels = inputs()
    random = draw(9)
    padded = [
        cam,
        np.concatenate([sequence, random.normal(size=(B, H * W, 5, D)) * 50], axis=2),
        np.concatenate([looks, random.uniform(0, 1, (B, K, 5))], axis=2),
        np.concatenate([valid, np.zeros((B, 5), bool)], axis=1),
        labels,
    ]
    nearly(refined(padded, kind, sharpness), refined(inputs(), kind, sharpness).numpy())


def test_order_of_classes_dates_and_windows_does_not_matter():
    cam, sequence, looks, valid, labels = inputs()
    k, t, b = [2, 0, 1], draw(3).permutation(T), [1, 0]
    shuffled = [cam[b][:, k], sequence[b][:, :, t], looks[b][:, k][:, :, t], valid[b][:, t], labels[b][:, k]]
    nearly(refined(shuffled), refined(inputs()).numpy()[b][:, k])


def test_rows_and_columns_are_not_swapped():
    cam, sequence, *rest = inputs()
    turned = sequence.reshape(B, H, W, T, D).transpose(0, 2, 1, 3, 4).reshape(B, H * W, T, D)
    ours = refined([cam.transpose(0, 1, 3, 2), turned, *rest]).numpy()
    nearly(refined(inputs()), ours.transpose(0, 1, 3, 2))


def test_absent_classes_come_back_as_they_are():
    arrays = inputs()
    ours = refined(arrays).numpy()
    np.testing.assert_array_equal(ours[~LABELS], arrays[0][~LABELS])
    assert (ours[LABELS] != arrays[0][LABELS]).any(axis=(1, 2)).all()


def test_windows_without_any_class_come_back_as_they_are():
    cam, *others, _ = inputs()
    agree(refined([cam, *others, np.zeros_like(LABELS)]), cam)


def test_gradient_flows_to_cam_and_features_and_the_inputs_stay():
    arrays = [tensor(x) for x in inputs()]
    cam, sequence = arrays[0].clone().requires_grad_(), arrays[1].clone().requires_grad_()
    (refined([cam, sequence, *arrays[2:]]) - cam).abs().sum().backward()
    assert (cam.grad.abs().sum(dim=(2, 3)) > 0).numpy()[LABELS].all()
    assert (sequence.grad.abs().sum(dim=(1, 3)) > 0).numpy()[VALID].all()
    assert not sequence.grad.abs().sum(dim=(1, 3)).numpy()[~VALID].any()
    agree(cam, inputs()[0])


def test_gradient_is_the_slope_of_the_oracle():
    """Through the raw map, the map that spreads, and the features that say where to."""
    arrays, toward = inputs(), draw(5).normal(size=(B, K, H, W))
    learnt = [tensor(x).requires_grad_() for x in arrays[:2]]
    (refined([*learnt, *arrays[2:]]) * tensor(toward)).sum().backward()
    for which, place in ((0, (0, 0, 2, 4)), (0, (1, 1, 0, 0)), (1, (0, 17, 3, 2)), (1, (1, 34, 2, 11))):
        outcomes = []
        for step in (1e-5, -1e-5):
            nudged = [x.copy() for x in arrays]
            nudged[which][place] += step
            outcomes.append((oracles.refine(*nudged, 2, 0.3, 3, "power", 1.0, 0.5) * toward).sum())
        slope = (outcomes[0] - outcomes[1]) / 2e-5
        assert abs(slope) > 1e-3
        np.testing.assert_allclose(learnt[which].grad[place], slope, rtol=1e-3)


def test_gradient_of_even_features_is_finite():
    """The spread of 8 like neighbours is 0, where a square root has no slope."""
    cam, _, *rest = inputs()
    even = torch.ones(B, H * W, T, D, dtype=torch.float64).requires_grad_()
    refined([cam, even, *rest]).square().sum().backward()
    assert torch.isfinite(even.grad).all()
