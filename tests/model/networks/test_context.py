"""What a context head sees of a segmenter, and what it leaves in it. A different prime for each axis."""

import pytest
import torch

from cluemap.model.method.cscl import similarities
from cluemap.model.networks.context import ContextComparer, ContextSegmenter, TokenPixels
from cluemap.model.networks.ltae import LtaeSegmenter
from cluemap.model.networks.tsvit import TsvitSegmenter
from cluemap.params import CsclParams, LtaeParams, load_params

B, T, C, K, SIDE = 2, 5, 7, 3, 6
LTAE = LtaeParams(width=11, heads=2, key_width=3, value_width=5, convolutions=1, dropout=0.0)


TSVIT = load_params("demo").segmenter.model_copy(update={"width": 11, "heads": 2, "head_width": 3, "whitening": 0.0})
USUAL = load_params("demo").cscl.model_dump()


def network(kind: str, **changed) -> ContextSegmenter:
    torch.manual_seed(0)
    plain = LtaeSegmenter(C, K, LTAE) if kind == "ltae" else TsvitSegmenter(C, K, SIDE, TSVIT)
    return ContextSegmenter(plain, K, CsclParams.model_validate({**USUAL, **changed})).eval()


def inputs() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    valid = torch.ones(B, T, dtype=torch.bool)
    valid[1, -1] = False
    return torch.randn(B, T, C, SIDE, SIDE), torch.randint(1, 367, (B, T)), valid


KINDS = pytest.mark.parametrize("kind", ["ltae", "tsvit"])


@KINDS
def test_logits_stay_and_similarities_are_those_of_the_embedding(kind):
    built, given = network(kind, dilation=2), inputs()
    seen, head = built(*given), built.context
    torch.testing.assert_close(seen.logits, built.segmenter(*given), rtol=0, atol=0)
    embedding = built.embed(built.segmenter.features(*given))
    expected = similarities(head.query(embedding), head.key(embedding), head.rows, head.columns, head.params)
    torch.testing.assert_close(seen.similarities, expected)
    torch.testing.assert_close(ContextComparer(built)(*given), expected)
    assert expected.shape == (B, 9, SIDE, SIDE)
    assert built.published() is built.segmenter


@KINDS
def test_every_weight_but_the_class_head_s_learns_from_similarities(kind):
    built = network(kind, joined=True)
    built.class_head().requires_grad_(False)
    ContextComparer(built)(*inputs()).square().sum().backward()
    without = {name for name, weight in built.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert without == {name for name, _ in built.named_parameters() if name.startswith(("segmenter.head", "join"))}


@KINDS
def test_joined_similarities_are_published_with_the_network(kind):
    built, given = network(kind, joined=True), inputs()
    seen, published = built(*given), built.published()
    joined = torch.einsum("kj, b j h w -> b k h w", built.join.weight[:, :, 0, 0], seen.similarities)
    torch.testing.assert_close(published(*given), built.segmenter(*given) + joined)
    assert {id(weight) for weight in published.parameters()} == {id(weight) for weight in built.parameters()}


def test_a_token_s_pixels_lie_where_its_logits_lie():
    built = network("tsvit").segmenter
    expand = TokenPixels(built)
    tokens = torch.randn(B, K, (SIDE // 2) ** 2, 11)
    other = tokens.clone()
    other[1, 2, 5] += torch.randn(11)
    changed = [(one(other) - one(tokens)).abs().amax(dim=1) > 1e-6 for one in (expand, built.classify)]
    assert torch.equal(*changed)
    assert changed[0].sum() == 4


def test_a_token_s_pixels_differ():
    tokens = torch.randn(B, K, (SIDE // 2) ** 2, 11)
    pixels = TokenPixels(network("tsvit").segmenter)(tokens)
    assert pixels.shape == (B, 8 * K, SIDE, SIDE)
    assert (pixels[..., ::2, ::2] - pixels[..., 1::2, 1::2]).abs().amax(dim=1).min() > 1e-3


@KINDS
def test_similarities_are_compared_in_full_precision(kind):
    built = network(kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert built(*inputs()).similarities.dtype == torch.float32


@pytest.mark.parametrize("kind", ["ltae", pytest.param("tsvit", marks=pytest.mark.slow)])
def test_any_batch_when_exported_with_joined_similarities(kind):
    fast, given = network(kind, joined=True).published(), inputs()
    axes = [{0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}] * 3
    with torch.no_grad():
        exported = torch.export.export(fast, given, dynamic_shapes=axes).module()
    three = tuple(torch.cat([part, part[:1]])[:, :4] for part in given)
    torch.testing.assert_close(exported(*three), fast(*three))
