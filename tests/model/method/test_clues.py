"""Clues against slow oracles, then their laws (METHOD section 4)."""

from itertools import pairwise

import numpy as np
import oracles
import pytest
import torch
from einops import rearrange

from cluemap.model.method import clues as fast
from cluemap.model.method.clues import Clues, Used
from cluemap.params import ClueParams

B, M, K, N, D = 2, 3, 5, 23, 13  # window, clue, class, grid position, width
POSITIONS = 29  # of all windows together, where a function takes them flat
PARAMS = {
    "count": M, "start_step": 0, "mu_high": 0.6, "mu_low": 0.3, "negatives_from": "all_windows", "eta": 0.05,
    "rounds": 3, "assignment": "argmax", "momentum": 0.7, "weights": "cam", "tau": 0.1, "positive_in_denominator": True,
}  # fmt: skip
LABELS = np.array([[True, False, True, True, False], [False, False, True, True, True]])  # class 1 is nowhere


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def units(random: np.random.Generator, *shape: int) -> np.ndarray:
    drawn = random.normal(size=shape)
    return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)


def agree(ours: torch.Tensor, oracle: np.ndarray | float) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), oracle, rtol=1e-9, atol=1e-12)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def params(**changed) -> ClueParams:
    return ClueParams(**{**PARAMS, **changed})


# --------------------------------------------------------------------------------------------------- which positions
def test_normalised_cam():
    cam = draw().uniform(0, 7, (B, K, N))
    cam[1, 2] = 0  # an empty map stays empty
    agree(fast.normalised_cam(tensor(cam)), oracles.normalised_cam(cam))


def test_normalised_cam_of_a_faint_map_stays_under_one():
    faint = torch.full((1, 1, N), 1e-5, dtype=torch.float64)
    agree(fast.normalised_cam(faint), np.full((1, 1, N), 0.5))


@pytest.mark.parametrize("negatives_from", ["all_windows", "present_windows"])
def test_used_positions(negatives_from):
    cam = draw().uniform(0, 1, (B, K, N))
    cam[0, 0, :4] = [0.4, 0.2, np.nextafter(0.4, 0), np.nextafter(0.2, 1)]  # the bounds belong to the used
    ours = fast.used_positions(tensor(cam), tensor(LABELS), 0.4, 0.2, negatives_from)
    theirs = oracles.used_positions(cam, LABELS, 0.4, 0.2, negatives_from)
    for mine, oracle in zip(ours, theirs, strict=True):
        assert oracle.any()
        assert not oracle.all()
        np.testing.assert_array_equal(mine.numpy(), oracle)


def test_land_that_may_hold_a_class_is_no_negative_of_it():
    cam = draw().uniform(0, 1, (B, K, N))
    known = LABELS | (draw(1).uniform(size=LABELS.shape) < 0.5)
    positive, negative = fast.used_positions(tensor(cam), tensor(LABELS), 0.4, 0.2, "all_windows", tensor(known))
    theirs = oracles.used_positions(cam, LABELS, 0.4, 0.2, "all_windows")
    np.testing.assert_array_equal(positive.numpy(), theirs[0])
    np.testing.assert_array_equal(negative.numpy(), theirs[1] & known[:, :, None])
    assert (theirs[1] & ~known[:, :, None]).any()


def test_cosine_to_own_clues():
    dense, _, _, positives, _ = learning_inputs()
    lengths = draw().uniform(0.1, 9, (K, M, 1))
    slow = np.array(
        [[[[oracles.cosine(d, c) for c in positives[k]] for k, d in enumerate(n)] for n in b] for b in dense]
    )
    agree(fast.cosine_to(tensor(dense), tensor(positives * lengths)), slow)


# --------------------------------------------------------------------------------------------------------- transport
def cosines(random: np.random.Generator) -> np.ndarray:
    return np.einsum("knd,kmd->knm", units(random, K, POSITIONS, D), units(random, K, M, D))


def some_used(random: np.random.Generator) -> np.ndarray:
    used = random.uniform(size=(K, POSITIONS)) < 0.6
    used[1], used[3], used[4] = False, True, np.arange(POSITIONS) == 7  # none, all, only one
    return used


@pytest.mark.parametrize(("eta", "rounds"), [(0.05, 3), (0.2, 1), (1.0, 7)])
def test_transport(eta, rounds):
    random = draw()
    scores, used = cosines(random), some_used(random)
    ours = fast.transport(tensor(scores), tensor(used), eta, rounds)
    agree(ours, oracles.transport(scores, used, eta, rounds))


def test_plan_rows_sum_to_one_and_clues_share_equally():
    random = draw()
    scores, used = cosines(random), some_used(random)
    plan = fast.transport(tensor(scores), tensor(used), 0.2, 500)
    agree(plan.sum(dim=2), used.astype(float))
    np.testing.assert_allclose(plan.sum(dim=1), np.repeat(used.sum(1)[:, None] / M, M, 1), atol=1e-6)


def test_what_is_not_used_changes_nothing_in_the_plan():
    random = draw()
    scores, used = cosines(random), some_used(random)
    foreign = np.where(used[..., None], scores, random.uniform(-1, 1, scores.shape))
    plans = [fast.transport(tensor(x), tensor(used), 0.05, 3) for x in (scores, foreign)]
    agree(plans[0], plans[1].numpy())
    assert not plans[0][tensor(~used)].any()


def test_plan_follows_the_order_of_classes_positions_and_clues():
    random = draw()
    scores, used = cosines(random), some_used(random)
    k, n, m = random.permutation(K), random.permutation(POSITIONS), random.permutation(M)
    plan = fast.transport(tensor(scores), tensor(used), 0.05, 3).numpy()
    shuffled = fast.transport(tensor(scores[k][:, n][:, :, m]), tensor(used[k][:, n]), 0.05, 3)
    agree(shuffled, plan[k][:, n][:, :, m])


def test_plan_in_single_precision_holds_at_the_smallest_scores_and_many_positions():
    random = draw()
    scores, used = random.uniform(-1, 1, (2, 20011, M)), np.ones((2, 20011), bool)
    scores[0] = -1 + 0.01 * scores[0]  # far from all clues
    ours = fast.transport(tensor(scores).float(), tensor(used), 0.05, 3)
    for k in range(2):
        np.testing.assert_allclose(ours[k].numpy(), oracles.sinkhorn(scores[k], 0.05, 3), rtol=1e-3, atol=1e-5)


def test_transport_over_two_and_three_ranks_is_that_of_one():
    random = draw()
    scores, used = cosines(random), some_used(random)
    used[0, :11] = False  # the first rank has none of class 0
    whole = fast.transport(tensor(scores), tensor(used), 0.05, 3).numpy()
    for cuts in ([0, 11, POSITIONS], [0, 3, 4, POSITIONS]):
        parts = [slice(*pair) for pair in pairwise(cuts)]

        def work(rank, total, parts=parts):
            part = parts[rank]
            return fast.transport(tensor(scores[:, part]), tensor(used[:, part]), 0.05, 3, total)

        agree(torch.cat(oracles.Ranks(len(parts)).run(work), dim=1), whole)


# -------------------------------------------------------------------------------------------------------- assignment
def test_argmax_takes_the_best_clue():
    plan = draw().uniform(size=(K, POSITIONS, M))
    agree(fast.assign(tensor(plan), "argmax"), plan.argmax(2))


def test_gumbel_draws_as_often_as_the_plan_says():
    shares, draws = np.array([0.05, 0.25, 0.7]), 20011
    plan = tensor(np.broadcast_to(shares, (2, draws, M)))
    drawn = [fast.assign(plan, "gumbel", torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*drawn)
    found = np.array([(drawn[0] == m).double().mean(dim=1).numpy() for m in range(M)]).T
    assert np.abs(found - shares).max() < 5 * np.sqrt(0.25 / draws)
    assert (drawn[0][0] != drawn[0][1]).any()


# -------------------------------------------------------------------------------------------------------------- move
def move_inputs(seed: int = 0):
    random = draw(seed)
    clues, features = units(random, K, M, D), units(random, K, POSITIONS, D)
    assigned, weight = random.integers(0, M, (K, POSITIONS)), random.uniform(0.1, 1, (K, POSITIONS))
    weight[random.uniform(size=weight.shape) < 0.3] = 0
    weight[1] = 0  # a class without positions
    assigned[2][assigned[2] == 1] = 0  # a clue without positions
    weight[3][assigned[3] == 2] = 0  # a clue with unused positions only
    return clues, features, assigned, weight


@pytest.mark.parametrize("momentum", [0.0, 0.7, 0.999])
def test_moved(momentum):
    inputs = move_inputs()
    agree(fast.moved(*map(tensor, inputs), momentum), oracles.moved(*inputs, momentum))


def test_a_clue_that_got_nothing_stays_and_the_others_keep_unit_length():
    clues, features, assigned, weight = move_inputs()
    after = fast.moved(*map(tensor, (clues, features, assigned, weight)), 0.7)
    still = np.zeros((K, M), bool)
    still[1], still[2, 1], still[3, 2] = True, True, True
    np.testing.assert_array_equal((after.numpy() == clues).all(2), still)
    agree(after.norm(dim=2), np.ones((K, M)))


def test_move_over_two_ranks_is_that_of_one_and_the_same_bits_on_both():
    inputs = move_inputs()

    def work(rank, total):
        part = slice(None, 7) if rank == 0 else slice(7, None)
        clues, features, assigned, weight = map(tensor, inputs)
        return fast.moved(clues, features[:, part], assigned[:, part], weight[:, part], 0.7, total)

    one, other = oracles.Ranks(2).run(work)
    assert torch.equal(one, other)
    agree(one, oracles.moved(*inputs, 0.7))


@pytest.mark.parametrize("kind", ["cam", "squared", "binary"])
def test_position_weights(kind):
    cam = draw().uniform(0, 1, (B, K, N))
    positive, negative = fast.position_weights(tensor(cam), kind)
    expected = {"cam": (cam, 1 - cam), "squared": (cam * cam, cam * cam), "binary": (cam * 0 + 1, cam * 0 + 1)}[kind]
    agree(positive, expected[0])
    agree(negative, expected[1])


# ------------------------------------------------------------------------------------------------- one whole learning
def learning_inputs(seed: int = 0, windows: int = B, labels: np.ndarray = LABELS):
    """Dense features of any length, raw CAMs, labels, two sets of clues."""
    random = draw(seed)
    dense = random.normal(size=(windows, N, K, D)) * random.uniform(0.1, 9, (windows, N, 1, 1))
    return dense, random.uniform(0, 5, (windows, K, N)) ** 2, labels, units(random, K, M, D), units(random, K, M, D)


def slow_learn(dense, cam, labels, positives, negatives, settings: ClueParams):
    """The oracles one behind another -> moved clues, masks and assignments b k n, by sign."""
    cam01 = oracles.normalised_cam(cam)
    masks = oracles.used_positions(cam01, labels, settings.mu_high, settings.mu_low, settings.negatives_from)
    of_sign = {"cam": (cam01, 1 - cam01), "squared": (cam01**2,) * 2, "binary": (np.ones_like(cam01),) * 2}
    features = np.array([[oracles.unit(dense[b, n, k]) for b, n in np.ndindex(len(dense), N)] for k in range(K)])
    result = []
    for clues, mask, weight in zip((positives, negatives), masks, of_sign[settings.weights], strict=True):
        flat = np.array([mask[:, k].ravel() for k in range(K)])
        scores = np.array([[[oracles.cosine(f, c) for c in clues[k]] for f in features[k]] for k in range(K)])
        assigned = oracles.transport(scores, flat, settings.eta, settings.rounds).argmax(2)
        mass = np.array([weight[:, k].ravel() for k in range(K)]) * flat
        moved = oracles.moved(clues, features, assigned, mass, settings.momentum)
        result.append((moved, mask, assigned.reshape(K, len(dense), N).swapaxes(0, 1)))
    return result


@pytest.mark.parametrize("weights", ["cam", "squared", "binary"])
@pytest.mark.parametrize("negatives_from", ["all_windows", "present_windows"])
def test_learn(weights, negatives_from):
    dense, cam, labels, positives, negatives = learning_inputs()
    settings = params(weights=weights, negatives_from=negatives_from)
    old = Clues(tensor(positives), tensor(negatives))
    new, *used = fast.learn(tensor(dense), tensor(cam), tensor(labels), old, settings)
    slow = slow_learn(dense, cam, labels, positives, negatives, settings)
    for ours, found, (moved, mask, assigned) in zip(new, used, slow, strict=True):
        assert mask.any()
        agree(ours, moved)
        np.testing.assert_array_equal(rearrange(found.mask, "b n k -> b k n").numpy(), mask)
        np.testing.assert_array_equal(rearrange(found.assigned, "b n k -> b k n").numpy()[mask], assigned[mask])


def test_learning_leaves_the_old_clues_and_takes_no_gradient():
    dense, cam, labels, positives, negatives = learning_inputs()
    old = Clues(tensor(positives), tensor(negatives))
    wanted = [tensor(x).clone().requires_grad_() for x in (dense, cam)]
    new, *_ = fast.learn(*wanted, tensor(labels), old, params())
    assert not any(clue.requires_grad for clue in new)
    agree(old.positive, learning_inputs()[3])
    agree(old.negative, learning_inputs()[4])


# -------------------------------------------------------------------------------------------------------------- loss
def used_of(random: np.random.Generator, shape=(B, N, K), share: float = 0.3) -> Used:
    return Used(tensor(random.uniform(size=shape) < share), tensor(random.integers(0, M, shape)))


def loss_inputs(seed: int = 0):
    random = draw(seed)
    dense, *_, positives, negatives = learning_inputs(seed)
    positive, negative = used_of(random), used_of(random)
    positive.mask[:, :, 3], negative.mask[:, :, 3] = False, False  # class 3 is present and has no position
    negative.mask[:, :, 2] = False  # class 2 has positive ones only, class 1 (absent) has some
    return tensor(dense), Clues(tensor(positives), tensor(negatives)), positive, negative, tensor(LABELS)


def slow_loss(dense, clues, positive, negative, labels, tau, positive_in_denominator):
    def each(part: str) -> dict[str, np.ndarray]:
        pair = {"positive": positive, "negative": negative}
        return {sign: rearrange(getattr(used, part), "b n k -> b k n").numpy() for sign, used in pair.items()}

    arrays = dense.detach().numpy(), *(clue.detach().numpy() for clue in clues)
    return oracles.clue_loss(*arrays, each("assigned"), each("mask"), labels.numpy(), tau, positive_in_denominator)


@pytest.mark.parametrize("positive_in_denominator", [True, False])
@pytest.mark.parametrize("tau", [0.1, 0.7])
def test_clue_loss(positive_in_denominator, tau):
    inputs = loss_inputs()
    agree(fast.clue_loss(*inputs, tau, positive_in_denominator), slow_loss(*inputs, tau, positive_in_denominator))


def test_clue_loss_of_a_position_on_its_clue_and_opposite_to_the_others():
    clue = np.zeros((1, 1, 2))
    clue[..., 0] = 1
    dense = tensor(7 * clue)[None]  # b n k d = 1 1 1 2
    one, none = (Used(mask, torch.zeros(1, 1, 1).long()) for mask in torch.tensor([[[[True]]], [[[False]]]]))
    clues, labels = Clues(tensor(clue), tensor(-clue)), torch.ones(1, 1).bool()
    agree(fast.clue_loss(dense, clues, one, none, labels, 1.0, True), np.log(1 + np.exp(-2)))
    agree(fast.clue_loss(dense, clues, one, none, labels, 1.0, False), -2.0)


@pytest.mark.parametrize("positive_in_denominator", [True, False])
def test_clue_loss_of_nothing_is_zero_and_can_be_differentiated(positive_in_denominator):
    dense, clues, positive, negative, labels = loss_inputs()
    dense.requires_grad_()
    nothing = [Used(torch.zeros_like(used.mask), used.assigned) for used in (positive, negative)]
    for used, present in ((nothing, labels), ((positive, negative), torch.zeros_like(labels))):
        loss = fast.clue_loss(dense, clues, *used, present, 0.1, positive_in_denominator)
        assert loss.item() == 0
        (gradient,) = torch.autograd.grad(loss, dense)
        assert not gradient.any()


def test_no_gradient_reaches_the_clues():
    dense, clues, *rest = loss_inputs()
    dense.requires_grad_()
    watched = Clues(*(clue.clone().requires_grad_() for clue in clues))
    fast.clue_loss(dense, watched, *rest, 0.1, True).backward()
    assert dense.grad is not None
    assert dense.grad.abs().sum() > 0
    assert watched.positive.grad is None
    assert watched.negative.grad is None


@pytest.mark.parametrize("positive_in_denominator", [True, False])
def test_gradient_of_the_loss_is_the_slope_of_the_oracle(positive_in_denominator):
    inputs = loss_inputs()
    dense = inputs[0].requires_grad_()
    fast.clue_loss(*inputs, 0.5, positive_in_denominator).backward()
    used = inputs[2].mask | inputs[3].mask
    assert not dense.grad[~used].any()
    place, step = (*used.nonzero()[11].tolist(), 6), 1e-6
    slopes = []
    for sign in (1, -1):
        nudged = inputs[0].detach().clone()
        nudged[place] += sign * step
        slopes.append(sign * slow_loss(nudged, *inputs[1:], 0.5, positive_in_denominator) / 2 / step)
    np.testing.assert_allclose(dense.grad[place], sum(slopes), rtol=1e-5, atol=1e-9)


def test_clue_loss_does_not_depend_on_the_order_of_the_classes():
    dense, clues, positive, negative, labels = loss_inputs()
    k = torch.from_numpy(draw().permutation(K))
    shuffled = [Used(used.mask[..., k], used.assigned[..., k]) for used in (positive, negative)]
    ours = fast.clue_loss(dense[:, :, k], Clues(*(clue[k] for clue in clues)), *shuffled, labels[:, k], 0.1, True)
    agree(ours, fast.clue_loss(dense, clues, positive, negative, labels, 0.1, True).item())


@pytest.mark.parametrize("positive_in_denominator", [True, False])
def test_learning_and_loss_over_ranks_are_those_of_one(positive_in_denominator):
    windows, parts = 3, [slice(0, 2), slice(2, 3)]
    labels = np.concatenate([LABELS, [[True, False, False, False, False]]])  # each rank lacks classes the other has
    dense, cam, labels, *both = map(tensor, learning_inputs(7, windows, labels))
    old, settings = Clues(*both), params()

    def work(rank, total, part=None):
        part = part or parts[rank]
        mine = dense[part].clone().requires_grad_()
        clues, *used = fast.learn(mine, cam[part], labels[part], old, settings, total)
        loss = fast.clue_loss(mine, clues, *used, labels[part], 0.1, positive_in_denominator, total)
        (gradient,) = torch.autograd.grad(loss, mine)
        return clues, loss.detach(), gradient

    whole_clues, whole_loss, whole_gradient = work(0, lambda x: x, slice(None))
    ranks = oracles.Ranks(2).run(work)
    assert all(torch.equal(a, b) for a, b in zip(ranks[0][0], ranks[1][0], strict=True))
    for ours, whole in zip(ranks[0][0], whole_clues, strict=True):
        agree(ours, whole.numpy())
    agree(ranks[0][1] + ranks[1][1], whole_loss.item())
    agree(torch.cat([gradient for *_, gradient in ranks]), whole_gradient.numpy())


def test_clues_start_as_unit_vectors_from_their_seed():
    ours = [fast.random_clues(K, M, D, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    for clues in ours:
        assert clues.positive.shape == clues.negative.shape == (K, M, D)
        torch.testing.assert_close(torch.stack(clues).norm(dim=-1), torch.ones(2, K, M))
    assert torch.equal(ours[0].positive, ours[1].positive)
    assert not torch.equal(ours[0].positive, ours[2].positive)
    assert not torch.equal(ours[0].positive, ours[0].negative)
