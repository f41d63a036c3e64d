"""Images by a STAC catalogue, on this disk and over HTTP, and data cubes: the same values as the other forms give."""

import json

import numpy as np
import pytest
import range_server
from scenes import BANDS, CRSS, DATES, LEFT, TOP, make_region, write_folders, write_scene

from cluemap.data.scenes.imagery import open_imagery
from cluemap.data.scenes.scene_file import read_scene
from cluemap.errors import DataError

HEIGHT, WIDTH = 96, 120


@pytest.fixture(scope="module")
def region():
    return make_region()


def truth(region):
    hidden = (region.clouds == 3).repeat(2, 1).repeat(2, 2)
    return np.where(hidden[:, None], -10000, region.values)


def opened(root, kind, path, **images):
    write_scene(root, {"kind": kind, "path": path, **images}, labels=None)
    return open_imagery(root, read_scene(root))


def whole(imagery):
    return imagery.read(slice(0, imagery.grid.height), slice(0, imagery.grid.width))


# ------------------------------------------------------------------ STAC


@pytest.fixture
def log(tmp_path):
    return tmp_path / "asked.txt"


@pytest.fixture
def served(tmp_path, log):
    with range_server.served(tmp_path, log) as address:
        yield address


def items(base, **properties):
    """A search's result: one item a date, an asset a band; blue, green, red and SCL under their common names."""
    common = {"B02": "blue", "B03": "green", "B04": "red", "SCL": "scl"}
    features = []
    for day in DATES:
        assets = {
            common.get(band, band): {
                "href": f"{base}/{day.replace('-', '')}/{band}.tif",
                "raster:bands": [{"scale": 0.0001, "offset": 0.0}] if band != "SCL" else [{}],
            }
            for band in (*BANDS, "SCL")
        }
        features.append({
            "type": "Feature", "stac_version": "1.0.0", "id": f"S2_{day}", "geometry": None, "links": [],
            "properties": {"datetime": f"{day}T10:20:31Z", **properties}, "assets": assets, "stac_extensions": [],
        })  # fmt: skip
    return {"type": "FeatureCollection", "features": features}


@pytest.mark.parametrize("web", [False, True])
def test_items_here_and_on_the_web(region, tmp_path, served, log, web):
    pytest.importorskip("pystac")
    write_folders(tmp_path / "cogs", region)
    (tmp_path / "items.json").write_text(json.dumps(items(f"{served}/cogs" if web else "./cogs")))
    imagery = opened(tmp_path, "stac", "items.json")
    assert [str(day) for day in imagery.dates] == list(DATES)
    np.testing.assert_array_equal(whole(imagery), truth(region))
    asked = log.read_text().split()
    assert bool(asked) == web
    assert "whole" not in asked  # by ranges alone


def test_the_offset_of_items(region, tmp_path):
    """Of Earth Search, whose values are shifted back already; of a catalogue that tells the baseline alone."""
    pytest.importorskip("pystac")
    write_folders(tmp_path / "cogs", region)
    content = items("./cogs", **{"earthsearch:boa_offset_applied": True, "s2:processing_baseline": "05.00"})
    for feature in content["features"]:
        for asset in feature["assets"].values():
            asset["raster:bands"] = [{"scale": 0.0001, "offset": -0.1}]
    (tmp_path / "items.json").write_text(json.dumps(content))
    np.testing.assert_array_equal(whole(opened(tmp_path, "stac", "items.json")), truth(region))
    content = items("./cogs", **{"s2:processing_baseline": "05.00"})
    for feature in content["features"]:
        for asset in feature["assets"].values():
            del asset["raster:bands"]
    (tmp_path / "items.json").write_text(json.dumps(content))
    seen = whole(opened(tmp_path, "stac", "items.json"))
    np.testing.assert_array_equal(seen, np.where(truth(region) == -10000, -10000, truth(region) - 1000))


def test_items_that_cannot_be(tmp_path, served):
    pytest.importorskip("pystac")

    def refused(match, content):
        (tmp_path / "items.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match=match):
            opened(tmp_path, "stac", "items.json")

    refused("no STAC item collection", [1, 2])
    refused("holds no images", {"type": "FeatureCollection", "features": []})
    refused("cannot be read", items(f"{served}/nowhere"))


# ------------------------------------------------------------------ cubes


def cube_of(region, one_variable=True, upwards=False, crs=True):
    xarray = pytest.importorskip("xarray")
    values = region.values.astype(np.int16)
    y = TOP - 5 - 10.0 * np.arange(HEIGHT)
    mask = region.clouds.repeat(2, 1).repeat(2, 2)
    axes = ("time", "y", "x")
    coords = {"time": np.array(DATES, "datetime64[ns]"), "y": y, "x": LEFT + 5 + 10.0 * np.arange(WIDTH)}
    if one_variable:
        held = {"reflectance": (("time", "band", "y", "x"), values)}
        coords["band"] = list(BANDS)
    else:
        held = {band: (axes, values[:, number]) for number, band in enumerate(BANDS)}
    cube = xarray.Dataset({**held, "SCL": (axes, mask)}, coords, {"crs": CRSS[0]} if crs else {})
    return cube.isel(y=slice(None, None, -1)) if upwards else cube


@pytest.mark.parametrize("ending", ["nc", "zarr"])
@pytest.mark.parametrize("layout", ["one variable", "one variable a band", "upwards"])
def test_cubes(region, tmp_path, ending, layout):
    pytest.importorskip("zarr" if ending == "zarr" else "h5netcdf")
    cube = cube_of(region, layout != "one variable a band", layout == "upwards")
    file = tmp_path / f"cube.{ending}"
    cube.to_zarr(file) if ending == "zarr" else cube.to_netcdf(file, engine="h5netcdf")
    imagery = opened(tmp_path, "cube", file.name)
    assert (imagery.grid.left, imagery.grid.top, imagery.grid.height, imagery.grid.width) == (LEFT, TOP, HEIGHT, WIDTH)
    np.testing.assert_array_equal(whole(imagery), truth(region))
    np.testing.assert_array_equal(imagery.read(slice(7, 20), slice(90, 120)), truth(region)[:, :, 7:20, 90:])


def test_scaled_and_missing_values_of_a_cube(region, tmp_path):
    pytest.importorskip("h5netcdf")
    cube = cube_of(region)[["reflectance"]]
    real = cube["reflectance"].astype(float) / 10_000
    real[:, :, :5] = np.nan
    coding = {"scale_factor": 0.0001, "add_offset": -0.1, "dtype": "int16", "_FillValue": -32768}
    cube.assign(reflectance=real).to_netcdf(tmp_path / "cube.nc", engine="h5netcdf", encoding={"reflectance": coding})
    found = whole(opened(tmp_path, "cube", "cube.nc"))
    assert (found[:, :, :5] == -10000).all()
    np.testing.assert_array_equal(found[:, :, 5:], region.values[:, :, 5:])


def test_cubes_that_cannot_be(region, tmp_path):
    pytest.importorskip("h5netcdf")
    cube_of(region, crs=False).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with pytest.raises(DataError, match=r"names no CRS"):
        opened(tmp_path, "cube", "a.nc")
    cube_of(region).rename(time="when").to_netcdf(tmp_path / "b.nc", engine="h5netcdf")
    with pytest.raises(DataError, match=r"no dimension time"):
        opened(tmp_path, "cube", "b.nc")
    (tmp_path / "c.nc").write_bytes(b"CDF broken")
    with pytest.raises(DataError, match=r"c.nc is no data cube"):
        opened(tmp_path, "cube", "c.nc")
