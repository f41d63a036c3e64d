"""Stage prepare_parcels: parcels of the demo, of PSE-TAE's layout and back, of tiles, of scenes; damaged files."""

import json
import shutil

import geopandas as gpd
import numpy as np
import pytest
import scenes
import shapely
import tiny
from builders import write_pastis
from locations import REAL

from cluemap.data.formats.psetae_writer import write_psetae
from cluemap.data.parcels.parcels import Parcels
from cluemap.data.parcels.preparation import prepare_parcels
from cluemap.data.parcels.sources import open_parcels
from cluemap.data.patches import NODATA, VOID
from cluemap.data.readers import open_reader
from cluemap.data.synthetic.demo_germany import GermanyPlan, write_tree
from cluemap.data.synthetic.demo_pastis import Plan, make_demo
from cluemap.errors import DataError
from cluemap.params import MtlccSource, PastisSource, PsetaeSource, SceneSource, load_params

BANDS = ["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"]
DEMO = (1, 2, 3, 4, 5, 7, 9, 13)


def params_of(root, source, **parcels):
    params = load_params("tiny", tiny.write_params(root / "params.yaml"))
    changes = {"parcels": params.parcels.model_copy(update=parcels), "source": source, "root": str(root)}
    return params.model_copy(update=changes)


def prepared(root, out, source, **parcels) -> Parcels:
    params = params_of(root, source, **parcels)
    prepare_parcels(open_parcels(params), params, out, progress=False, workers=2)
    return Parcels.open(out)


def psetae(**changed) -> PsetaeSource:
    given = {
        "format": "psetae",
        "folder": "",
        "classes": "all",
        "labels": "crop",
        "bands": BANDS,
        "scale": 10000.0,
        "pixel": 10.0,
    }
    return PsetaeSource(**{**given, **changed})


PASTIS = PastisSource(format="pastis", classes=list(DEMO), folds="metadata")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo") / "data"
    make_demo(root, Plan(patches=1, size=46, least_dates=5, most_dates=7))
    return root


@pytest.fixture(scope="module")
def parcels(demo, tmp_path_factory) -> Parcels:
    return prepared(demo, tmp_path_factory.mktemp("out") / "parcels", PASTIS)


def test_parcels_of_the_demo_are_those_of_its_files(demo, parcels):
    counted = 0
    for patch in {name.partition("_")[0] for name in parcels.table["name"]}:
        numbers = np.load(demo / f"ANNOTATIONS/ParcelIDs_{patch}.npy")
        images = np.load(demo / f"DATA_S2/S2_{patch}.npy")
        target = np.load(demo / f"ANNOTATIONS/TARGET_{patch}.npy")[0]
        for number in set(np.unique(numbers)) - {0}:
            index = int(np.flatnonzero(parcels.table["name"] == f"{patch}_{number}")[0])
            inside = numbers == number
            pixels, days = parcels.series(index)
            assert (pixels == images[:, :, inside].transpose(2, 0, 1)).all()
            assert (np.diff(days) > 0).all()
            published = np.bincount(target[inside]).argmax()
            assert parcels.truth()[index] == (VOID if published == 19 else DEMO.index(published) + 1)
            counted += 1
    assert counted == len(parcels) == parcels.card.counts["read"]
    assert parcels.card.counts["cut"] == parcels.table["cut"].sum() > 0
    assert parcels.card.counts["unlabelled"] == (parcels.truth() == VOID).sum() > 0
    assert not parcels.card.background


def test_statistics_are_those_of_the_seen_pixels(parcels):
    chosen = np.array([2, 0, 5])
    values = np.concatenate([parcels.series(i)[0].reshape(-1, 10) for i in chosen]).astype(float)
    values = values[(values != NODATA).all(axis=1)]
    mean, std = parcels.statistics(chosen)
    np.testing.assert_allclose(mean, values.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(std, values.std(axis=0), rtol=1e-4)


def test_demo_to_psetae_layout_and_back_gives_the_same_sets(parcels, tmp_path):
    write_psetae(parcels, tmp_path / "psetae")
    again = prepared(tmp_path / "psetae", tmp_path / "out", psetae())
    place = {name: index for index, name in enumerate(again.table["name"])}
    assert sorted(place) == sorted(parcels.table["name"])
    names = again.card.legend.class_names
    for index, name in enumerate(parcels.table["name"]):
        other = place[name]
        for one, two in zip(parcels.series(index), again.series(other), strict=True):
            assert (one == two).all()
        np.testing.assert_array_equal(parcels.geometry[index], again.geometry[other])
        crop, back = parcels.truth()[index], again.truth()[other]
        assert (back == VOID) if crop == VOID else (names[back - 1] == str(crop))
        assert parcels.table["area"][index] == pytest.approx(again.table["area"][other], rel=1e-4)


def test_dates_for_all_parcels_as_published(parcels, tmp_path):
    """One patch alone: its parcels have the same dates, so that dates.json has one list."""
    write_psetae(parcels, tmp_path / "psetae")
    meta = tmp_path / "psetae/META"
    kept = next(iter(json.loads((meta / "dates.json").read_text()))).partition("_")[0]
    for file in (tmp_path / "psetae/DATA").iterdir():
        if not file.stem.startswith(kept + "_"):
            file.unlink()
    dates = next(
        value for name, value in json.loads((meta / "dates.json").read_text()).items() if name.startswith(kept)
    )
    shared = {str(number): int(day.replace("-", "")) for number, day in reversed(list(enumerate(dates)))}
    (meta / "dates.json").write_text(json.dumps(shared))
    again = prepared(tmp_path / "psetae", tmp_path / "out", psetae())
    index = int(np.flatnonzero(parcels.table["name"] == again.table["name"][0])[0])
    for one, two in zip(parcels.series(index), again.series(0), strict=True):
        assert (one == two).all()


def test_folds_of_psetae_are_even_in_every_class(parcels, tmp_path):
    write_psetae(parcels, tmp_path / "psetae")
    again = prepared(tmp_path / "psetae", tmp_path / "out", psetae(classes=[2, 3]))
    assert again.card.legend.class_names == ("2", "3")
    for crop in (1, 2):
        counts = np.bincount(again.table["fold"][again.truth() == crop], minlength=6)[1:]
        assert counts.max() - counts.min() <= 1


def test_slivers_are_left_out_and_counted(demo, parcels, tmp_path):
    found = prepared(demo, tmp_path / "out", PASTIS, least_pixels=12)
    assert found.card.counts["slivers"] == (parcels.pixels < 12).sum() > 0
    assert len(found) == (parcels.pixels >= 12).sum()


def test_german_tiles_have_the_parcels_of_their_regions(tmp_path):
    write_tree(tmp_path / "data", GermanyPlan(tiles=26, region=2, least_dates=3, most_dates=4))
    source = MtlccSource(format="mtlcc", classes="all", tiles=240, years=[2017], fold=0)
    found = prepared(tmp_path / "data", tmp_path / "out", source)
    assert set(found.splits(1)) == {"train", "validation", "test"}
    assert (found.truth() != VOID).mean() > 0.5
    shutil.rmtree(tmp_path / "data/data_IJGI18/datasets/full/240/parcels17")
    with pytest.raises(DataError, match=r"parcels17.*published tiles hold no parcels"):
        prepared(tmp_path / "data", tmp_path / "two", source)


@pytest.fixture
def scene(tmp_path):
    """A scene whose parcels are squares of 7 pixels, one a sliver, one between pixel centres, one without a class."""
    region = scenes.make_region(96, 120)
    scenes.write_files(tmp_path / "images", region)
    left, top = scenes.LEFT, scenes.TOP
    boxes = [shapely.box(left + 100 * i, top - 100 * j - 70, left + 100 * i + 70, top - 100 * j)
             for i in range(12) for j in range(9)]  # fmt: skip
    crops = ["corn", "beet"] * 54
    boxes += [
        shapely.box(left + 81, top - 9, left + 84, top - 6),
        shapely.box(left + 80, top - 30, left + 90, top - 20),
    ]
    fields = gpd.GeoDataFrame({"crop": [*crops, "corn", "corn"]}, geometry=boxes, crs="EPSG:32632")
    fields.to_file(tmp_path / "fields.gpkg")
    labels = {"kind": "polygons", "file": "fields.gpkg", "column": "crop"}
    images = {"kind": "files", "path": "images", "bands": BANDS}
    classes, split = [{"name": "corn"}, {"name": "beet"}], {"block": 240.0, "gap": 0.0, "seed": 1}
    return scenes.write_scene(tmp_path, images, labels=labels, classes=classes, split=split)


def test_parcels_of_a_scene(scene, tmp_path):
    params = params_of(tmp_path, SceneSource(format="scene"))
    params = params.model_copy(update={"windows": params.windows.model_copy(update={"size": 12, "stride": 12})})
    prepare_parcels(open_parcels(params), params, tmp_path / "out", progress=False)
    found = Parcels.open(tmp_path / "out")
    counts = found.card.counts
    assert counts["read"] == 110
    assert (counts["without_pixel_centre"], counts["slivers"]) == (1, 1)
    assert len(found) == 108 - counts["off_blocks"]
    assert set(found.truth()) == {1, 2}
    assert counts["cut"] == found.table["cut"].sum() > 0
    whole = ~found.table["cut"].to_numpy()
    assert (found.pixels[whole] == 49).all()
    assert (found.pixels[~whole] <= 49).all()


def test_a_scene_with_borders_apart_from_its_labels(scene, tmp_path):
    """Parcels from a file of their own: those that no label covers have no class."""
    left, top = scenes.LEFT, scenes.TOP
    others = [shapely.box(left + 100 * i + 5, top - 69, left + 100 * i + 65, top - 5) for i in range(12)]
    others += [shapely.box(left + 100 * i + 71, top - 69, left + 100 * i + 99, top - 5) for i in range(11)]
    gpd.GeoDataFrame(geometry=others, crs="EPSG:32632").to_file(tmp_path / "borders.gpkg")
    text = (tmp_path / "scene.yaml").read_text()
    (tmp_path / "scene.yaml").write_text(text + "\nparcels: {file: borders.gpkg}\n")
    params = params_of(tmp_path, SceneSource(format="scene"))
    params = params.model_copy(update={"windows": params.windows.model_copy(update={"size": 12, "stride": 12})})
    prepare_parcels(open_parcels(params), params, tmp_path / "out", progress=False)
    found = Parcels.open(tmp_path / "out")
    assert len(found) == 23 - found.card.counts["off_blocks"]
    assert (found.truth() == VOID).sum() == found.card.counts["unlabelled"] > 5
    assert set(found.truth()) == {1, 2, VOID}


@pytest.mark.skipif(not REAL.exists(), reason="the shared real files are not here")
def test_real_parcels_of_a_fork(tmp_path):
    found = prepared(REAL / "psetae", tmp_path / "out", psetae(labels="CODE_GROUP", scale=1.0, pixel=30.0))
    assert len(found) == 93
    assert sorted(np.bincount(found.truth())[1:].tolist()) == [6, 12, 13, 20, 42]
    assert (found.pixels.min(), found.pixels.max()) == (2, 80)
    assert (found.dates.min(), found.dates.max(), found.card.geometry) == (43, 92, ("feature_1",))
    index = int(np.flatnonzero(found.table["name"] == "47")[0])
    raw = np.load(REAL / "psetae/DATA/47.npy").transpose(2, 0, 1)
    pixels, days = found.series(index)
    unseen = (raw == 0).all(axis=2)
    assert ((pixels == NODATA).all(axis=2) == unseen).all()
    np.testing.assert_allclose(pixels[~unseen], np.clip(raw[~unseen] * 1e4, -9999, 32767), atol=0.51)
    assert days[0] == 299  # 25 October 2024, counted from 1 January of that year
    assert all((np.diff(found.series(i)[1]) >= 0).all() for i in range(93))


@pytest.mark.skipif(not REAL.exists(), reason="the shared real files are not here")
def test_real_parcel_numbers_of_pastis(tmp_path):
    """The nine published maps of parcels, under made-up images and labels."""
    write_pastis(tmp_path, patches={10000 + i: i % 5 + 1 for i in range(10) if i != 8}, size=128, dates=2)
    expected = 0
    for file in sorted((REAL / "pastis/ANNOTATIONS").glob("ParcelIDs_*.npy")):
        shutil.copy(file, tmp_path / "ANNOTATIONS")
        expected += len(set(np.unique(np.load(file))) - {0})
    found = prepared(tmp_path, tmp_path / "out", replace_classes(PASTIS, [1, 2, 3]))
    assert found.card.counts["read"] == expected > 100
    assert found.card.counts["cut"] > 0


def replace_classes(source: PastisSource, classes: list[int]) -> PastisSource:
    return source.model_copy(update={"classes": classes})


# ------------------------------------------------------------------ unhappy paths


@pytest.fixture
def files(parcels, tmp_path):
    write_psetae(parcels, tmp_path / "psetae")
    return tmp_path / "psetae"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: shutil.rmtree(root / "META"), "no PSE-TAE layout"),
        (lambda root: [file.unlink() for file in (root / "DATA").iterdir()], "holds no .npy"),
        (lambda root: (root / "META/labels.json").write_text("{}"), "no nomenclature 'crop'"),
        (lambda root: (root / "META/labels.json").write_text('{"crop": {"1": "x"}}'), "no whole number"),
        (lambda root: (root / "META/geomfeat.json").write_text('{"1": [2]}'), "no list of numbers"),
        (lambda root: (root / "META/dates.json").write_text("[]"), "holds no dates"),
        (lambda root: (root / "META/dates.json").write_text('{"0": 20191301}'), "no date"),
        (lambda root: (root / "META/dates.json").write_text('{"0": 20190101}'), "not of the same release"),
        (lambda root: np.save(next((root / "DATA").iterdir()), np.zeros((3, 4), np.int16)), "not (dates, 10 bands"),
        (lambda root: next((root / "DATA").iterdir()).write_bytes(b"\x93NUMPY"), "cannot be read"),
    ],
)
def test_damaged_files_of_parcels(files, tmp_path, damage, words):
    damage(files)
    with pytest.raises(DataError) as error:
        prepared(files, tmp_path / "out", psetae())
    assert words in str(error.value), error.value
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_missing_and_damaged_numbers_of_parcels(demo, tmp_path):
    shutil.copytree(demo, tmp_path / "data")
    file = sorted((tmp_path / "data/ANNOTATIONS").glob("ParcelIDs_*.npy"))[0]
    np.save(file, np.zeros((3, 3), np.int32))
    with pytest.raises(DataError, match=r"ParcelIDs_\d+.npy holds int32 \(3, 3\)"):
        prepared(tmp_path / "data", tmp_path / "out", PASTIS)
    file.unlink()
    with pytest.raises(DataError, match=r"ParcelIDs_\d+.npy is missing"):
        prepared(tmp_path / "data", tmp_path / "out", PASTIS)


def test_no_parcel_is_large_enough(demo, tmp_path):
    with pytest.raises(DataError, match=r"no parcel of at least 9999 pixels.*least_pixels"):
        prepared(demo, tmp_path / "out", PASTIS, least_pixels=9999)
    assert not (tmp_path / "out").exists()


def test_a_damaged_common_form(parcels, tmp_path):
    for name, words in (("pixels.npy", "damaged"), ("card.json", "JSON"), ("parcels.parquet", "cannot be read")):
        folder = tmp_path / name.partition(".")[0]
        shutil.copytree(parcels.folder, folder)
        (folder / name).write_bytes((folder / name).read_bytes()[:50])
        with pytest.raises(DataError, match=words):
            Parcels.open(folder)


def test_parcels_have_no_windows(files):
    params = params_of(files, psetae())
    with pytest.raises(DataError, match="holds parcels, no images"):
        open_reader(params)


def test_two_of_one_name_are_refused(demo, tmp_path):
    class Twice:
        def __init__(self, source):
            self.legend, self.geometry, self.source = source.legend, source.geometry, source

        def __len__(self):
            return 2

        def read(self, index):
            return self.source.read(0)

    params = params_of(demo, PASTIS)
    with pytest.raises(DataError, match="two parcels are called"):
        prepare_parcels(Twice(open_parcels(params)), params, tmp_path / "out", progress=False)
