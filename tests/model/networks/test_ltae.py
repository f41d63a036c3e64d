"""The segmenter `ltae` against the plain one, and its laws. A different prime for each axis."""

import ltae_oracle as oracle
import pytest
import torch
from torch import Tensor

from cluemap.model.cpu import tiled_date_attention
from cluemap.model.networks.ltae import LtaeSegmenter
from cluemap.model.networks.whitening import whitening_matrix
from cluemap.params import LtaeParams

WINDOWS, DATES, BANDS, HEIGHT, WIDTH, CLASSES = 2, 5, 3, 7, 11, 13
SMALL = LtaeParams(width=19, heads=17, key_width=23, value_width=29, convolutions=2, dropout=0.0)
Inputs = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(params=[10**6, 60], ids=["one tile", "tiles of 12 pixels"])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(tiled_date_attention, "TILE", request.param)
    return request.param


def network(**changes) -> LtaeSegmenter:
    """A network in float64 whose every weight matters: no zeros, no ones."""
    torch.manual_seed(31)
    built = LtaeSegmenter(BANDS, CLASSES, LtaeParams(**{**dict(SMALL), **changes}), whitens=True).double()
    with torch.no_grad():
        for weight in built.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
        built.temporal.whitening += 0.3 * torch.randn_like(built.temporal.whitening)
    return built


def inputs(dates: int = DATES) -> Inputs:
    torch.manual_seed(37)
    images = torch.randn(WINDOWS, dates, BANDS, HEIGHT, WIDTH, dtype=torch.float64)
    day = torch.randint(1, 367, (WINDOWS, dates))
    valid = torch.ones(WINDOWS, dates, dtype=torch.bool)
    valid[0, 1] = valid[1, -2:] = False
    return images, day, valid


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_logits_and_features_agree_with_the_plain_network(tile: int) -> None:
    fast, given = network(), inputs()
    weights = fast.state_dict()
    close(fast(*given), oracle.logits(*given, weights))
    close(fast.features(*given), oracle.features(*given, weights), 1e-6)
    assert fast.features(*given).shape == (WINDOWS, SMALL.width, HEIGHT, WIDTH)


@pytest.mark.slow
def test_gradients_agree_with_the_plain_network(tile: int) -> None:
    fast = network()
    images, day, valid = inputs()
    images.requires_grad_()
    weights = {**dict(fast.named_buffers()), **dict(fast.named_parameters())}
    wanted = [images, *fast.parameters()]
    weighting = torch.randn(WINDOWS, CLASSES, HEIGHT, WIDTH, dtype=torch.float64)
    found = torch.autograd.grad((fast(images, day, valid) * weighting).sum(), wanted)
    expected = torch.autograd.grad((oracle.logits(images, day, valid, weights) * weighting).sum(), wanted)
    for name, ours, theirs in zip(["images", *dict(fast.named_parameters())], found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()), msg=name)


def test_padding_and_dates_without_data_change_nothing(tile: int) -> None:
    fast = network()
    images, day, valid = inputs()
    plain = fast(images, day, valid)
    more = torch.full_like(images[:, :3], 1e3)
    longer = torch.cat([images, more], dim=1), torch.cat([day, day[:, :3] * 0], dim=1)
    close(fast(*longer, torch.cat([valid, torch.zeros_like(valid[:, :3])], dim=1)), plain)
    images[0, 1], day[0, 1] = -7.0, 300
    close(fast(images, day, valid), plain)


def test_the_order_of_dates_does_not_matter() -> None:
    fast = network()
    images, day, valid = inputs()
    order = torch.tensor([3, 0, 4, 2, 1])
    close(fast(images[:, order], day[:, order], valid[:, order]), fast(images, day, valid))


def test_pixels_are_independent_before_the_convolutions(tile: int) -> None:
    half = network().temporal
    images, day, valid = inputs()
    plain = half(images, day, valid)
    images[1, :, :, 3, 5] += 1.0
    changed = (half(images, day, valid) - plain).abs().amax(dim=-1) > 1e-9
    expected = torch.zeros_like(changed)
    expected[1, 3, 5] = True
    assert torch.equal(changed, expected)


def test_a_pixel_is_seen_as_far_as_there_are_convolutions() -> None:
    fast = network(convolutions=2)
    images, day, valid = inputs()
    plain = fast(images, day, valid)
    images[0, :, :, 3, 5] += 1.0
    changed = (fast(images, day, valid) - plain).abs().amax(dim=(0, 1)) > 1e-12
    rows, columns = changed.nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 5, 3, 7)


def test_a_part_of_an_image_has_the_logits_of_the_whole_inside() -> None:
    fast = network(convolutions=2)
    images, day, valid = inputs()
    whole, part = fast(images, day, valid), fast(images[..., :9], day, valid)
    close(part[..., :7], whole[..., :7])


def test_a_window_without_dates_gives_numbers(tile: int) -> None:
    images, day, valid = inputs()
    valid[0] = False
    out = network()(images, day, valid)
    out.sum().backward()
    assert torch.isfinite(out).all()


def test_any_batch_when_exported() -> None:
    fast, given = network().eval(), inputs()
    batch, dates = torch.export.Dim("batch", min=1), torch.export.Dim("dates", min=2)
    axes = [{0: batch, 1: dates}] * 3
    exported = torch.export.export(fast, given, dynamic_shapes=axes).module()
    three = tuple(torch.cat([part, part[:1]])[:, :4] for part in given)
    close(exported(*three), fast(*three))


def test_bfloat16_is_near_float32() -> None:
    fast = network().float()
    images, day, valid = inputs()
    plain = fast(images.float(), day, valid)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = fast(images.float(), day, valid)
        rounded.float().sum().backward()
    assert (rounded.float() - plain).abs().mean() < 0.05 * plain.std()
    assert all(torch.isfinite(weight.grad).all() for weight in fast.parameters())


def test_dropout_draws_in_training_alone() -> None:
    fast, given = network(dropout=0.5), inputs()
    assert not torch.equal(fast(*given), fast(*given))
    fast.eval()
    close(fast(*given), network().eval()(*given))


def test_whitened_bands_are_uncorrelated() -> None:
    torch.manual_seed(41)
    bands = torch.randn(4001, BANDS, dtype=torch.float64) @ torch.randn(BANDS, BANDS, dtype=torch.float64)
    white = bands @ whitening_matrix(torch.cov(bands.T), floor=0.0).T
    close(torch.cov(white.T), torch.eye(BANDS, dtype=torch.float64))
