"""Random changes of a batch: what they may change, that masks go with images, and that draws belong to a window."""

import pytest
import torch

from cluemap.data.batches import Batch
from cluemap.params import AugmentationParams
from cluemap.training.augmentation import augmented, generators, masked, symmetry

B, T, C, SIDE, K = 5, 7, 3, 11, 2
OFF = {"flips": False, "dropped_dates": 0.0, "shifted_days": 0, "band_gain": 0.0, "band_offset": 0.0, "light": 0.0}


def asked(**changes) -> AugmentationParams:
    return AugmentationParams.model_validate({**OFF, **changes})


def batch() -> Batch:
    draw = torch.Generator().manual_seed(3)
    valid = torch.ones(B, T, dtype=torch.bool)
    valid[0, -2:] = False
    return Batch(
        images=torch.randn(B, T, C, SIDE, SIDE, generator=draw),
        day=torch.randint(1, 367, (B, T), generator=draw) * valid,
        valid=valid,
        image_labels=torch.ones(B, K, dtype=torch.bool),
        index=torch.arange(B),
        mask=torch.randint(0, 3, (B, SIDE, SIDE), generator=draw),
    )


def draws(step: int = 0, rank: int = 0, world: int = 1, count: int = B):
    return generators(13, step, rank, world, count)


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("images", "day", "valid", "mask"))


def test_nothing_asked_changes_nothing():
    given = batch()
    assert same(augmented(given, asked(), draws()), given)


def test_a_mask_is_turned_as_its_image_is():
    given = batch()
    given.images[:, :, :] = given.mask[:, None, None].float()  # every band shows the mask
    given.probabilities = torch.stack([given.mask == k for k in range(3)], dim=1).float()
    found = augmented(given, asked(flips=True), draws())
    assert torch.equal(found.images[:, 0, 0].long(), found.mask)
    assert torch.equal(found.probabilities.argmax(dim=1), found.mask)
    assert not torch.equal(found.mask, given.mask)


def test_the_eight_symmetries_are_eight_and_keep_every_value():
    image = torch.arange(SIDE * SIDE).view(SIDE, SIDE)
    turned = {tuple(symmetry(image, which).flatten().tolist()) for which in range(8)}
    assert len(turned) == 8
    assert torch.equal(symmetry(image, 0), image)
    assert all(sorted(one) == list(range(SIDE * SIDE)) for one in turned)


def test_windows_that_are_not_square_are_refused():
    given = batch()
    given.images = given.images[..., :-1]
    with pytest.raises(ValueError, match=r"only square windows can be turned.*11, 10"):
        augmented(given, asked(flips=True), draws())


def test_dropped_dates_were_there_and_one_stays():
    given = batch()
    given.valid[1] = torch.arange(T) == 4  # a single date
    lost = 0
    for step in range(20):
        found = augmented(given, asked(dropped_dates=0.9), draws(step))
        assert (given.valid | ~found.valid).all()
        assert found.valid.any(dim=1).all()
        assert found.valid[1, 4]
        lost += int((given.valid & ~found.valid).sum())
    share = lost / (20 * int(given.valid.sum()))
    assert 0.3 < share < 0.6  # a chance drawn from 0 to 0.9: 0.45 on average


def test_a_series_moves_as_a_whole_round_the_turn_of_the_year():
    given = batch()
    given.day[2, :3] = torch.tensor([1, 366, 200])
    found = augmented(given, asked(shifted_days=10), draws())
    moved = (found.day - given.day + 366 + 183) % 366 - 183
    for row in range(B):
        assert len(set(moved[row][given.day[row] > 0].tolist())) == 1
        assert abs(int(moved[row][0])) <= 10
    assert found.day[given.day == 0].eq(0).all()
    assert found.day[given.day > 0].min() >= 1
    assert found.day.max() <= 366
    assert not torch.equal(found.day, given.day)


def test_jitter_is_one_line_per_window_and_band():
    given = batch()
    found = augmented(given, asked(band_gain=0.2, band_offset=0.1, light=0.1), draws())
    for b in range(B):
        for c in range(C):
            x, y = given.images[b, :, c].flatten(), found.images[b, :, c].flatten()
            gain = (y[1] - y[0]) / (x[1] - x[0])
            torch.testing.assert_close(y, gain * x + (y[0] - gain * x[0]), rtol=1e-3, atol=1e-4)
    assert (found.images != given.images).any(dim=(1, 3, 4)).all()


def test_jitter_leaves_what_has_no_data():
    given = batch()
    given.images[:, ::2, :, 3:5] = 0.0
    found = augmented(given, asked(band_gain=0.2, band_offset=0.1, light=0.1), draws()).images
    assert torch.equal(found == 0, given.images == 0)


def test_draws_belong_to_the_window_whatever_the_number_of_processes():
    given, params = batch(), asked(flips=True, dropped_dates=0.5, shifted_days=9, band_gain=0.1, light=0.1)
    whole = augmented(given, params, draws(step=5))
    for rank in range(2):
        rows = slice(rank, None, 2)
        part = Batch(
            *(getattr(given, name)[rows] for name in ("images", "day", "valid", "image_labels", "index", "mask"))
        )
        found = augmented(part, params, draws(5, rank, 2, len(part)))
        for name in ("images", "day", "valid", "mask"):
            assert torch.equal(getattr(found, name), getattr(whole, name)[rows]), name
    assert not same(whole, augmented(given, params, draws(step=6)))


def test_masked_pixels_are_lost_on_all_dates_and_belong_to_their_window():
    given = batch()
    found = masked(given, 0.8, draws())
    lost = (found.images == 0).all(dim=(1, 2))
    shares = lost.float().mean(dim=(1, 2))
    assert shares.max() < 0.8
    assert len(set(shares.tolist())) == B  # a chance of its own
    kept = ~lost[:, None, None].expand_as(given.images)
    assert torch.equal(found.images[kept], given.images[kept])
    alone = masked(given, 0.8, draws()[:1] + draws(step=1)[1:])
    assert torch.equal(alone.images[0], found.images[0])
    assert not torch.equal(alone.images[1], found.images[1])
    assert masked(given, 0.0, draws()) is given
