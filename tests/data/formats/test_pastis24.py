"""PASTIS24 pickles: the real ones against plain pickle, made ones in every layout, hostile ones refused unrun."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from builders import feature, write_pastis24
from locations import REAL as REAL_FILES

from cluemap.data.formats.pastis24 import open_pastis24
from cluemap.data.formats.restricted_pickle import load_pickle
from cluemap.errors import DataError

REAL = REAL_FILES / "pastis24"
real = pytest.mark.skipif(not REAL.exists(), reason=f"no real PASTIS24 pickles at {REAL}")
NAMES = ("10005_3", "10005_12", "10013_0", "10100_24", "20003_7", "30001_5")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_pastis24(tmp_path / "PASTIS24", NAMES)


def write_folds(folder: Path, folds: dict[int, list[str]]) -> None:
    folder.mkdir(exist_ok=True)
    for fold in range(1, 6):
        lines = [f"pickle24x24/{name}.pickle\n" for name in folds.get(fold, [])]
        (folder / f"fold_{fold}_paths.csv").write_text("".join(lines))


# ------------------------------------------------------------------ the real files


@real
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_real_pickles_are_read_as_pickle_reads_them():
    reader = open_pastis24(REAL, "all", "by_patch")
    assert len(reader) == 9
    for patch in reader:
        path = REAL / f"{patch.name}_{patch.first_window}.pickle"
        content = pickle.loads(path.read_bytes())
        np.testing.assert_array_equal(patch.images, content["img"])
        np.testing.assert_array_equal(patch.days, content["doy"])
        np.testing.assert_array_equal(patch.labels, np.where(content["labels"][0] == 19, 255, content["labels"][0]))
        assert patch.source == path
        assert patch.offset == (24 * (patch.first_window // 5), 24 * (patch.first_window % 5))


@real
def test_real_pickles_hold_what_is_known_of_them():
    patches = {f"{patch.name}_{patch.first_window}": patch for patch in open_pastis24(REAL, "all", "by_patch")}
    assert sorted({len(patch.days) for patch in patches.values()}) == [38, 43, 46, 61]
    ids = set(np.unique(np.concatenate([patch.labels.ravel() for patch in patches.values()])).tolist())
    assert ids >= {0, 1, 2, 3, 5, 7, 8, 9, 11, 12, 13, 14, 15, 18, 255} - {13}
    first = patches["20006_0"]
    assert first.days[-1] == 365
    assert (first.images == -10000).all(axis=(1, 2, 3)).sum() == 1


@real
def test_real_pickles_of_another_class_list_are_refused_by_name():
    with pytest.raises(DataError, match=r"10110_15.pickle: label id 9 \(beet\) is not in the class list"):
        open_pastis24(REAL, [1, 2, 3], "by_patch").read(0)


# ------------------------------------------------------------------ layouts and folds


def test_windows_come_in_the_order_of_patch_and_number(root):
    patches = list(open_pastis24(root, [1, 2, 3], "by_patch"))
    assert [(patch.name, patch.first_window) for patch in patches] == [
        *(("10005", 3), ("10005", 12), ("10013", 0), ("10100", 24), ("20003", 7), ("30001", 5))
    ]
    assert [patch.fold for patch in patches] == [1, 1, 2, 3, 4, 5]
    assert patches[1].offset == (48, 48)
    assert patches[0].corner is None


def test_pickles_in_their_own_folder_are_found(root):
    (root / "pickle24x24").mkdir()
    for path in root.glob("*.pickle"):
        path.rename(root / "pickle24x24" / path.name)
    assert len(open_pastis24(root, "all", "by_patch")) == 6


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_way_of_pickling_arrays_is_read(tmp_path, protocol, order):
    arrays = {
        "img": np.asarray(np.random.default_rng(0).integers(-99, 9999, (5, 10, 24, 24)), np.int16, order=order),
        "labels": np.ones((24, 24), np.uint8),
        "doy": np.array([7, 7, 5, 300, 6]),  # a day twice, unsorted
        "cls_labels": np.zeros(18, np.uint8),
        "big": np.arange(5, dtype=">i4"),
        "flag": np.array([True, False]),
        "scalar": np.float32(2.5),
        "names": ["a", ("b", 1)],
    }
    path = tmp_path / "10005_3.pickle"
    path.write_bytes(pickle.dumps(arrays, protocol=protocol))
    found = load_pickle(path)
    assert found.pop("names") == arrays.pop("names")
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    np.testing.assert_array_equal(open_pastis24(tmp_path, "all", "by_patch").read(0).days, arrays["doy"])


@pytest.mark.parametrize("inside", ["fold-paths", "."])
def test_fold_files_say_which_windows_and_which_fold(root, inside):
    write_folds(root / inside, {1: ["10005_3", "30001_5"], 3: ["10013_0"], 5: ["20003_7"]})
    patches = list(open_pastis24(root, "all", "fold_paths"))
    assert {f"{patch.name}_{patch.first_window}": patch.fold for patch in patches} == {
        **{"10005_3": 1, "30001_5": 1, "10013_0": 3, "20003_7": 5}
    }


def test_fold_files_written_on_windows(root):
    """Line ends, backslashes and the mark that Notepad puts in front."""
    write_folds(root / "fold-paths", {1: ["10005_3", "30001_5"], 3: ["10013_0"]})
    for file in (root / "fold-paths").iterdir():
        text = file.read_text().replace("/", "\\").replace("\n", "\r\n")
        file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    patches = list(open_pastis24(root, "all", "fold_paths"))
    assert {f"{patch.name}_{patch.first_window}": patch.fold for patch in patches} == {
        **{"10005_3": 1, "30001_5": 1, "10013_0": 3}
    }


def test_a_fold_file_naming_a_missing_window_is_named(root):
    write_folds(root / "fold-paths", {1: ["10005_3"], 2: ["10013_0", "10013_1"]})
    with pytest.raises(DataError, match=r"fold_2_paths.csv, line 2: window pickle24x24/10013_1.pickle is missing"):
        open_pastis24(root, "all", "fold_paths")


def test_a_window_in_two_folds_is_named(root):
    write_folds(root / "fold-paths", {1: ["10005_3"], 4: ["10005_3"]})
    with pytest.raises(DataError, match=r"fold_4_paths.csv, line 1: window 10005_3 is in fold 1 too"):
        open_pastis24(root, "all", "fold_paths")


def test_a_missing_fold_file_is_named_with_the_other_ways(root):
    write_folds(root / "fold-paths", {1: ["10005_3"]})
    (root / "fold-paths" / "fold_3_paths.csv").unlink()
    with pytest.raises(DataError, match=r"fold_3_paths.csv is missing .*`pastis24.source.folds`.*by_patch"):
        open_pastis24(root, "all", "fold_paths")


@pytest.mark.parametrize("inside", [".", ".."])
def test_metadata_give_fold_tile_and_place(root, inside):
    folds = {10005: 2, 10013: 1, 10100: 5, 20003: 4, 30001: 3}
    features = [feature(patch, fold, [1], 128, i, False) for i, (patch, fold) in enumerate(folds.items())]
    features[0]["properties"]["dates-S2"] = {"0": 20181201, "1": 20190401, "2": 20190801}
    del features[4]["properties"]["dates-S2"]
    (root / inside / "metadata.geojson").write_text(json.dumps({"features": features}))
    patches = list(open_pastis24(root, "all", "metadata"))
    assert [patch.fold for patch in patches] == [2, 2, 1, 5, 4, 3]
    assert (patches[0].year, patches[5].year) == (2019, None)
    assert patches[1].corner == (400000.0 + 480, 6900000.0 - 480)  # window 12: row 2, column 2
    assert (patches[0].tile, patches[0].crs, patches[0].pixel) == ("t30uxv", "EPSG:2154", 10.0)


@pytest.mark.parametrize("named", ["urn:ogc:def:crs:EPSG::4326", "EPSG:1"])  # metres as degrees; no such system
def test_a_crs_that_cannot_be_that_of_the_outlines_costs_no_patch(root, named):
    features = [feature(patch, 1, [1], 128, 0, False) for patch in (10005, 10013, 10100, 20003, 30001)]
    content = {"crs": {"properties": {"name": named}}, "features": features}
    (root / "metadata.geojson").write_text(json.dumps(content))
    assert len(list(open_pastis24(root, "all", "metadata"))) == 6


def test_metadata_without_a_patch_or_without_a_file_are_named(root):
    with pytest.raises(DataError, match=rf"no metadata.geojson in {root} .*fold_paths or by_patch"):
        open_pastis24(root, "all", "metadata")
    (root / "metadata.geojson").write_text(json.dumps({"features": [feature(10005, 1, [1], 128, 0, False)]}))
    with pytest.raises(DataError, match=r"\.pickle: metadata.geojson does not know patch \d+"):
        open_pastis24(root, "all", "metadata")


def test_an_empty_root_says_where_it_looked(tmp_path):
    with pytest.raises(DataError, match=rf"no PASTIS24 under {tmp_path}.*pickle24x24.*`datasets.pastis24`"):
        open_pastis24(tmp_path, "all", "by_patch")


# ------------------------------------------------------------------ bad pickles


class Foreign:
    """Runs a command when it is unpickled by anything that trusts it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_foreign_global_is_refused_and_not_run(tmp_path, protocol):
    path, marker = tmp_path / "10005_3.pickle", tmp_path / "ran"
    path.write_bytes(pickle.dumps({"img": Foreign(marker)}, protocol=protocol))
    with pytest.raises(DataError, match=r"10005_3.pickle was refused, it holds the foreign global \w+.system"):
        load_pickle(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "payload",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nfromfile\n.",
        b"cnumpy._core\nmultiarray._reconstruct\n.",
        b"(S'x'\nicollections\nCounter\n.",
    ],
)
def test_other_globals_are_refused(tmp_path, payload):
    path = tmp_path / "10005_3.pickle"
    path.write_bytes(payload)
    with pytest.raises(DataError, match=r"10005_3.pickle was refused, it holds the foreign global"):
        load_pickle(path)


def test_arrays_of_objects_are_refused(tmp_path):
    path = tmp_path / "10005_3.pickle"
    path.write_bytes(pickle.dumps({"img": np.array([{}, []], object)}))
    with pytest.raises(DataError, match=r"was refused, it holds an array of type 'O8'"):
        load_pickle(path)


def test_mutated_pickles_are_read_or_named(root):
    """Flipped bytes and cut ends: a dict or the project's error, never another one."""
    generator = np.random.default_rng(0)
    path = root / "10005_3.pickle"
    whole = path.read_bytes()
    refused = 0
    for trial in range(300):
        content = bytearray(whole if trial % 3 else whole[: int(generator.integers(len(whole)))])
        heads = [generator.integers(min(250, len(content))), generator.integers(len(content))] if content else []
        for position in heads:
            content[position] ^= 1 << int(generator.integers(8))
        path.write_bytes(content)
        try:
            load_pickle(path)
        except DataError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1, 2]), pickle.dumps({"img": 1})])
def test_a_pickle_of_something_else_is_named(root, content):
    (root / "10005_3.pickle").write_bytes(content)
    with pytest.raises(DataError, match=r"10005_3.pickle"):
        open_pastis24(root, "all", "by_patch").read(0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"doy": np.array([1, 2, 3])}, "7 dates of images but 3 days"),
        ({"doy": np.array([0, 1, 2, 3, 4, 5, 6])}, "days of the year 1..366"),
        ({"doy": np.arange(1.0, 8.0)}, "float64"),
        ({"img": np.zeros((7, 9, 24, 24), np.int16)}, "9 bands"),
        ({"img": np.zeros((7, 10, 24, 24), np.float64)}, "are float64, not int16"),
        ({"img": np.full((7, 10, 24, 24), np.nan, np.float32)}, "with 40320 NaN values"),
        ({"img": np.full((7, 10, 24, 24), -10000, np.int16)}, "was ever seen"),
        ({"labels": np.full((24, 24), 20, np.uint8)}, "label id 20 is not in the class list"),
        ({"labels": np.zeros((3, 12, 24), np.uint8)}, r"labels of patch 10005 are uint8 \(12, 24\)"),
        ({"labels": None}, "holds no array 'labels'"),
    ],
)
def test_wrong_content_is_named(tmp_path, changed, message):
    root = write_pastis24(tmp_path, ["10005_3"], **changed)
    with pytest.raises(DataError, match=rf"10005_3.pickle.*{message}"):
        open_pastis24(root, "all", "by_patch").read(0)
