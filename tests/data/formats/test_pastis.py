"""Published PASTIS: every patch against numpy and json alone; every kind of damage named; the real metadata."""

import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from builders import write_pastis
from locations import REAL as REAL_FILES

from cluemap.data.formats.pastis import CLASSES, open_pastis
from cluemap.data.formats.pastis_metadata import days_of_year, read_metadata
from cluemap.data.patches import checked
from cluemap.errors import DataError, ParamsError

REAL = REAL_FILES / "pastis"
real = pytest.mark.skipif(not REAL.exists(), reason=f"no real PASTIS files at {REAL}")
FOLDS = {10007: 1, 10002: 2, 30000: 4}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_pastis(tmp_path / "PASTIS", FOLDS, size=30, dates=[5, 7, 3])


def change_metadata(root: Path, change) -> None:
    content = json.loads((root / "metadata.geojson").read_text())
    change({feature["properties"]["ID_PATCH"]: feature["properties"] for feature in content["features"]})
    (root / "metadata.geojson").write_text(json.dumps(content))


def test_patches_are_the_files_in_the_order_of_their_ids(root):
    reader = open_pastis(root, "all")
    patches = list(reader)
    assert [patch.name for patch in patches] == ["10002", "10007", "30000"]
    assert len(reader) == 3
    for patch in patches:
        target = np.load(root / "ANNOTATIONS" / f"TARGET_{patch.name}.npy")[0]
        np.testing.assert_array_equal(patch.images, np.load(root / "DATA_S2" / f"S2_{patch.name}.npy"))
        np.testing.assert_array_equal(patch.labels, np.where(target == 19, 255, target))
        assert (target == 19).any()
        assert (patch.fold, patch.split, patch.tile) == (FOLDS[int(patch.name)], None, "t30uxv")
        assert patch.images.dtype == patch.days.dtype == np.int16
        assert patch.labels.dtype == np.uint8
    assert reader.legend.class_names[:2] == ("meadow", "soft winter wheat")
    assert len(reader.legend.classes) == 18
    assert reader.legend.background
    assert len({crop.colour for crop in CLASSES}) == len(CLASSES) == 20


@pytest.mark.parametrize("as_string", [False, True])
def test_days_follow_the_dates_in_the_order_of_their_numbers(tmp_path, as_string):
    root = write_pastis(tmp_path, {10000: 1}, size=12, dates=13, dates_as_string=as_string)
    properties = json.loads((root / "metadata.geojson").read_text())["features"][0]["properties"]
    dates = properties["dates-S2"]
    dates = json.loads(dates) if as_string else dates
    numbers = [str(dates[str(i)]) for i in range(13)]  # "10" comes after "9", not after "1"
    expected = [(date(int(n[:4]), int(n[4:6]), int(n[6:])) - date(int(n[:4]), 1, 1)).days + 1 for n in numbers]
    patch = open_pastis(root, "all").read(0)
    np.testing.assert_array_equal(patch.days, expected)
    assert patch.year == int(numbers[6][:4])  # of the middle date


def test_the_year_is_that_of_the_middle_date(root):
    dates = {"0": 20180924, "2": 20190601, "10": 20190901, "1": 20181230, "3": 20190807}
    for given in (dates, json.dumps(dates)):
        change_metadata(root, lambda patches, given=given: patches[10002].update({"dates-S2": given}))
        assert open_pastis(root, "all").years[0] == 2019


def test_listed_classes_become_1_to_k_in_their_order(tmp_path):
    root = write_pastis(tmp_path, {10000: 1}, size=30, classes=(1, 4, 9))
    reader = open_pastis(root, [9, 1, 4])
    labels, target = reader.read(0).labels, np.load(root / "ANNOTATIONS" / "TARGET_10000.npy")[0]
    assert set(np.unique(target)) == {0, 1, 4, 9, 19}
    for row, column in np.ndindex(target.shape):
        assert labels[row, column] == {0: 0, 9: 1, 1: 2, 4: 3, 19: 255}[int(target[row, column])]
    assert reader.legend.class_names == ("beet", "meadow", "winter barley")


def test_a_label_map_without_channels_is_read_too(root):
    path = root / "ANNOTATIONS" / "TARGET_10002.npy"
    target = np.load(path)
    before = open_pastis(root, "all").read(0).labels
    np.save(path, target[0])
    np.testing.assert_array_equal(open_pastis(root, "all").read(0).labels, before)


def test_the_unpacked_archive_is_found_one_folder_down(root):
    assert len(open_pastis(root.parent, "all")) == 3


def test_corner_and_pixel_come_from_the_outline(root):
    patch = open_pastis(root, "all").read(1)  # 10007, the first feature of the file
    assert patch.corner == (400000.0, 6900000.0)
    assert (patch.crs, patch.pixel) == ("EPSG:2154", 10.0)


@pytest.mark.parametrize("classes", [[1, 1], [0, 1], [19], [25], []])
def test_impossible_classes_are_refused(root, classes):
    with pytest.raises(ParamsError, match=r"`pastis.source.classes`"):
        open_pastis(root, classes)


# ------------------------------------------------------------------ bad input


def test_an_empty_root_says_where_it_looked(tmp_path):
    with pytest.raises(DataError, match=rf"no PASTIS under {tmp_path}.*PASTIS.*zenodo.*`datasets.pastis`"):
        open_pastis(tmp_path, "all")


@pytest.mark.parametrize("name", ["DATA_S2/S2_10007.npy", "ANNOTATIONS/TARGET_10007.npy"])
def test_a_missing_file_is_named_with_the_root(root, name):
    (root / name).unlink()
    with pytest.raises(DataError, match=rf"{name} is missing.*searched under {root}.*unpack"):
        open_pastis(root, "all")


@pytest.mark.parametrize("name", ["DATA_S2/S2_10002.npy", "ANNOTATIONS/TARGET_10002.npy"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.6])
def test_a_truncated_file_is_named(root, name, share):
    content = (root / name).read_bytes()
    (root / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=rf"{name} cannot be read.*fetch"):
        open_pastis(root, "all").read(0)


def test_a_pickled_npy_is_not_run(root):
    np.save(root / "DATA_S2" / "S2_10002.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(DataError, match=r"S2_10002.npy cannot be read"):
        open_pastis(root, "all").read(0)


def images(root):
    return np.load(root / "DATA_S2" / "S2_10002.npy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a[:, :9], r"9 bands, not the 10 .*B02"),
        (lambda a: a.astype(np.float32), r"are float32, not int16.*convert to int16"),
        (lambda a: np.where(a < 2000, np.nan, a).astype(np.float32), r"are float32 with \d+ NaN values, not int16"),
        (lambda a: a.astype(np.uint16), r"are uint16, not int16"),
        (lambda a: a[0], r"shape \(10, 30, 30\)"),
        (lambda a: a[:0], r"shape \(0, 10, 30, 30\)"),
        (lambda a: a[:-1], r"6 dates of images but 7 days for patch 10002"),
        (lambda a: np.full_like(a, -10000), r"no pixel of patch 10002 was ever seen"),
        (lambda a: a[..., :-1], r"labels of patch 10002 are uint8 \(30, 30\)"),
    ],
)
def test_wrong_images_are_named(root, change, message):
    np.save(root / "DATA_S2" / "S2_10002.npy", change(images(root)))
    with pytest.raises(DataError, match=rf"S2_10002.npy: .*{message}"):
        open_pastis(root, "all").read(0)


@pytest.mark.parametrize(("number", "found"), [(7, r"7 \(sunflower\)"), (77, "77")])
def test_a_label_outside_the_class_list_is_named(root, number, found):
    path = root / "ANNOTATIONS" / "TARGET_10002.npy"
    target = np.load(path)
    target[0, 4, 5] = number
    np.save(path, target)
    with pytest.raises(
        DataError, match=rf"TARGET_10002.npy: label id {found} is not in the class list.*source.classes"
    ):
        open_pastis(root, [1, 2, 3]).read(0)


def test_a_crop_left_out_of_the_class_list_is_named(root):
    with pytest.raises(DataError, match=r"TARGET_\d+.npy: label id 2 \(soft winter wheat\)"):
        list(open_pastis(root, [1, 3]))


def test_labels_of_a_wrong_kind_are_named(root):
    np.save(root / "ANNOTATIONS" / "TARGET_10002.npy", np.zeros((3, 30, 30), np.float32))
    with pytest.raises(DataError, match=r"TARGET_10002.npy: labels are float32"):
        open_pastis(root, "all").read(0)


def test_a_patch_without_dates_is_named(root):
    change_metadata(root, lambda patches: patches[30000].pop("dates-S2"))
    with pytest.raises(DataError, match=r'metadata.geojson: patch 30000 has no "dates-S2"'):
        open_pastis(root, "all")


@pytest.mark.parametrize("dates", ["{", {"0": 20181340}, {"first": 20181001}])
def test_dates_that_are_none_are_named(root, dates):
    change_metadata(root, lambda patches: patches[30000].update({"dates-S2": dates}))
    with pytest.raises(DataError, match=r"metadata.geojson.*patch 30000"):
        open_pastis(root, "all")


@pytest.mark.parametrize(("key", "value"), [("Fold", 6), ("Fold", None), ("ID_PATCH", "x"), ("ID_PATCH", 10002)])
def test_metadata_that_cannot_be_are_named(root, key, value):
    change_metadata(root, lambda patches: patches[30000].update({key: value}))
    with pytest.raises(DataError, match=r"metadata.geojson"):
        open_pastis(root, "all")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"features": []}'])
def test_metadata_that_is_no_collection_is_named(root, content):
    (root / "metadata.geojson").write_text(content)
    with pytest.raises(DataError, match=r"metadata.geojson is n"):
        open_pastis(root, "all")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fold": None}, "either a fold or a split, found None and None"),
        ({"split": "train"}, "either a fold or a split, found 2 and train"),
        ({"fold": 0}, "in fold 0, not 1 to 5"),
        ({"fold": None, "split": "holdout"}, "in split 'holdout'"),
        ({"days": np.array([0, 1, 2, 3, 4, 5, 6], np.int16)}, "day 0 of patch"),
        ({"days": np.array([1, 2, 3, 4, 5, 6, 367], np.int16)}, "day 367 of patch"),
        ({"days": np.arange(1, 8)}, "days of patch 10002 are int64"),
        ({"labels": np.full((30, 30), 19, np.uint8)}, "label 19 of patch 10002 is neither 0..18 nor 255"),
        ({"labels": np.zeros((30, 30), np.int64)}, "labels of patch 10002 are int64"),
    ],
)
def test_whatever_a_reader_makes_is_checked(root, change, message):
    reader = open_pastis(root, "all")
    with pytest.raises(DataError, match=rf"S2_10002.npy: .*{message}"):
        checked(replace(reader.read(0), **change), reader.legend)


def test_without_a_background_class_0_is_no_label(root):
    reader = open_pastis(root, "all")
    with pytest.raises(DataError, match=r"label 0 of patch 10002 is neither 1..18 nor 255"):
        checked(reader.read(0), replace(reader.legend, background=False))


# ------------------------------------------------------------------ the real files


@real
def test_real_metadata():
    entries = read_metadata(REAL / "metadata.geojson")
    assert list(entries) == ["10000", "10001", "10002", "10003", "10004", "10005", "10006", "10007", "10009"]
    assert [entry.fold for entry in entries.values()] == [1, 2, 4, 5, 4, 3, 3, 1, 3]
    for entry in entries.values():
        days = days_of_year(REAL / "metadata.geojson", entry)
        assert len(days) == 43
        assert (days[0], days[-1]) == (267, 292)  # 2018-09-24, 2019-10-19
        assert entry.tile == "t30uxv"


@real
def test_real_outlines_are_squares_of_the_utm_grid():
    """128 px of 10 m whose corners lie 20 m x n apart; in the file's own CRS the squares are turned by 4 degrees."""
    places = [entry.place for entry in read_metadata(REAL / "metadata.geojson").values()]
    assert {(place.crs, place.side) for place in places} == {("EPSG:32630", 1280.0)}
    apart = np.array([place.corner for place in places]) - places[0].corner
    np.testing.assert_allclose(apart / 1280, np.round(apart / 1280), atol=1e-4)
    assert places[0].corner == pytest.approx((624892.36, 5499520.62), abs=0.01)


@real
def test_real_fold_and_normalisation_files_agree_with_the_split():
    norm = json.loads((REAL / "NORM_S2_patch.json").read_text())
    assert sorted(norm) == [f"Fold_{fold}" for fold in range(1, 6)]
    for fold in norm.values():
        assert len(fold["mean"]) == len(fold["std"]) == 10
        assert 500 < min(fold["mean"]) < max(fold["mean"]) < 5000
