"""The Germany reader against a slow one that shares nothing with it, on the real tile and on written ones."""

import gzip
import math
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from locations import REAL as REAL_FILES

from cluemap.data.formats.mtlcc import CLASSES, common_labels, labelling, open_mtlcc
from cluemap.data.formats.mtlcc_tile import BANDS, TRUE_COLOUR, read_tile
from cluemap.data.formats.mtlcc_writer import write_lists, write_tile
from cluemap.data.formats.tfrecord import read_example, write_example
from cluemap.data.patches import NODATA, VOID
from cluemap.data.synthetic.demo_germany import HOME, USED, GermanyPlan, splits, write_tree
from cluemap.data.windowing import cut
from cluemap.errors import DataError, ParamsError
from cluemap.params import WindowParams

REAL = REAL_FILES / "mtlcc" / "43757.tfrecord.gz"
needs_real = pytest.mark.skipif(not REAL.exists(), reason=f"the real Germany tile {REAL} is not here")

# ------------------------------------------------------------------------------------------------------ the slow reader


def slow_number(content: bytes, at: int) -> tuple[int, int]:
    digits = []
    while True:
        digits.append(content[at] % 128)
        at += 1
        if content[at - 1] < 128:
            return sum(digit * 128**place for place, digit in enumerate(digits)), at


def slow_fields(content: bytes) -> list[tuple[int, bytes]]:
    fields, at = [], 0
    while at < len(content):
        key, at = slow_number(content, at)
        length, at = slow_number(content, at)
        fields.append((key // 8, content[at : at + length]))
        at += length
    return fields


def slow_features(path: Path) -> dict[str, list[int]]:
    """Every feature as a flat list: of int64 values, or of a shape's sizes."""
    stream = gzip.decompress(path.read_bytes())
    (length,) = struct.unpack("<Q", stream[:8])
    ((_, features),) = slow_fields(stream[12 : 12 + length])
    result = {}
    for _, entry in slow_fields(features):
        name, feature = (part for _, part in slow_fields(entry))
        ((kind, values),) = slow_fields(feature)
        ((_, content),) = slow_fields(values)
        numbers, at = [], 0
        while at < len(content):
            if kind == 1:
                number, at = struct.unpack("<q", content[at : at + 8])[0], at + 8
            else:
                number, at = slow_number(content, at)
            numbers.append(number)
        result[name.decode()] = numbers
    return result


def slow_resample(value, row: int, column: int, factor: int, size: int) -> int:
    """One 10 m pixel by the textbook: distances between pixel centres in metres, nearest pixels repeated outside."""
    places = []
    for position in (row, column):
        metres = 10 * position + 5 - 5 * factor  # from the centre of the first coarse pixel
        low = math.floor(metres / (10 * factor))
        share = metres / (10 * factor) - low
        places.append([(min(max(low, 0), size - 1), 1 - share), (min(max(low + 1, 0), size - 1), share)])
    total = sum(a * b * value(r, c) for r, a in places[0] for c, b in places[1])
    return math.floor(total + 0.5 + 1e-9)


def slow_tile(path: Path) -> tuple[list[int], np.ndarray, np.ndarray]:
    """-> days, images t c h w, labels h w in published ids; of files without missing pixels."""
    features = slow_features(path)
    dates = [date for date, day in enumerate(features["dates/doy"]) if day > 0]
    side = features["x10/shape"][1]
    images = np.zeros((len(dates), 13, side, side), int)
    for group, factor, first in (("x10", 1, 0), ("x20", 2, 4), ("x60", 6, 10)):
        _, height, width, bands = features[f"{group}/shape"]
        numbers = features[f"{group}/data"]
        for number, date in enumerate(dates):
            for band in range(bands):

                def value(row, column, date=date, band=band, width=width, height=height, bands=bands, numbers=numbers):
                    return numbers[((date * height + row) * width + column) * bands + band]

                for row in range(side):
                    for column in range(side):
                        found = slow_resample(value, row, column, factor, height)
                        images[number, first + band, row, column] = found
    labels = [
        [features["labels/data"][(dates[0] * side + row) * side + column] for column in range(side)]
        for row in range(side)
    ]
    return [features["dates/doy"][date] for date in dates], images, np.array(labels)


# ------------------------------------------------------------------------------------------------------------ real tile


@needs_real
def test_real_tile_has_its_published_facts():
    tile = read_tile(REAL, 24)
    assert tile.images.shape == (15, 13, 24, 24)
    assert tile.images.dtype == np.int16
    counts = dict(zip(*map(np.ndarray.tolist, np.unique(tile.labels, return_counts=True)), strict=True))
    assert counts == {0: 141, 5: 2, 12: 3, 22: 185, 23: 16, 24: 201, 26: 28}
    labels = common_labels(tile.labels, labelling("all", "classes")[1], REAL)
    position = {number: place for place, number in enumerate(CLASSES, start=1)} | {0: VOID}
    assert [(position[number], count) for number, count in counts.items()] == [
        (number, (labels == number).sum()) for number in (position[published] for published in counts)
    ]


@needs_real
def test_real_tile_has_plausible_reflectance():
    tile = read_tile(REAL, 24)
    band = {name: tile.images[:, number].astype(float) / 10000 for number, name in enumerate(BANDS)}
    clear = np.array([day in (214, 284, 287, 289) for day in tile.days])  # summer and October, by eye without clouds
    assert (tile.images != NODATA).all()
    assert 0 < min(values.min() for values in band.values()) <= max(values.max() for values in band.values()) < 1.2
    means = {name: values[clear].mean() for name, values in band.items()}
    assert means["B08"] > 1.8 * means["B04"]  # plants
    assert means["B02"] > means["B03"] * 0.95  # the air's own blue: top of the atmosphere
    assert means["B01"] > means["B02"] * 0.95
    assert means["B10"] < 0.03  # cirrus band: the land is not seen
    assert means["B05"] < means["B06"] < means["B07"] < means["B8A"]  # red edge
    assert means["B12"] < means["B11"] < means["B8A"]
    assert [BANDS[number] for number in TRUE_COLOUR] == ["B04", "B03", "B02"]


@needs_real
def test_real_tile_is_what_the_slow_reader_reads():
    days, images, labels = slow_tile(REAL)
    tile = read_tile(REAL, 24)
    assert tile.days.tolist() == days
    assert np.array_equal(tile.images, images)
    assert np.array_equal(tile.labels, labels)


@needs_real
def test_real_tile_survives_our_writer(tmp_path):
    """The published stream, byte for byte, from its own features in its own order."""
    features = {
        name: feature.numbers if feature.numbers is not None else bytes(feature.span.content)
        for name, feature in read_example(REAL).items()
    }
    write_example(tmp_path / "1.tfrecord.gz", features)
    assert gzip.decompress((tmp_path / "1.tfrecord.gz").read_bytes()) == gzip.decompress(REAL.read_bytes())


# -------------------------------------------------------------------------------------------------------- written tiles


def arrays(side: int = 24, dates: int = 3, seed: int = 3):
    rng = np.random.default_rng(seed)
    shapes = {"x10": (side, 4), "x20": (side // 2, 6), "x60": (side // 6, 3)}
    images = {name: rng.integers(1, 9000, (dates, size, size, bands)) for name, (size, bands) in shapes.items()}
    day = np.array([12, 99, 180, 181, 300, 365])[:dates]
    labels = rng.choice([0, *CLASSES], (side, side))
    return {**images, "doy": day, "year": np.full(dates, 2017), "labels": labels}


def written(path: Path, **changes) -> Path:
    content = {**arrays(), **changes}
    write_tile(path, **content, padded=max(5, len(content["doy"])))
    return path


@pytest.mark.parametrize("side", [24, 48])
def test_written_tile_is_read_as_the_slow_reader_does(tmp_path, side):
    path = written(tmp_path / "7.tfrecord.gz", **arrays(side, dates=2))
    days, images, labels = slow_tile(path)
    tile = read_tile(path, side)
    assert tile.days.tolist() == days == [12, 99]
    assert np.array_equal(tile.images, images)
    assert np.array_equal(tile.labels, labels)


def test_round_trip(tmp_path):
    content = arrays()
    tile = read_tile(written(tmp_path / "7.tfrecord.gz"), 24)
    assert np.array_equal(tile.images[:, :4], content["x10"].transpose(0, 3, 1, 2))
    assert np.array_equal(tile.days, content["doy"])
    assert np.array_equal(tile.labels, content["labels"])


def test_constant_and_slope_are_kept(tmp_path):
    """A constant stays; a slope stays exact up to the outermost centres: pixels lie where they should."""
    content = arrays()
    coarse = 600 * np.arange(4) + 300  # metres from the left edge at the centres of 60 m pixels, times 10
    content["x20"][:] = 777
    content["x60"][:] = coarse[None, None, :, None]
    tile = read_tile(written(tmp_path / "7.tfrecord.gz", **content), 24)
    assert (tile.images[:, 4:10] == 777).all()
    fine = 100 * np.arange(24) + 50
    assert (tile.images[:, 10:, :, 3:-3] == fine[3:-3]).all()
    assert (tile.images[:, 10:, :, :3] == 300).all()


def test_padding_anywhere_is_dropped_and_dates_are_put_in_order(tmp_path):
    content = arrays(dates=5)
    content["doy"] = np.array([200, -1, 40, 0, 300])
    content["year"] = np.array([2017, -1, 2017, 2017, 2016])
    tile = read_tile(written(tmp_path / "7.tfrecord.gz", **content), 24)
    assert tile.days.tolist() == [300, 40, 200]
    assert np.array_equal(tile.images[:, :4], content["x10"][[4, 2, 0]].transpose(0, 3, 1, 2))


def test_pixels_not_seen_become_nodata(tmp_path):
    content = arrays()
    content["x10"][0, 5, 7] = 0  # one pixel
    content["x20"][1, 0, 0] = -1  # 2 x 2 pixels, and those next to them that it has a part in
    content["x60"][2] = 0  # a whole date
    content["x10"][1, 20, 20, :3] = 0  # three bands of four: seen
    tile = read_tile(written(tmp_path / "7.tfrecord.gz", **content), 24)
    missing = np.zeros((3, 24, 24), bool)
    missing[0, 5, 7] = missing[2] = True
    missing[1, :3, :3] = True
    assert np.array_equal((tile.images == NODATA).all(axis=1), missing)
    assert np.array_equal((tile.images == NODATA).any(axis=1), missing)


def test_saturated_pixels_are_held_at_the_largest_number(tmp_path):
    content = arrays()
    content["x10"][0, 1, 2, 3] = 65535
    content["x20"][:] = 40000
    tile = read_tile(written(tmp_path / "7.tfrecord.gz", **content), 24)
    assert tile.images[0, 3, 1, 2] == 32767
    assert (tile.images[:, 4:10] == 32767).all()


@pytest.mark.parametrize("number", [65536, -2, -1, 2**40])
def test_numbers_that_are_no_reflectance_are_refused(tmp_path, number):
    content = arrays()
    content["x20"][2, 3, 5, 1] = number
    path = written(tmp_path / "7.tfrecord.gz", **content)
    stream = gzip.decompress(path.read_bytes())
    with pytest.raises(DataError, match=rf"x20 holds {number}") as refused:
        read_tile(path, 24)
    at = int(str(refused.value).split("byte ")[1].split(" ")[0])
    assert struct.unpack("<q", stream[at : at + 8]) == (number,)


def test_labels_that_change_are_refused(tmp_path):
    path = written(tmp_path / "7.tfrecord.gz")
    features = {
        name: feature.numbers if feature.numbers is not None else bytearray(feature.span.content)
        for name, feature in read_example(path).items()
    }
    features["labels/data"][8 * (2 * 576 + 30)] ^= 1  # of date 2, which is the last that is there
    write_example(path, {name: bytes(v) if isinstance(v, bytearray) else v for name, v in features.items()})
    with pytest.raises(DataError, match="labels of date 2 are not those of date 0"):
        read_tile(path, 24)
    features["labels/data"][8 * (2 * 576 + 30)] ^= 1
    features["labels/data"][8 * (3 * 576 + 30)] ^= 1  # of the padding
    write_example(path, {name: bytes(v) if isinstance(v, bytearray) else v for name, v in features.items()})
    read_tile(path, 24)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"doy": np.array([12, 367, 40])}, "doy holds day 367"),
        ({"doy": np.array([-1, 0, -5])}, "no date"),
        ({"x60": np.ones((3, 3, 4, 3))}, r"x60 has shape \(5, 3, 4, 3\), not \(5, 4, 4, 3\)"),
        ({"x20": np.ones((3, 12, 12, 4))}, "x20 has shape"),
        (arrays(48), r"x10 has shape .*, not \(5, 24, 24, 4\)"),
    ],
)
def test_wrong_content_is_refused(tmp_path, changes, what):
    with pytest.raises(DataError, match=what):
        read_tile(written(tmp_path / "7.tfrecord.gz", **changes), 24)


def test_missing_feature_is_named(tmp_path):
    features = {
        name: feature.numbers if feature.numbers is not None else bytes(feature.span.content)
        for name, feature in read_example(written(tmp_path / "7.tfrecord.gz")).items()
        if name != "x60/data"
    }
    write_example(tmp_path / "7.tfrecord.gz", features)
    with pytest.raises(DataError, match="there is no 'x60/data'"):
        read_tile(tmp_path / "7.tfrecord.gz", 24)


# ------------------------------------------------------------------------------------------------------------- pickles


def pickled(path: Path, content: dict) -> Path:
    kinds = {"labels": np.int8, "day": np.int16, "year": np.int16, "x10": np.int16, "x20": np.int16, "x60": np.int16}
    names = {**content, "day": content["doy"]}
    plain = {name: np.asarray(names[name]).astype(kind) for name, kind in kinds.items()}
    plain["labels"] = np.repeat(plain["labels"][None], len(plain["day"]), axis=0)
    path.write_bytes(pickle.dumps(plain))
    return path


def test_pickle_reads_as_the_tfrecord_it_was_made_of(tmp_path):
    content = arrays()
    content["x10"][0, 0, 0] = [65535, 33000, 20000, 65535]  # cut down to int16 in the pickle
    content["x10"][1, 3, 3] = 0
    content["x20"][1, 3, 4] = -1
    one = read_tile(written(tmp_path / "7.tfrecord.gz", **content), 24)
    other = read_tile(pickled(tmp_path / "7.pickle", content), 24)
    for name in ("images", "days", "labels"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    assert other.images[0, :4, 0, 0].tolist() == [32767, 32767, 20000, 32767]


@pytest.mark.parametrize("key", ["x10", "day", "labels"])
def test_pickle_without_an_array_is_refused(tmp_path, key):
    path = pickled(tmp_path / "7.pickle", arrays())
    content = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps({**content, key: [1.5]}))
    with pytest.raises(DataError, match=rf"7\.pickle: '{key}' is list, not whole numbers"):
        read_tile(path, 24)


# ------------------------------------------------------------------------------------------------------------ the tree

IDS = {
    "train_fold0": ["3", "11"],
    "test_fold0": ["20"],
    "eval": ["5"],
    "train_fold1": ["20"],
    "test_fold1": ["3", "11"],
}


def tree(root: Path, side: int = 24, tiles="240", years=(16, 17), skip=()) -> Path:
    home = root / "data_IJGI18" / "datasets" / "full" / tiles
    for year in years:
        (home / f"data{year}").mkdir(parents=True)
        for name in ("3", "5", "11", "20"):
            if name not in skip:
                seed = int(name) + year
                write_tile(home / f"data{year}" / f"{name}.tfrecord.gz", **arrays(side, 2, seed), padded=4)
    corners = {name: (1000.5 * int(name), 5_000_000.0) for name in ("3", "5", "11")}
    write_lists(home, corners, IDS)
    return home


def test_reader_gives_checked_patches(tmp_path):
    tree(tmp_path)
    reader = open_mtlcc(tmp_path, years=(2016, 2017))
    assert reader.legend.background is False
    assert len(reader.legend.classes) == 17
    assert len(reader.legend.bands) == 13
    patches = list(reader)
    assert [(patch.name, patch.split) for patch in patches] == [
        (f"{year}_{name}", split)
        for year in (2016, 2017)
        for split, name in (("train", "3"), ("train", "11"), ("validation", "5"), ("test", "20"))
    ]
    assert [patch.year for patch in patches] == [2016] * 4 + [2017] * 4
    first = patches[0]
    assert (first.corner, first.crs, first.pixel) == ((3001.5, 5_000_000.0), "EPSG:32632", 10.0)
    assert patches[3].corner is None  # not in geotransforms.csv
    published = arrays(24, 2, 3 + 16)["labels"]
    for number, place in [(0, VOID), (1, 1), (22, 13), (26, 17)]:
        assert np.array_equal(first.labels == place, published == number)
    assert first.fold is None
    assert pickle.loads(pickle.dumps(reader)).read(0).name == first.name  # for other processes


def test_fold_and_folder_are_parameters(tmp_path):
    home = tree(tmp_path, 48, tiles="480", years=(17,))
    reader = open_mtlcc(tmp_path, tiles=480, years=(2017,), fold=1)
    assert [(entry.tile, entry.split) for entry in reader.entries] == [
        ("20", "train"), ("5", "validation"), ("3", "test"), ("11", "test"),
    ]  # fmt: skip
    assert len(open_mtlcc(home.parent, tiles=480, years=(2017,))) == 4  # a folder inside the layout will do


def test_tile_of_480_metres_gives_four_windows(tmp_path):
    tree(tmp_path, 48, tiles="480", years=(17,))
    patch = open_mtlcc(tmp_path, tiles=480, years=(2017,)).read(0)
    params = WindowParams(size=24, stride=24, flush_edge=False, max_dates=60, presence=0.01, fold=1)
    windows = cut(patch, params)
    assert [(window.name, window.row, window.column) for window in windows] == [
        ("2017_3_0", 0, 0), ("2017_3_1", 0, 24), ("2017_3_2", 24, 0), ("2017_3_3", 24, 24),
    ]  # fmt: skip
    assert [(window.x, window.y) for window in windows] == [
        (3001.5 + x, 5_000_000.0 - y) for y in (0, 240) for x in (0, 240)
    ]
    whole = np.block([[windows[0].mask, windows[1].mask], [windows[2].mask, windows[3].mask]])
    assert np.array_equal(whole, patch.labels)


def test_pickles_take_the_lists_of_their_tiles(tmp_path):
    home = tree(tmp_path)
    folder = home.parent / "240pkl" / "data16"
    folder.mkdir(parents=True)
    for name in ("3", "5", "11", "20"):
        pickled(folder / f"{name}.pickle", arrays(24, 2, int(name) + 16))
    own, other = open_mtlcc(tmp_path, tiles="240pkl"), open_mtlcc(tmp_path)
    assert own.read(0).source.suffix == ".pickle"
    for one, two in zip(own, other, strict=True):
        assert (one.name, one.split, one.corner) == (two.name, two.split, two.corner)
        assert np.array_equal(one.images, two.images)
        assert np.array_equal(one.labels, two.labels)


def test_part_of_the_tiles_will_do_but_is_counted(tmp_path):
    tree(tmp_path, skip=("11",))
    reader = open_mtlcc(tmp_path, years=(2016, 2017))
    assert (len(reader), reader.absent) == (6, 2)


def test_split_without_tiles_is_refused(tmp_path):
    tree(tmp_path, skip=("5",))
    with pytest.raises(DataError, match="none of the 1 tiles of the validation split in data16"):
        open_mtlcc(tmp_path)


def test_nothing_there_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"no Germany under .* folder 240 .*datasets/full.*datasets\.germany"):
        open_mtlcc(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("tileids/eval.tileids", "5\n3\n", r"eval\.tileids: tile 3 is in .*train_fold0\.tileids too"),
        ("tileids/eval.tileids", "5\n../5\n", r"eval\.tileids: line 2 is '\.\./5'"),
        ("tileids/eval.tileids", "5,6\n", "line 1"),
        ("tileids/eval.tileids", None, r"eval\.tileids cannot be read"),
        ("geotransforms.csv", "3,1,10,0,2,0,-10\n5,1\n", "line 2"),
        ("geotransforms.csv", "3,1,10,0,2,0,-10,32632\n5,x,10,0,2,0,-10,32632\n", "line 2 is no place"),
        ("geotransforms.csv", "3,1,20,0,2,0,-20,32632\n", "line 1 is no place of a tile of 10 m pixels"),
        ("geotransforms.csv", "3,nan,10,0,2,0,-10,32632\n", "line 1 is no place"),
    ],
)
def test_damaged_lists_are_refused(tmp_path, name, content, what):
    path = tree(tmp_path) / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(DataError, match=what):
        open_mtlcc(tmp_path)


def test_heading_blank_lines_and_repeats_are_passed_over(tmp_path):
    home = tree(tmp_path)
    heading = "tileid,xmin,xres,a,ymax,b,yres,srid\n"
    (home / "geotransforms.csv").write_text(heading + (home / "geotransforms.csv").read_text() + "\n")
    (home / "tileids" / "eval.tileids").write_text("5\n\n5\n")
    reader = open_mtlcc(tmp_path)
    assert len(reader) == 4
    assert len(reader.places) == 3


def test_without_places_there_are_no_corners(tmp_path):
    (tree(tmp_path) / "geotransforms.csv").unlink()
    assert open_mtlcc(tmp_path).read(0).corner is None


# -------------------------------------------------------------------------------------------------------------- classes


def test_chosen_classes_are_numbered_in_their_order():
    legend, common = labelling([22, 3], "germany.source.classes")
    assert legend.class_names == ("winter wheat", "meadow")
    assert common_labels(np.array([[0, 3, 22]]), common, Path("x")).tolist() == [[VOID, 2, 1]]


@pytest.mark.parametrize("classes", [[0], [4], [3, 3], []])
def test_impossible_classes_are_refused(classes):
    with pytest.raises(ParamsError, match=r"germany\.source\.classes"):
        labelling(classes, "germany.source.classes")


@pytest.mark.parametrize(("number", "named"), [(4, "4"), (26, r"26 \(maize\)"), (-1, "-1"), (300, "300")])
def test_unknown_id_is_an_error(number, named):
    with pytest.raises(DataError, match=rf"1\.gz: label id {named} is not in the class list"):
        common_labels(np.array([[3, number]]), labelling([3], "classes")[1], Path("1.gz"))


def test_names_and_colours_are_different():
    assert len({crop.name for crop in CLASSES.values()}) == len({crop.colour for crop in CLASSES.values()}) == 17


# ------------------------------------------------------------------------------------------------------- the demo tree

SMALL = GermanyPlan(tiles=14, region=1, least_dates=4, most_dates=6, least_labelled=0.2)


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "demo_germany"
    write_tree(folder, SMALL)
    return folder


def test_demo_is_the_same_again_and_left_alone_when_whole(demo, tmp_path):
    write_tree(tmp_path / "again", SMALL)
    files = sorted(path.relative_to(demo) for path in demo.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*.*"))
    assert all((demo / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in files)
    assert "nothing to do" in write_tree(demo, SMALL)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("")
    with pytest.raises(DataError, match="did not make"):
        write_tree(tmp_path / "other", SMALL)


def test_demo_looks_like_germany(demo):
    reader = open_mtlcc(demo, list(USED), years=(2017,))
    patches = list(reader)
    assert (len(patches), reader.absent) == (14, 0)
    assert all(4 <= len(patch.days) <= 6 and (np.diff(patch.days) > 0).all() for patch in patches)
    labels = np.concatenate([patch.labels.ravel() for patch in patches])
    assert 0.1 < (labels == VOID).mean() < 0.6
    assert len(np.unique(labels)) > 5
    assert all((patch.labels != VOID).mean() >= 0.2 for patch in patches)
    features = read_example(demo / HOME / "data17" / "1.tfrecord.gz")
    assert features["x60/shape"].numbers == (52, 4, 4, 3)
    assert (demo / HOME / "classes.txt").read_text().splitlines()[:2] == ["0|unknown", "1|sugar beet"]
    assert len({patch.corner for patch in patches}) == 14
    seen = np.concatenate([patch.images.transpose(1, 0, 2, 3).reshape(13, -1) for patch in patches], axis=1)
    means = dict(zip(BANDS, seen[:, (seen != NODATA).all(axis=0)].mean(axis=1), strict=True))
    assert means["B10"] < means["B01"] < means["B08"]
    assert means["B04"] < means["B08"]


def test_demo_splits_keep_regions_apart():
    regions = [[f"{region}{tile}" for tile in range(3)] for region in range(13)]
    lists = splits(regions)
    assert len(lists) == 21
    for fold in range(10):
        parts = [set(lists[name]) for name in (f"train_fold{fold}", f"test_fold{fold}", "eval")]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 39
        for region in regions:
            assert sum(not part.isdisjoint(region) for part in parts) == 1
    assert lists["test_fold0"] != lists["test_fold1"]
