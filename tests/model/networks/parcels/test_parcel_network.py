"""pse_tae and pse_ltae: the published count of weights, a slow oracle, and what masks and padding may change."""

import numpy as np
import parcel_oracle
import pytest
import torch

from cluemap.data.series_features import YEAR, years_apart
from cluemap.model.networks.parcels.parcel_network import ParcelNetwork
from cluemap.model.networks.parcels.pixel_set import pooled_over
from cluemap.model.networks.parcels.row_norm import RowNorm
from cluemap.model.networks.parcels.tae import moved
from cluemap.params import ParcelParams

BANDS, GEOMETRY, CLASSES = 7, 3, 5


def params_of(kind: str = "pse_tae") -> ParcelParams:
    course = {"batch": 2, "steps": 1, "learning_rate": 1.0, "final_learning_rate": 0.0, "warmup": 0.0}
    course |= {"weight_decay": 0.0, "weight_averaging": 0.0, "validate_every": 1}
    return ParcelParams(
        least_pixels=1, labels="parcels", least_votes=0.0, kind=kind, published=False, pixels=64, dropout=0.2,
        focal_gamma=1.0, select="last", **course,
    )  # fmt: skip


@pytest.fixture(params=["pse_tae", "pse_ltae"])
def network(request) -> ParcelNetwork:
    return made(request.param)


def made(kind: str) -> ParcelNetwork:
    """A network whose batch norms have seen something."""
    torch.manual_seed(3)
    network = ParcelNetwork(BANDS, GEOMETRY, CLASSES, params_of(kind))
    for module in network.modules():
        if isinstance(module, RowNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return network.eval()


def parcels(sizes=((2, 3), (11, 6), (1, 5))) -> list[tuple]:
    """(pixels s t c, seen s t, day t, geometry g) of each."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for pixels, dates in sizes:
        seen = torch.rand(pixels, dates, generator=generator) > 0.2
        seen[0, 0] = True
        day = torch.sort(torch.randint(1, 500, (dates,), generator=generator)).values
        values = torch.randn(pixels, dates, BANDS, generator=generator)
        found.append((values, seen, day, torch.randn(GEOMETRY, generator=generator)))
    return found


def batch_of(given: list[tuple], more: int = 0) -> tuple:
    """Padded to the largest, and by `more` further pixels and dates, with numbers in the padding."""
    most = max(len(pixels) for pixels, *_ in given) + more
    longest = max(len(day) for *_, day, _ in given) + more
    values, seen = torch.full((len(given), most, longest, BANDS), 1e4), torch.zeros(len(given), most, longest).bool()
    day, geometry = torch.zeros(len(given), longest).long(), torch.stack([about for *_, about in given])
    for row, (pixels, there, days, _) in enumerate(given):
        values[row, : len(pixels), : len(days)] = pixels
        seen[row, : len(pixels), : len(days)] = there
        day[row, : len(days)] = days
    return values, seen, day, seen.any(dim=1), geometry


def test_the_published_network_has_164116_weights():
    network = ParcelNetwork(10, 4, 20, params_of())
    assert sum(weight.numel() for weight in network.parameters()) == 164_116


def test_pse_tae_is_the_oracles():
    network = made("pse_tae")
    with torch.no_grad():
        found = network(*batch_of(parcels()))
        expected = parcel_oracle.logits(parcels(), network.state_dict())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_padding_changes_nothing(network):
    with torch.no_grad():
        torch.testing.assert_close(network(*batch_of(parcels(), more=4)), network(*batch_of(parcels())))
        alone = torch.cat([network(*batch_of([one])) for one in parcels()])
    torch.testing.assert_close(alone, network(*batch_of(parcels())), rtol=1e-4, atol=1e-5)


def test_the_order_of_pixels_changes_nothing(network):
    turned = [(pixels.flip(0), seen.flip(0), day, about) for pixels, seen, day, about in parcels()]
    with torch.no_grad():
        torch.testing.assert_close(
            network(*batch_of(turned)), network(*batch_of(parcels())), rtol=1e-4, atol=1e-5
        )  # fmt: skip


def test_the_date_of_an_image_matters(network):
    later = [(pixels, seen, day + 40, about) for pixels, seen, day, about in parcels()]
    with torch.no_grad():
        assert not torch.allclose(network(*batch_of(later)), network(*batch_of(parcels())), atol=1e-3)


@pytest.mark.parametrize("kind", ["pse_tae", "pse_ltae"])
@pytest.mark.parametrize("years", [-1, 0, 1, 5])
def test_a_series_may_be_counted_from_any_year(kind, years):
    given = [(pixels, seen, 380 + 17 * torch.arange(len(day)), about) for pixels, seen, day, about in parcels()]
    other = [(pixels, seen, day + YEAR * years, about) for pixels, seen, day, about in given]
    plain = made(kind)
    network = ParcelNetwork(BANDS, GEOMETRY, CLASSES, params_of(kind), middle=430.0).eval()
    network.load_state_dict(plain.state_dict())
    with torch.no_grad():
        expected = plain(*batch_of(given))
        torch.testing.assert_close(network(*batch_of(other, more=3)), expected, rtol=1e-4, atol=1e-5)


def test_days_are_moved_as_those_of_the_baselines():
    generator = np.random.default_rng(4)
    for middle in (17.0, 400.5):
        for length in (1, 3, 7):
            days = np.sort(generator.integers(1, 2500, (19, length)), axis=1)
            padded = torch.from_numpy(np.pad(days, ((0, 0), (0, 2))))
            expected = days + YEAR * np.array([[years_apart(one, np.array([middle, middle]))] for one in days])
            np.testing.assert_array_equal(moved(padded, middle)[:, :length], expected)
            assert np.abs(expected[:, [0, -1]].mean(axis=1) - middle).max() <= YEAR / 2


def test_training_normalises_over_seen_pixels_alone():
    """Rows of the padding would move running means."""
    states = []
    for more in (0, 5):
        encoder = made("pse_tae").pixels.train()
        values, seen, _, _, geometry = batch_of(parcels(), more=more)
        encoder(values, seen, geometry)
        states.append({name: value for name, value in encoder.state_dict().items() if "running" in name})
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_row_norm_is_torchs_batch_norm():
    torch.manual_seed(0)
    ours, theirs, x = RowNorm(3), torch.nn.BatchNorm1d(3), 5 + 2 * torch.randn(7, 3)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_alike_pixels_and_single_ones_have_a_gradient():
    vectors = torch.ones(3, 2, requires_grad=True)
    mean, deviation = pooled_over(vectors, torch.tensor([0, 0, 2]), torch.tensor([2, 0, 1]))
    (mean.sum() + deviation.sum()).backward()
    assert torch.isfinite(vectors.grad).all()
    assert deviation.max() < 1e-5
    torch.testing.assert_close(mean[1], torch.zeros(2))


def test_a_parcel_that_was_never_seen_gives_numbers(network):
    values, seen, day, valid, geometry = batch_of(parcels())
    seen, valid = seen.clone(), valid.clone()
    seen[1], valid[1] = False, False
    with torch.no_grad():
        assert torch.isfinite(network(values, seen, day, valid, geometry)).all()
