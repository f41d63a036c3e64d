"""A map of three genuine Sentinel-2 products with default settings."""

import numpy as np
import pytest
import rasterio
from locations import REAL
from random_segmenter import write_model
from scenes import BANDS, write_scene

from cluemap.mapping.map_products import Order, make_map

PRODUCTS = sorted((REAL / "safe").glob("*.SAFE"))


@pytest.mark.slow
@pytest.mark.skipif(not PRODUCTS, reason="the genuine products are not in this checkout (shared/real/safe)")
def test_a_map_of_genuine_products(tmp_path, monkeypatch):
    monkeypatch.setenv("CLUEMAP_DEVICE", "cpu")
    (tmp_path / "images").mkdir()
    for product in PRODUCTS:
        (tmp_path / "images" / product.name).symlink_to(product)
    write_scene(tmp_path, {"kind": "safe", "path": "images"}, labels=None, classes=None)
    model = write_model(tmp_path / "model.safetensors", BANDS, 24)
    make_map(Order(str(model), tmp_path, tmp_path / "map.tif"), progress=False)
    with rasterio.open(tmp_path / "map.tif") as found:
        assert found.shape == (353, 232)
        assert (found.bounds.left, found.bounds.top, found.crs) == (523560.0, 4832780.0, "EPSG:32631")
        classes = found.read(1)
    assert (classes != 255).mean() > 0.9
    assert set(np.unique(classes)) <= {0, 1, 2, 3, 255}
