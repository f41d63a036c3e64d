"""A parcel network that stands on its own says what the pipeline's says, whatever fills up."""

import numpy as np
import pytest
import torch
from parcel_models import SCALING, TEMPERATURE, write_parcel_model

from cluemap.data.patches import NODATA
from cluemap.model.storage.exported_parcels import FromRawParcels, export_parcels
from cluemap.model.storage.parcel_models import FILE, load_parcel_model

PARCELS, PIXELS, DATES = 5, 7, 11


@pytest.fixture
def raw():
    """Parcels of 1 to 7 pixels and 5 to 11 dates; what fills up is NODATA and day 0; and what was not seen."""
    generator = np.random.default_rng(1)
    pixels = generator.integers(200, 2000, (PARCELS, PIXELS, DATES, 3)).astype(np.int16)
    days = np.sort(generator.integers(1, 400, (PARCELS, DATES)), axis=1).astype(np.int16)
    pixels[generator.random((PARCELS, PIXELS, DATES)) < 0.3] = NODATA
    pixels[2, :, 3] = NODATA  # a date on which nothing was seen
    for row, (size, length) in enumerate(((7, 11), (1, 9), (4, 5), (2, 11), (7, 6))):
        pixels[row, size:], pixels[row, :, length:], days[row, length:] = NODATA, NODATA, 0
    pixels[1, 0, 4] = 700
    return pixels, days, generator.normal(1, 1, (PARCELS, 4)).astype(np.float32)


def of_pipeline(model, pixels, days, geometry):
    """The network as `Loading` and `predict` call it."""
    seen = (pixels != NODATA).all(axis=3)
    mean, std, middle, spread = (np.array(values) for values in SCALING.values())
    images = np.where(seen[..., None], (pixels - mean) / std, 0).astype(np.float32)
    about = ((geometry - middle) / spread).astype(np.float32)
    given = (images, seen, days.astype(np.int64), seen.any(axis=1), about)
    with torch.no_grad():
        return (model.network(*map(torch.from_numpy, given)) / TEMPERATURE).softmax(dim=1).numpy()


@pytest.mark.parametrize("kind", ["pse_tae", "pse_ltae"])
def test_in_full_and_masked_it_says_the_same(tmp_path, raw, kind):
    write_parcel_model(tmp_path, kind)
    model = load_parcel_model(tmp_path / FILE)
    with torch.no_grad():
        found = FromRawParcels(model)(*map(torch.from_numpy, raw)).numpy()
    np.testing.assert_allclose(found, of_pipeline(model, *raw), atol=1e-6)
    assert np.ptp(found, axis=0).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pse_tae", "pse_ltae"])
def test_the_archive_takes_any_number_of_parcels_pixels_and_dates(tmp_path, raw, kind):
    write_parcel_model(tmp_path, kind)
    model = export_parcels(tmp_path / FILE, tmp_path / "parcels.pt2")
    network = torch.export.load(tmp_path / "parcels.pt2").module()
    for part in (slice(None), slice(1, 2)):
        given = [values[part] for values in raw]
        with torch.no_grad():
            found = network(*map(torch.from_numpy, given)).numpy()
        np.testing.assert_allclose(found, of_pipeline(model, *given), atol=1e-6)
