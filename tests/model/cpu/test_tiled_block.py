"""A block in tiles is the block: the same values and gradients, whatever the tile's size, padding and precision."""

import weakref

import pytest
import torch
from torch import Tensor

from cluemap.model.cpu import tiled_block
from cluemap.model.cpu.tiled_attention import Plan, mix
from cluemap.model.networks.transformer import Transformer

S, L, D, FIRST = 7, 9, 12, 3  # sequences, tokens, width, class tokens
SOME = 8 * S * L * (2 * D + 2 * 5 + 2 * L)  # bytes of a block's input, middle, mixed values and attention: no more
MORE = SOME + 8 * S * L * 3 * 2 * 5  # queries, keys and values too


def network(residual: str = "plain", dropout: float = 0.0) -> Transformer:
    torch.manual_seed(3)
    return Transformer(2, D, heads=2, head_width=5, feed_forward=3, dropout=dropout, residual=residual).double()


def padded() -> Tensor:
    """Series of every length, and a hole in the first."""
    seen = torch.arange(L) < torch.tensor([9, 4, 3, 5, 8, 7, 6])[:, None]
    seen[0, 5] = False
    return seen


def passed(made: Transformer, seen: Tensor | None, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Values at seen tokens, attention, and all gradients of a sum over them."""
    torch.manual_seed(5)
    made.to(dtype).zero_grad()
    x, part = torch.randn(2, S, L, D, dtype=torch.float64).to(dtype)
    x.requires_grad_()
    part = part if seen is None else part * seen[..., None]
    out, attention = made.watched(x, seen, FIRST)
    (out * part).sum().backward()
    values = out if seen is None else out * seen[..., None]
    return {"out": values, "attention": attention, "x": x.grad, **{n: w.grad for n, w in made.named_parameters()}}


def plainly(monkeypatch: pytest.MonkeyPatch, made: Transformer, seen: Tensor | None) -> dict[str, Tensor]:
    with monkeypatch.context() as patch:
        patch.setattr(tiled_block, "usable", lambda *_: False)
        return passed(made, seen)


@pytest.mark.parametrize("residual", ["plain", "normed", "both"])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("size", "room"), [(1, 2**20), (3, 0), (7, SOME), (2, MORE)])
def test_values_and_gradients(monkeypatch, residual, masked, size, room):
    monkeypatch.setattr(tiled_block, "KEPT", 2 * room)  # of two blocks
    made, seen = network(residual), padded() if masked else None
    monkeypatch.setattr(tiled_block, "BYTES", size * 3 * D * L * 8 // torch.get_num_threads())
    wanted, found = plainly(monkeypatch, made, seen), passed(made, seen)
    for name, value in wanted.items():
        tolerance = 1e-6 if name == "attention" else 1e-11  # the plain block forms it in single precision
        assert (found[name] - value).abs().max() <= tolerance * value.abs().max(), name


@pytest.mark.parametrize("usable", [True, False])
@pytest.mark.parametrize("residual", ["plain", "normed", "both"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("room", [0, 2**20])
def test_first_tokens_alone_are_those_of_all(monkeypatch, usable, residual, dtype, room):
    monkeypatch.setattr(tiled_block, "KEPT", room)
    made, seen = network(residual).float() if dtype == torch.bfloat16 else network(residual), padded()
    if not usable:
        monkeypatch.setattr(tiled_block, "usable", lambda *_: False)
    torch.manual_seed(9)
    (given, part), found = torch.randn(2, S, L, D, dtype=made.norm.weight.dtype), []
    for asked in (0, FIRST):
        x = given.clone().requires_grad_()
        made.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = made(x, seen, asked)[:, :FIRST]
        (out * part[:, :FIRST]).sum().backward()
        found.append([out, x.grad, *(weight.grad for weight in made.parameters())])
    tolerance = 0.02 if dtype == torch.bfloat16 else 1e-11
    for one, other in zip(*found, strict=True):
        assert (one - other).abs().max() <= tolerance * other.abs().max()


def test_what_has_room_is_kept_in_order():
    x, weights = torch.zeros(S, L, D), network().blocks[0]._weights()
    a_float = S * L * 4
    bounds = [2 * D + 10, 2 * D + 10 + 2 * L, 2 * D + 40 + 2 * L, 5 * D + 40 + 2 * L]  # floats a token, summed up
    for fitting, bound in enumerate(bounds):
        for room, wanted in ((bound, fitting), (bound - 0.5, max(0, fitting - 1))):
            plan = Plan(2, "plain", first=0, asked=0, dtype=torch.float32, keep=True, room=room * a_float)
            assert tiled_block._fitting(x, weights, plan) == wanted


def test_dates_behind_the_last_are_not_computed(monkeypatch):
    monkeypatch.setattr(tiled_block, "BYTES", 1)  # one sequence a tile
    plan = Plan(2, "plain", first=0, asked=0, dtype=torch.float32, keep=False, room=0)
    found = tiled_block._tiles(torch.zeros(S, L, D), padded(), network().blocks[0]._weights(), plan)
    assert [tile.length for tile in found] == [9, 4, 3, 5, 8, 7, 6]


@pytest.mark.parametrize("room", [0, 2**20])
@pytest.mark.parametrize("usable", [True, False])
def test_single_and_half_precision(monkeypatch, usable, room):
    monkeypatch.setattr(tiled_block, "KEPT", room)
    made, seen = network(), padded()
    wanted = plainly(monkeypatch, made, seen)
    if not usable:
        monkeypatch.setattr(tiled_block, "usable", lambda *_: False)
    single = passed(made, seen, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        half = passed(made, seen, torch.float32)
    for found, tolerance in ((single, 1e-5), (half, 0.03)):
        for name, value in wanted.items():
            assert found[name].dtype == torch.float32
            assert (found[name] - value).abs().max() < tolerance * value.abs().max(), name
    assert not torch.equal(single["out"], half["out"])


def test_half_precision_when_all_tokens_have_much_in_common(monkeypatch):
    """Then nearly all of the attention's gradient cancels, and must not be left over from rounding."""
    made = network()
    for block in made.blocks:
        torch.nn.init.constant_(block.attention_norm.bias, 10.0)
    wanted = plainly(monkeypatch, made, None)
    with torch.autocast("cpu", torch.bfloat16):
        found = passed(made, None, torch.float32)
    for name in wanted:
        if name.endswith("to_query_key_value.weight"):
            queries_keys = slice(0, 2 * 2 * 5)
            error = (found[name] - wanted[name])[queries_keys].norm() / wanted[name][queries_keys].norm()
            assert error < 0.3, name  # 1.8 with what is common left in


def test_a_sequence_of_which_nothing_is_seen_stays_finite():
    seen = padded()
    seen[2] = False
    for name, value in passed(network(), seen).items():
        assert value.isfinite().all(), name


def test_what_was_kept_goes_with_the_backward_pass(monkeypatch):
    shares = []

    def noted(*given):
        mixed, share = mix(*given)
        shares.append(weakref.ref(share.untyped_storage()))
        return mixed, share

    monkeypatch.setattr(tiled_block, "mix", noted)
    out = network()(torch.randn(S, L, D, dtype=torch.float64))
    assert shares
    assert all(share() is not None for share in shares)
    out.sum().backward()
    assert out.grad_fn is not None  # the graph is still held
    assert all(share() is None for share in shares)


def test_dropout_draws():
    made = network(dropout=0.5)
    out = [passed(made, None)["out"] for _ in range(2)]
    torch.testing.assert_close(out[0], out[1])  # the seed is set
    assert not torch.allclose(out[0], passed(network(), None)["out"])


def test_weights_that_do_not_learn_keep_nothing(monkeypatch):
    made = network().requires_grad_(False)
    monkeypatch.setattr(tiled_block, "Kept", None)
    assert not made(torch.zeros(S, L, D, dtype=torch.float64)).requires_grad
