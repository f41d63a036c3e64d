"""Context-self contrastive loss against a slow oracle, then its laws. A different prime for each axis."""

import cscl_oracle as oracle
import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from cluemap.model.method.cscl import context_loss, pairs, similarities
from cluemap.params import CsclParams

B, D, H, W, ROW_CHANNELS = 2, 5, 7, 11, 3
OPTIONS = pytest.mark.parametrize(
    ("window", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (5, 1, 2), (3, 3, 4), (7, 2, 2)]
)


def told(**changed) -> CsclParams:
    usual = {
        "kind": "joint", "joined": False, "window": 3, "stride": 1, "dilation": 1, "positive_weight": 0.125,
        "masked": False, "weight": 1.0, "steps": 1, "learning_rate": 1e-4, "decay": 0.975,
    }  # fmt: skip
    return CsclParams.model_validate({**usual, **changed})


def fields(seed: int, void: float = 0.1) -> Tensor:
    draw = np.random.default_rng(seed)
    mask = draw.integers(0, 4, (B, 3, 4)).repeat(3, axis=1).repeat(3, axis=2)[:, :H, :W]
    mask[draw.uniform(size=mask.shape) < void] = 255
    return torch.from_numpy(mask)


def embedded(seed: int, window: int) -> list[Tensor]:
    torch.manual_seed(seed)
    shapes = [(B, D, H, W), (B, D, H, W), (window, ROW_CHANNELS), (window, D - ROW_CHANNELS)]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@OPTIONS
def test_similarities_agree_with_the_oracle(window, stride, dilation):
    given_ = embedded(1, window)
    found = similarities(*given_, told(window=window, stride=stride, dilation=dilation))
    expected = oracle.similarities(*(x.detach().numpy() for x in given_), window, stride, dilation)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("masked", [False, True])
@OPTIONS
def test_loss_agrees_with_the_oracle(window, stride, dilation, masked):
    params = told(window=window, stride=stride, dilation=dilation, masked=masked, positive_weight=0.3)
    mask, similar = fields(2), similarities(*embedded(1, window), params).detach()
    found = context_loss(similar, pairs(mask, params), params.positive_weight)
    expected = oracle.loss(similar.numpy(), mask.numpy(), window, stride, dilation, 0.3, masked)
    assert float(found) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_gradients_are_those_of_finite_differences():
    params = told(stride=2, masked=True)
    found = pairs(fields(3), params)
    loss = lambda *given_: context_loss(similarities(*given_, params), found, 0.125)
    assert torch.autograd.gradcheck(loss, embedded(4, 3), atol=1e-6, fast_mode=True)  # along random directions


def test_a_pixel_without_any_embedding_has_a_finite_gradient():
    query, key, rows, columns = (torch.zeros_like(x, requires_grad=True) for x in embedded(1, 3))
    similarities(query, key, rows, columns, told()).sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in (query, key, rows, columns))


classes = st.integers(0, 4)
sizes = st.fixed_dictionaries(
    {"window": st.sampled_from([3, 5]), "stride": st.integers(1, 3), "dilation": st.integers(1, 3),
     "masked": st.booleans()}
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(sizes, classes, st.integers(1, 9), st.integers(1, 9))
def test_a_constant_mask_has_no_negative_inside(options, label, height, width):
    alike, counted = pairs(torch.full((1, height, width), label), told(**options))
    reach = options["dilation"] * (options["window"] // 2)
    rows, columns = (torch.arange(0, size, options["stride"]) for size in (height, width))
    rows, columns = ((x >= reach) & (x < size - reach) for x, size in ((rows, height), (columns, width)))
    inside = rows[:, None] & columns  # centres whose whole context lies in the image
    assert alike[:, :, inside].all()
    if options["masked"]:
        assert alike[counted].all()
    else:
        assert counted.all()


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(0, 99), st.permutations(range(4)))
def test_the_order_of_classes_does_not_matter(options, seed, order):
    mask, params = fields(seed), told(**options)
    other = torch.where(mask == 255, 255, torch.tensor(order)[mask.clamp_max(3)])
    assert all(torch.equal(one, two) for one, two in zip(pairs(mask, params), pairs(other, params), strict=True))


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(0, 99))
def test_similarities_are_cosines_and_scale_does_not_matter(options, seed):
    params = told(**options)
    query, key, rows, columns = embedded(seed, options["window"])
    found = similarities(query, key, rows, columns, params)
    assert found.abs().max() <= 1 + 1e-9
    larger = similarities(3 * query, 5 * key, 5 * rows, 5 * columns, params)
    torch.testing.assert_close(larger, found)


@settings(max_examples=40, deadline=None)
@given(sizes.map(lambda options: {**options, "masked": True}), st.integers(0, 99))
def test_masked_pairs_are_of_two_sure_pixels_and_none_of_a_pixel_with_itself(options, seed):
    params, mask = told(**options), fields(seed, void=0.4)
    similar = similarities(*embedded(seed, options["window"]), params).detach()
    before = context_loss(similar, pairs(mask, params), 0.125)
    middle = options["window"] ** 2 // 2
    unsure = mask[:, :: options["stride"], :: options["stride"]] == 255
    similar[:, middle] += 7.0
    similar = similar + 7.0 * unsure[:, None]
    assert context_loss(similar, pairs(mask, params), 0.125) == pytest.approx(float(before), abs=1e-12)


def test_a_mask_without_any_sure_pair_teaches_nothing():
    params = told(masked=True)
    given_ = embedded(1, 3)
    loss = context_loss(similarities(*given_, params), pairs(torch.full((B, H, W), 255), params), 0.125)
    loss.backward()
    assert loss == 0
    assert all(not x.grad.any() for x in given_)


def test_the_shares_of_several_processes_are_together_the_loss_of_one():
    params, mask = told(masked=True), fields(5)
    similar = similarities(*embedded(1, 3), params).detach()
    whole = context_loss(similar, pairs(mask, params), 0.125)
    shares = oracles.Ranks(B).run(
        lambda rank, total: context_loss(similar[rank : rank + 1], pairs(mask[rank : rank + 1], params), 0.125, total)
    )
    torch.testing.assert_close(sum(shares), whole)


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"window": 1}, "a window of 1 holds the pixel alone"), ({"window": 4}, "a window of 4 has no middle"),
     ({"joined": True, "stride": 2}, "at every pixel, but stride is 2")],
)  # fmt: skip
def test_impossible_options_say_why(changed, words):
    with pytest.raises(ValidationError, match=words):
        told(**changed)
