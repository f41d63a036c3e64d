"""Images as archives hold them: of odd size, in parts, twice, zipped, in folders by date, in degrees, with tags."""

import shutil
import zipfile

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine
from scenes import BANDS, CRSS, DATES, LEFT, TOP, make_region, write_files, write_folders, write_raster, write_safe
from scenes import write_scene as describe

from cluemap.data.scenes.imagery import open_imagery
from cluemap.data.scenes.scene_file import read_scene
from cluemap.errors import DataError

FEW = DATES[:1]
HEIGHT, WIDTH = 96, 120


@pytest.fixture(scope="module")
def region():
    return make_region()


def opened(root, kind, **settings):
    grid = settings.pop("grid", None)
    describe(root, {"kind": kind, "path": "images", **settings}, labels=None, grid=grid)
    return open_imagery(root, read_scene(root))


def whole(imagery):
    return imagery.read(slice(0, imagery.grid.height), slice(0, imagery.grid.width))


def truth(region, dates=1):
    hidden = (region.clouds == 3).repeat(2, 1).repeat(2, 2)
    return np.where(hidden[:, None], -10000, region.values)[:dates]


def product_of(root):
    return next((root / "images").glob("*.SAFE"))


def cropped(file, rows, columns):
    with rasterio.open(file) as handle:
        values, pixel, crs = handle.read(1)[:rows, :columns], handle.transform.a, handle.crs
    file.unlink()
    write_raster(file, values, crs, pixel)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "coarse"), [(95, 48), (95, 47)])
def test_a_trim_of_odd_size_is_no_other_grid(region, tmp_path, height, coarse):
    """95 px at 10 m, 48 or 47 at 20 m: less than one coarse pixel apart."""
    write_safe(tmp_path / "images", region, dates=DATES)
    for file in (tmp_path / "images").rglob("*.jp2"):
        cropped(file, coarse if "20m" in file.name else height, WIDTH)
    imagery = opened(tmp_path, "safe")
    assert imagery.grid.height == min(height, 2 * coarse)
    ours, rows = whole(imagery), imagery.grid.height - 2  # the last rows of coarse bands are the edge's own
    np.testing.assert_array_equal(ours[:, :, :rows], truth(region, 3)[:, :, :rows])


def test_another_area_of_one_band_is_refused(region, tmp_path):
    write_safe(tmp_path / "images", region, dates=FEW)
    cropped(next((tmp_path / "images").rglob("*B05*")), 46, 60)
    with pytest.raises(DataError, match=r"B05.*lies on.*grid.resample"):
        opened(tmp_path, "safe")


def test_dates_that_show_less_land_are_no_data_there(region, tmp_path):
    write_files(tmp_path / "images", region)
    file = tmp_path / "images" / f"region_{DATES[1]}.tif"
    with rasterio.open(file) as handle:
        bands, names = handle.read()[:, 40:, :], handle.descriptions
    write_raster(file, bands, names=names, top=TOP - 400)
    imagery = opened(tmp_path, "files")
    assert (imagery.grid.height, imagery.grid.width) == (HEIGHT, WIDTH)
    expected = truth(region, 3).copy()
    expected[1, :, :40] = -10000
    np.testing.assert_array_equal(whole(imagery), expected)


def split_in_two(root, region, names):
    """Two products of one date: the upper part in the first, the lower in the second, a strip in both."""
    write_safe(root / "images", region, dates=FEW)
    first = product_of(root)
    second = shutil.copytree(first, first.with_name(names[1]))
    first.rename(first.with_name(names[0]))
    for product, empty in ((names[0], slice(60, None)), (names[1], slice(0, 48))):
        for file in (root / "images" / product).rglob("*.jp2"):
            with rasterio.open(file) as handle:
                values, pixel = handle.read(1), handle.transform.a
            scale = int(pixel / 10)
            stop = None if empty.stop is None else empty.stop // scale
            values[slice(empty.start // scale, stop)] = 0
            file.unlink()
            write_raster(file, values, CRSS[0], pixel)
    return second


NAMED = "S2A_MSIL2A_20190213T102031_N0500_R065_T32UQD_{}.SAFE"


def test_a_date_in_two_parts_is_joined(region, tmp_path):
    split_in_two(tmp_path, region, (NAMED.format("20190213T102031"), NAMED.format("20190213T110000")))
    imagery = opened(tmp_path, "safe")
    assert len(imagery.dates) == 1
    found, expected = whole(imagery)[0], truth(region)[0]
    seen = found != -10000
    assert seen.mean() > 0.97  # beside the cut, where coarse pixels end
    tens = [BANDS.index(band) for band in ("B02", "B03", "B04", "B08")]
    np.testing.assert_array_equal(found[tens][seen[tens]], expected[tens][seen[tens]])


def test_two_satellites_on_one_day_fill_each_other(region, tmp_path):
    write_safe(tmp_path / "images", region, dates=DATES[1:2])
    first = product_of(tmp_path)
    other = first.with_name(first.name.replace("S2A", "S2B").replace("T102031", "T101031"))
    shutil.copytree(first, other)
    for file in list(other.rglob("*.jp2")):
        file.rename(file.with_name(file.name.replace("T102031", "T101031")))
    clear = next(other.rglob("*SCL*"))
    clear.unlink()
    write_raster(clear, np.full((48, 60), 4, np.uint8), CRSS[0], 20)
    np.testing.assert_array_equal(whole(opened(tmp_path, "safe"))[0], region.values[0])  # clouds are filled


def test_of_a_reprocessed_product_the_higher_baseline_is_taken(region, tmp_path):
    write_safe(tmp_path / "images", region, dates=FEW)
    new = product_of(tmp_path)
    old = shutil.copytree(new, new.with_name(new.name.replace("N0500", "N0208").replace("S2A_", "S2A_", 1)))
    imagery = opened(tmp_path, "safe")
    np.testing.assert_array_equal(whole(imagery), truth(region))
    said = " ".join(imagery.notes)
    assert "05.00" in said
    assert old.name in said


def test_archives_in_folders_by_date_and_zipped(region, tmp_path):
    write_safe(tmp_path / "images", region, dates=DATES)
    first, second, third = sorted((tmp_path / "images").glob("*.SAFE"), key=lambda path: path.name)
    deep = tmp_path / "images" / "2019" / "02" / "13"
    deep.mkdir(parents=True)
    first.rename(deep / first.name)
    for product, top in ((second, second.name), (third, "")):  # with and without the .SAFE folder inside
        with zipfile.ZipFile(tmp_path / "images" / f"{product.stem}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for file in product.rglob("*"):
                archive.write(file, f"{top}/{file.relative_to(product)}" if top else file.relative_to(product))
        shutil.rmtree(product)
    imagery = opened(tmp_path, "safe")
    assert [str(day) for day in imagery.dates] == list(DATES)
    np.testing.assert_array_equal(whole(imagery), truth(region, 3))
    assert all(file.exists() for file in imagery.files)  # what a fingerprint looks at
    (tmp_path / "images" / f"{second.stem}.zip").write_bytes(b"PK broken")
    with pytest.raises(DataError, match="no whole zip archive"):
        opened(tmp_path, "safe")


def test_files_and_folders_by_date_are_found_below(region, tmp_path):
    write_files(tmp_path / "a" / "images" / "2019", region)
    np.testing.assert_array_equal(whole(opened(tmp_path / "a", "files")), truth(region, 3))
    write_folders(tmp_path / "b" / "images", region)
    for day in DATES:
        nested = tmp_path / "b" / "images" / day.replace("-", "/")
        nested.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "b" / "images" / day.replace("-", "")).rename(nested)
    imagery = opened(tmp_path / "b", "folders")
    assert [str(day) for day in imagery.dates] == list(DATES)
    np.testing.assert_array_equal(whole(imagery), truth(region, 3))


def test_files_that_macos_leaves_beside_others_are_no_images(region, tmp_path):
    for kind, write in (("safe", write_safe), ("files", write_files), ("folders", write_folders)):
        root = tmp_path / kind
        write(root / "images", region)
        for file in [path for path in (root / "images").rglob("*") if path.is_file()]:
            file.with_name(f"._{file.name}").write_bytes(b"\0\5\26\7")
        np.testing.assert_array_equal(whole(opened(root, kind)), truth(region, 3))


def test_images_in_degrees_are_read_as_the_messages_say(tmp_path):
    """Following them one by one ends in a scene."""
    values = np.random.default_rng(0).integers(500, 3000, (3, 80, 90)).astype(np.uint16)
    options = {"crs": "EPSG:4326", "names": ("B02", "B03", "B04"), "pixel": 1e-4, "left": 9.9, "top": 52.2}
    write_raster(tmp_path / "images" / "2019-05-01.tif", values, **options)
    settings = {"bands": ["B02", "B03", "B04"], "true_colour": ["B04", "B03", "B02"]}
    with pytest.raises(DataError, match=r"in degrees: set grid.crs: EPSG:32632 and grid.resample: true"):
        opened(tmp_path, "files", **settings)
    with pytest.raises(DataError, match=r"in degrees.*EPSG:32632"):
        opened(tmp_path, "files", grid={"resample": True}, **settings)
    imagery = opened(tmp_path, "files", grid={"crs": "EPSG:32632", "resample": True}, **settings)
    found = whole(imagery)
    assert imagery.grid.name == "EPSG:32632"
    assert imagery.grid.height == pytest.approx(80 * 1e-4 * 111_250 / 10, abs=4)
    assert 500 <= np.median(found[found != -10000]) <= 3000
    assert (found != -10000).mean() > 0.9


def test_an_l1c_product_is_no_date(region, tmp_path):
    write_safe(tmp_path / "images", region, dates=DATES[:2])
    first, second = sorted((tmp_path / "images").glob("*.SAFE"))
    for file in list(second.rglob("*.jp2")):
        if "SCL" in file.name:
            file.unlink()
        else:
            file.rename(file.with_name(file.name.replace("_10m", "").replace("_20m", "")))
    raw = second.rename(second.with_name(second.name.replace("MSIL2A", "MSIL1C")))
    imagery = opened(tmp_path, "safe")
    assert [str(day) for day in imagery.dates] == [DATES[0]]
    assert any("1 L1C products are left out" in text and raw.name in text for text in imagery.notes)
    shutil.rmtree(first)
    with pytest.raises(DataError, match=r"L1C products alone.*fetch L2A"):
        opened(tmp_path, "safe")


def test_scale_and_offset_tags_are_used(region, tmp_path):
    """As GDAL writes them for baseline 04.00 and later; images.scale and offset beat them."""
    file = write_raster(tmp_path / "images" / "2022-05-01.tif", (region.values[0, :3] + 1000).astype(np.uint16),
                        names=BANDS[:3])  # fmt: skip
    with rasterio.open(file, "r+") as handle:
        handle.scales, handle.offsets = (0.0001,) * 3, (-0.1,) * 3
    settings = {"bands": list(BANDS[:3]), "true_colour": list(BANDS[:3])}
    np.testing.assert_array_equal(whole(opened(tmp_path, "files", **settings))[0], region.values[0, :3])
    found = whole(opened(tmp_path, "files", scale=0.0001, offset=0.0, **settings))[0]
    np.testing.assert_array_equal(found, region.values[0, :3] + 1000)


def test_a_season_is_chosen(region, tmp_path):
    write_files(tmp_path / "images", region)
    imagery = opened(tmp_path, "files", season_start="2019-04-01")
    assert [str(day) for day in imagery.dates] == list(DATES[1:])
    assert any("1 of 3 images are not of the twelve months" in text for text in imagery.notes)
    with pytest.raises(DataError, match="season_start"):
        opened(tmp_path, "files", season_start="2021-04-01")


def test_bounds_off_the_images(region, tmp_path):
    write_files(tmp_path / "images", region)
    inside = opened(tmp_path, "files", grid={"bounds": [LEFT + 100, TOP - 500, LEFT + 600, TOP - 50]})
    np.testing.assert_array_equal(whole(inside), truth(region, 3)[:, :, 5:50, 10:60])
    with pytest.raises(DataError, match=r"grid.bounds .* lie off the images, which span"):
        opened(tmp_path, "files", grid={"bounds": [10.0, 52.0, 800.0, 900.0]})


def test_a_turned_image_is_resampled(region, tmp_path):
    file = write_raster(tmp_path / "images" / "2019-05-01.tif", region.values[0, :3].astype(np.uint16), names=BANDS[:3])
    with rasterio.open(file, "r+") as handle:
        handle.transform = Affine(9.0, 1.0, LEFT, 1.0, -9.0, TOP)
    settings = {"bands": list(BANDS[:3]), "true_colour": list(BANDS[:3])}
    with pytest.raises(DataError, match=r"turned.*grid.resample"):
        opened(tmp_path, "files", **settings)
    found = whole(opened(tmp_path, "files", grid={"resample": True}, **settings))
    assert (found != -10000).mean() > 0.5
