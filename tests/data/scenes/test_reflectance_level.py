"""Values that can be no reflectance are refused by every tool, with the scale that would do."""

from types import SimpleNamespace

import numpy as np
import pytest
from scenes import write_raster, write_scene
from test_label_files import PARAMS, SPLIT, fields

from cluemap.data.scenes.reflectance import places
from cluemap.data.scenes.scene_reader import open_scene
from cluemap.errors import DataError
from cluemap.mapping.inspection.scene_inspection import inspect


def scene(root, values, **images):
    write_raster(root / "images" / "2019-05-01.tif", values, names=("B04", "B03", "B02"))
    fields().to_file(root / "fields.gpkg")
    images = {"kind": "files", "path": "images", "bands": ["B04", "B03", "B02"], **images}
    labels = {"kind": "polygons", "file": "fields.gpkg", "column": "crop"}
    return write_scene(root, images, labels=labels, classes=[{"name": "corn"}, {"name": "wheat"}], split=SPLIT)


def values(scale, dtype):
    return (np.random.default_rng(0).uniform(0.02, 0.4, (3, 60, 72)) * scale).astype(dtype)


@pytest.mark.parametrize(
    ("scale", "dtype", "images", "hint"),
    [
        (1.0, np.float32, {}, ", 1 would do"),
        (10_000, np.uint16, {"scale": 1.0}, ", 0.0001 would do"),
        (100, np.float32, {}, ", 0.01 would do"),
        (200, np.uint8, {}, "8-bit values"),
    ],
)
def test_impossible_levels(tmp_path, scale, dtype, images, hint):
    root = scene(tmp_path, values(scale, dtype), **images)
    with pytest.raises(DataError, match=hint):
        open_scene(root, PARAMS)
    if dtype != np.uint8:
        assert any(hint in text for text in inspect(root, PARAMS, False).errors)


def test_the_scale_that_is_advised_does(tmp_path):
    given = values(1.0, np.float32)
    reader = open_scene(scene(tmp_path, given, scale=1.0), PARAMS)
    found = reader.imagery.read(slice(0, 60), slice(0, 72))[0]
    np.testing.assert_array_equal(found, np.rint(given.astype(float) * 10_000))


def test_a_small_grid_is_looked_at_whole_and_a_large_one_in_pieces_spread_over_it():
    def seen(height, width):
        found = np.zeros((height, width), int)
        for place in places(SimpleNamespace(grid=SimpleNamespace(height=height, width=width))):
            found[place] += 1
        return found

    assert (seen(23, 192) == 1).all()
    assert (seen(192, 193) == 1).sum() == 9 * 32 * 32
    found = seen(30, 509)
    assert (found.sum(), found.max(), found[:, :127].sum(), found[:, 382:].sum()) == (3 * 30 * 32, 1, 30 * 8, 30 * 7)
