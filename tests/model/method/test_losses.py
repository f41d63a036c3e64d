"""Losses against slow oracles, then their laws (METHOD section 3; the clue loss is in test_clues.py)."""

import numpy as np
import oracles
import pytest
import torch

from cluemap.model.method import losses as fast

B, K, H, W = 3, 5, 7, 11
LABELS = np.array([[True, False, True, True, False], [False] * 5, [False, True, True, False, False]])


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def agree(ours: torch.Tensor, oracle: np.ndarray | float) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), oracle, rtol=1e-9, atol=1e-12)


def over_ranks(loss, *arrays):
    """`loss(*tensors, total)` of two ranks that hold windows 0, 1 and 2: the sum of the shares, and their gradient."""
    parts = [slice(0, 2), slice(2, 3)]

    def work(rank, total):
        own = [tensor(array[parts[rank]]) for array in arrays]
        own[0].requires_grad_()
        share = loss(*own, total)
        return share.detach(), *torch.autograd.grad(share, own[0])

    shares, gradients = zip(*oracles.Ranks(2).run(work), strict=True)
    return sum(shares), torch.cat(gradients)


def of_one(loss, *arrays):
    own = [tensor(array) for array in arrays]
    own[0].requires_grad_()
    value = loss(*own)
    return value.detach(), *torch.autograd.grad(value, own[0])


def same_over_ranks(loss, *arrays):
    for ours, whole in zip(over_ranks(loss, *arrays), of_one(loss, *arrays), strict=True):
        agree(ours, whole.numpy())


# ----------------------------------------------------------------------------------------------------- classification
def test_classification_loss():
    logits = draw().normal(size=(B, K)) * 3
    agree(fast.classification_loss(tensor(logits), tensor(LABELS)), oracles.soft_margin(logits, LABELS))


def test_classification_loss_is_torchs_multi_label_soft_margin():
    logits, labels = tensor(draw().normal(size=(B, K))), tensor(LABELS)
    theirs = torch.nn.MultiLabelSoftMarginLoss()(logits, labels.double())
    agree(fast.classification_loss(logits, labels), theirs.item())


def test_what_is_not_known_does_not_count_and_gives_no_gradient():
    """The mean over the known ones, pair by pair; and the same over ranks."""
    logits, known = draw(1).normal(size=(B, K)), draw(2).uniform(size=(B, K)) < 0.6
    slow = [oracles.soft_margin(logits[[b]][:, [k]], LABELS[[b]][:, [k]]) for b, k in np.argwhere(known)]
    value, gradient = of_one(lambda x, y, z: fast.classification_loss(x, y, known=z), logits, LABELS, known)
    agree(value, np.mean(slow))
    assert (gradient[~tensor(known)] == 0).all()
    assert (gradient[tensor(known)] != 0).all()
    shares = over_ranks(lambda x, y, z, total: fast.classification_loss(x, y, total, z), logits, LABELS, known)
    agree(shares[0], np.mean(slow))
    agree(shares[1], gradient.numpy())


def test_classification_loss_of_sure_logits():
    logits = torch.where(tensor(LABELS), 300.0, -300.0)
    assert fast.classification_loss(logits, tensor(LABELS)).item() == 0
    torch.testing.assert_close(fast.classification_loss(-logits, tensor(LABELS)), torch.tensor(300.0))


def test_classification_loss_over_ranks():
    same_over_ranks(fast.classification_loss, draw().normal(size=(B, K)), LABELS)


# ------------------------------------------------------------------------------------------------------ L_tap (eq. 14)
def maps(seed: int = 0) -> np.ndarray:
    return draw(seed).uniform(0, 3, (B, K, H, W))


def test_tap_loss():
    agree(fast.tap_loss(tensor(maps()), tensor(maps(1)), tensor(LABELS)), oracles.tap_loss(maps(), maps(1), LABELS))


def test_tap_loss_by_hand():
    raw, refined = torch.zeros(2, 3, 5, 7), torch.zeros(2, 3, 5, 7)
    labels = torch.tensor([[True, False, False], [True, True, False]])
    refined[0, 0], refined[1, 1] = 0.6, -0.3  # of three present maps, one did not change
    refined[0, 1] = 99.0  # absent
    torch.testing.assert_close(fast.tap_loss(raw, refined, labels), torch.tensor(0.3))


def test_tap_loss_without_any_class_is_zero_and_can_be_differentiated():
    raw = tensor(maps()).requires_grad_()
    loss = fast.tap_loss(raw, tensor(maps(1)), torch.zeros(B, K).bool())
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, raw)[0].any()


def test_gradient_of_tap_loss_reaches_both_maps():
    raw, refined = tensor(maps()).requires_grad_(), tensor(maps(1)).requires_grad_()
    fast.tap_loss(raw, refined, tensor(LABELS)).backward()
    assert raw.grad.numpy()[LABELS].all()
    agree(refined.grad, -raw.grad.numpy())
    assert not raw.grad.numpy()[~LABELS].any()


def test_tap_loss_over_ranks():
    same_over_ranks(fast.tap_loss, maps(), maps(1), LABELS)


# ----------------------------------------------------------------------------------------------------- pixels of masks
def pixels(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = draw(seed)
    truth = random.integers(0, K, (B, H, W))
    truth[random.uniform(size=truth.shape) < 0.3] = 255
    truth[0, :5] = 255  # the windows do not count equally many pixels
    return random.normal(size=(B, K, H, W)), truth


def slow_pixel_loss(logits: np.ndarray, truth: np.ndarray) -> float:
    losses = []
    for b, row, column in np.ndindex(truth.shape):
        if truth[b, row, column] != 255:
            here = np.exp(logits[b, :, row, column])
            losses.append(-np.log(here[truth[b, row, column]] / here.sum()))
    return sum(losses) / len(losses)


def test_weighted_pixel_loss():
    """Each pixel with the weight of its true class, pixel by pixel; and the same over ranks."""
    logits, truth = pixels()
    weights = np.array([0.5, 2.0, 0.0, 1.0, 3.0])[: logits.shape[1]]
    parts, mass = 0.0, 0.0
    for b, h, w in np.argwhere(truth != 255):
        row, k = logits[b, :, h, w], truth[b, h, w]
        parts += weights[k] * (np.log(np.exp(row - row.max()).sum()) + row.max() - row[k])
        mass += weights[k]
    of = lambda x, y, total=fast.identity: fast.pixel_loss(x, y, total, tensor(weights))
    agree(of(tensor(logits), tensor(truth)), parts / mass)
    same_over_ranks(of, logits, truth)


def test_pixel_loss():
    agree(fast.pixel_loss(*map(tensor, pixels())), slow_pixel_loss(*pixels()))


def test_pixel_loss_of_ignored_pixels_is_zero_and_can_be_differentiated():
    logits, truth = map(tensor, pixels())
    loss = fast.pixel_loss(logits.requires_grad_(), torch.full_like(truth, 255))
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, logits)[0].any()


def test_pixel_loss_over_ranks():
    same_over_ranks(fast.pixel_loss, *pixels())


def unsure(seed: int = 3) -> np.ndarray:
    """b k h w: probabilities of every class, nothing where nothing is known."""
    shares = draw(seed).dirichlet([0.5] * K, (B, H, W))
    shares[0, 2, 4] = 0
    return np.moveaxis(shares, -1, 1)


def slow_unsure_loss(logits: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> float:
    """Every class of every pixel by itself: how probable it is and what it weighs, times minus its log share."""
    loss = mass = 0.0
    for b, k, row, column in np.ndindex(probabilities.shape):
        here = np.exp(logits[b, :, row, column])
        each = weights[k] * probabilities[b, k, row, column]
        loss, mass = loss - each * np.log(here[k] / here.sum()), mass + each
    return loss / mass


def one_hot(truth: np.ndarray) -> np.ndarray:
    return np.stack([truth == k for k in range(K)], axis=1).astype(float)


WEIGHTS = np.array([0.5, 2.0, 0.0, 1.0, 3.0])


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_loss_against_probabilities(weights):
    logits, held = pixels()[0], None if weights is None else tensor(weights)
    of = lambda x, y, total=fast.identity: fast.soft_pixel_loss(x, y, total, held)
    expected = slow_unsure_loss(logits, unsure(), np.ones(K) if weights is None else weights)
    agree(of(tensor(logits), tensor(unsure())), expected)
    same_over_ranks(of, logits, unsure())


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_sure_probabilities_are_the_classes(weights):
    logits, truth = pixels()
    held = None if weights is None else tensor(weights)
    soft = of_one(lambda x: fast.soft_pixel_loss(x, tensor(one_hot(truth)), weights=held), logits)
    for ours, hard in zip(soft, of_one(lambda x: fast.pixel_loss(x, tensor(truth), weights=held), logits), strict=True):
        agree(ours, hard.numpy())


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_loss_weighted_by_confidence(weights):
    """Against the same oracle, of a class alone as probable as it is trusted; all trusted fully is the plain loss."""
    logits, truth = pixels()
    trust, held = draw(4).uniform(size=truth.shape), None if weights is None else tensor(weights)
    of = lambda x, y, z, total=fast.identity: fast.pixel_loss(x, y, total, held, z)
    expected = slow_unsure_loss(logits, one_hot(truth) * trust[:, None], np.ones(K) if weights is None else weights)
    agree(of(*map(tensor, (logits, truth, trust))), expected)
    same_over_ranks(of, logits, truth, trust)
    plain = fast.pixel_loss(tensor(logits), tensor(truth), weights=held)
    agree(of(*map(tensor, (logits, truth, np.ones(truth.shape)))), plain.numpy())


def test_nothing_known_is_no_loss():
    logits, truth = map(tensor, pixels())
    for loss in (
        fast.soft_pixel_loss(logits.requires_grad_(), torch.zeros_like(logits)),
        fast.pixel_loss(logits, truth, confidence=torch.zeros(truth.shape, dtype=logits.dtype)),
    ):
        assert loss.item() == 0
        assert not torch.autograd.grad(loss, logits)[0].any()


@pytest.mark.parametrize("loss", [fast.classification_loss, fast.tap_loss, fast.pixel_loss])
def test_a_rank_without_anything_that_counts_brings_nothing(loss):
    """Its share is 0 and its gradient is finite, whatever the other rank holds."""
    logits, truth = pixels()
    arrays = {
        fast.classification_loss: (logits[:, :, 0, 0], LABELS),
        fast.tap_loss: (logits, logits + 1, np.where(np.arange(B)[:, None] == 2, False, LABELS)),
        fast.pixel_loss: (logits, np.where(np.arange(B)[:, None, None] == 2, 255, truth)),
    }[loss]
    same_over_ranks(loss, *arrays)
