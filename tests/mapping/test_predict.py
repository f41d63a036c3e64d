"""Maps of scenes: against the truth raster pixel by pixel, against a slow blend, after a kill, in other tiles."""

import json
import sys
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
import torch
import torch.distributed as dist
from builders import write_pastis
from random_segmenter import BANDS, LEGEND, SIZE, write_model
from runs import database, root
from scenes import LEFT, TOP, write_raster, write_scene

import predict as script
from cluemap.data.formats import mtlcc_tile
from cluemap.data.formats.mtlcc_writer import write_lists, write_tile
from cluemap.data.formats.pastis import BANDS as ALL
from cluemap.data.scenes.grid import Blocks
from cluemap.data.scenes.imagery import open_imagery
from cluemap.data.scenes.scene_file import read_scene
from cluemap.errors import CheckpointError, CluemapError, DataError, TrackingError
from cluemap.mapping import map_products, raster_prediction
from cluemap.mapping.map_canvas import Canvas
from cluemap.mapping.map_products import Order, make_map
from cluemap.mapping.map_sources import fingerprint
from cluemap.mapping.model_choice import find_model
from cluemap.mapping.overlap_blending import hill, tiles
from cluemap.mapping.raster_prediction import Settings
from cluemap.model.storage.trained_models import Card, load_segmenter
from cluemap.training.map_scores import border

__all__ = ["database", "root"]  # fixtures
CARD = Card("mine", "0", LEGEND, SIZE, 60, np.zeros(3, np.float32), np.ones(3, np.float32))
HEIGHT, WIDTH = 47, 61
QUICK = Settings(tile=23, batch=5)


class Reader(torch.nn.Module):
    """A perfect segmenter: the first band of every date tells the class (1000 + 100 k); unsure where it is odd."""

    def forward(self, images, day, valid):
        first = torch.where(valid[:, :, None, None], images[:, :, 0], 0).amax(dim=1)  # b h w
        found = ((first - 1000) / 100).round().clamp(0, 3).long()
        return 4.0 * torch.nn.functional.one_hot(found, 4).permute(0, 3, 1, 2).float()


@pytest.fixture
def truth():
    generator = np.random.default_rng(7)
    blocks = generator.integers(0, 4, (-(-HEIGHT // 5), -(-WIDTH // 5)))
    return np.kron(blocks, np.ones((5, 5), int))[:HEIGHT, :WIDTH]


@pytest.fixture
def scene(truth, tmp_path):
    """Three dates; a corner that none of them saw; the second date is half empty."""
    generator = np.random.default_rng(8)
    for number, day in enumerate(("2019-03-01", "2019-06-01", "2019-09-01")):
        bands = np.stack([1000 + 100 * truth, *generator.integers(500, 3000, (2, HEIGHT, WIDTH))]).astype(np.uint16)
        bands[:, :9, :16] = 0
        if number == 1:
            bands[:, :, 30:] = 0
        write_raster(tmp_path / "images" / f"{day}.tif", bands, names=BANDS)
    return write_scene(tmp_path, {"kind": "files", "path": "images", "bands": list(BANDS)}, labels=None, classes=None)


@pytest.fixture
def unseen():
    seen = np.zeros((HEIGHT, WIDTH), bool)
    seen[:9, :16] = True
    return seen


@pytest.fixture
def reader(monkeypatch, tmp_path):
    """`make_map` with the perfect segmenter; the checkpoint is any file."""
    monkeypatch.setattr(map_products, "load_segmenter", lambda file: (Reader(), CARD))
    monkeypatch.setenv("CLUEMAP_DEVICE", "cpu")
    (tmp_path / "model.safetensors").write_bytes(b"any")
    return tmp_path / "model.safetensors"


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A real segmenter with random weights, as a checkpoint."""
    monkeypatch.setenv("CLUEMAP_DEVICE", "cpu")
    return write_model(tmp_path / "random.safetensors", BANDS)


def read(path):
    with rasterio.open(path) as file:
        return file.read()


def test_the_map_is_the_truth_in_its_place(truth, unseen, scene, reader):
    out = scene / "maps" / "map.tif"
    out.parent.mkdir()
    files = make_map(Order(str(reader), scene, out, settings=QUICK), progress=False)
    assert all(file.exists() for file in files)
    assert not list(out.parent.glob(".*"))
    with rasterio.open(out) as file:
        assert file.crs == "EPSG:32632"
        assert file.bounds == (LEFT, TOP - 10 * HEIGHT, LEFT + 10 * WIDTH, TOP)
        assert file.nodata == 255
        sampled = np.array(
            [v[0] for v in file.sample([(LEFT + 10 * c + 5, TOP - 10 * r - 5) for r, c in np.ndindex(HEIGHT, WIDTH)])]
        ).reshape(HEIGHT, WIDTH)
        np.testing.assert_array_equal(sampled, np.where(unseen, 255, truth))
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.profile["tiled"]
        assert file.colormap(1)[2] == (0, 0, 32, 255)
        assert file.tags(1)["class_2"] == "crop 2"
    names = [one.text for one in ElementTree.parse(f"{out}.aux.xml").iter("Category")]
    assert names == ["background", "crop 1", "crop 2", "crop 3"]
    confidence = read(out.with_name("map_confidence.tif"))[0]
    assert set(np.unique(confidence[~unseen])) == {round(100 * np.exp(4) / (np.exp(4) + 3))}
    assert (confidence[unseen] == 255).all()
    style = {
        one.get("label"): one.get("color") for one in ElementTree.parse(out.with_suffix(".qml")).iter("paletteEntry")
    }
    assert style["crop 3"] == "#000030"


def test_hectares_and_parcels(truth, unseen, scene, reader):
    a, b = shapely.box(LEFT + 200, TOP - 400, LEFT + 400, TOP - 200), shapely.box(LEFT, TOP - 90, LEFT + 160, TOP)
    parcels = gpd.GeoDataFrame({"name": ["a", "b"]}, geometry=[a, b], crs="EPSG:32632").to_crs("EPSG:4326")
    parcels.to_file(scene / "parcels.gpkg")
    out = scene / "map.tif"
    make_map(Order(str(reader), scene, out, parcels=scene / "parcels.gpkg", settings=QUICK), progress=False)
    table = pd.read_csv(scene / "map_hectares.csv").set_index("class")
    for number, name in enumerate(["background", "crop 1", "crop 2", "crop 3"]):
        pixels = int(((truth == number) & ~unseen).sum())
        assert table.loc[name, "pixels"] == pixels
        assert table.loc[name, "hectares"] == pytest.approx(pixels * 100 / 10_000)
    assert table.loc["no data", "pixels"] == 9 * 16
    found = pd.read_csv(scene / "map_parcels.csv").set_index("name")
    inside = truth[20:40, 20:40]
    counts = [(inside == k).sum() for k in range(4)]
    assert found.loc["a", "majority"] == ["background", "crop 1", "crop 2", "crop 3"][int(np.argmax(counts))]
    assert found.loc["a", "majority_share"] == pytest.approx(max(counts) / 400, abs=1e-4)
    assert found.loc["a", "ha crop 1"] == pytest.approx(counts[1] / 100)
    assert found.loc["b", "pixels"] == 0
    assert pd.isna(found.loc["b", "majority"])
    assert len(gpd.read_file(scene / "map_parcels.gpkg")) == 2


def slow_blend(network, images, days, overlap):
    """k h w by the book: every window alone, its probabilities weighted by sin^2, summed pixel by pixel."""
    _, _, height, width = images.shape
    total, weights = np.zeros((4, height, width)), np.zeros((height, width))
    steps = [sorted({*range(0, n - SIZE + 1, SIZE - overlap), n - SIZE}) for n in (height, width)]
    side = [np.sin(np.pi * (i + 0.5) / SIZE) ** 2 for i in range(SIZE)]
    for row in steps[0]:
        for column in steps[1]:
            window = images[:, :, row : row + SIZE, column : column + SIZE].astype(np.float32)
            valid = (window != -10000).any(axis=(1, 2, 3))
            if not valid.any():
                continue
            given = np.where(window == -10000, 0, (window - 1500) / 600)
            with torch.no_grad():
                logits = network(
                    torch.from_numpy(given).float()[None],
                    torch.from_numpy(np.where(valid, days, 0))[None].long(),
                    torch.from_numpy(valid)[None],
                )
            shares = torch.softmax(logits[0], 0).numpy()
            for i in range(SIZE):
                for j in range(SIZE):
                    total[:, row + i, column + j] += shares[:, i, j] * side[i] * side[j]
                    weights[row + i, column + j] += side[i] * side[j]
    return total / np.maximum(weights, 1e-30)


def test_the_map_depends_on_no_tile_and_no_batch_and_is_the_slow_blend(scene, model, unseen):
    probabilities = {}
    for tile, batch in ((1000, 64), (23, 5), (30, 1)):
        out = scene / f"map_{tile}.tif"
        settings = Settings(tile=tile, batch=batch, overlap=6 / SIZE)
        make_map(Order(str(model), scene, out, probabilities=True, settings=settings), progress=False)
        probabilities[tile] = read(scene / f"map_{tile}_probability.tif").astype(int)
        classes = read(out)[0]
        differ = classes != read(scene / "map_1000.tif")[0]
        assert differ.mean() < 0.001
    first = probabilities[1000]
    for other in probabilities.values():
        assert np.abs(other - first).max() <= 1  # percent: rounding
        assert (other != first).mean() < 0.001
    imagery = open_imagery(scene, read_scene(scene))
    images = imagery.read(slice(0, HEIGHT), slice(0, WIDTH))
    expected = slow_blend(load_segmenter(model)[0], images, imagery.days, 6)
    assert len(np.unique(first[:, ~unseen])) > 20  # the random network says something
    np.testing.assert_allclose(first[:, ~unseen], 100 * expected[:, ~unseen], atol=0.51)
    assert (first[:, unseen] == 255).all()


class Mixed(torch.nn.Module):
    """Two classes by the first band, as likely as their shares of a pixel: 1000 = all first, 1100 = all the other."""

    def forward(self, images, day, valid):
        share = ((images[:, 0, 0] - 1000) / 100).clamp(0.02, 0.98)  # b h w
        unlikely = torch.full_like(share, 1e-6)
        return torch.stack([1 - share, share, unlikely, unlikely], dim=1).log()


def test_a_map_of_5_m_follows_borders_that_cross_pixels(tmp_path, monkeypatch):
    """Slanting fields drawn at 5 m, images of 10 m that hold their mean: nearer to the fields than 10 m pixels are."""
    rows, columns = np.mgrid[: 2 * HEIGHT, : 2 * WIDTH]
    fine = ((rows + 0.37 * columns) // 23 % 2).astype(int)
    mean = fine.reshape(HEIGHT, 2, WIDTH, 2).mean(axis=(1, 3))
    bands = np.stack([1000 + 100 * mean, *np.full((2, HEIGHT, WIDTH), 900)]).round().astype(np.uint16)
    write_raster(tmp_path / "images" / "2019-06-01.tif", bands, names=BANDS)
    scene = write_scene(tmp_path, {"kind": "files", "path": "images", "bands": list(BANDS)}, labels=None, classes=None)
    monkeypatch.setattr(map_products, "load_segmenter", lambda file: (Mixed(), CARD))
    monkeypatch.setenv("CLUEMAP_DEVICE", "cpu")
    (tmp_path / "any").write_bytes(b"any")
    found = {}
    for scale in (1, 2):
        out = tmp_path / f"map_{scale}.tif"
        make_map(Order(str(tmp_path / "any"), scene, out, settings=Settings(23, 5, scale=scale)), progress=False)
        found[scale] = read(out)[0]
    with rasterio.open(tmp_path / "map_2.tif") as file:
        assert file.bounds == (LEFT, TOP - 10 * HEIGHT, LEFT + 10 * WIDTH, TOP)
        assert file.res == (5.0, 5.0)
    areas = [pd.read_csv(tmp_path / f"map_{scale}_hectares.csv")["hectares"].sum() for scale in (1, 2)]
    assert areas == pytest.approx([HEIGHT * WIDTH / 100] * 2, abs=0.05)
    nearest = found[1].repeat(2, axis=0).repeat(2, axis=1)
    near = border(fine[None].astype(np.uint8), 2)[0]
    wrong = {"nearest": (nearest != fine)[near].mean(), "5 m": (found[2] != fine)[near].mean()}
    assert wrong["5 m"] < 0.6 * wrong["nearest"]
    assert (found[2] == fine)[~near].all()


def test_a_finer_map_depends_on_no_tile(scene, model, unseen):
    found = {}
    for tile in (1000, 23):
        out = scene / f"fine_{tile}.tif"
        make_map(Order(str(model), scene, out, settings=Settings(tile, 5, scale=3)), progress=False)
        found[tile] = read(out)[0]
    assert found[23].shape == (3 * HEIGHT, 3 * WIDTH)
    assert (found[23] != found[1000]).mean() < 0.001
    assert ((found[23] == 255) == unseen.repeat(3, axis=0).repeat(3, axis=1)).all()


class Killed(Exception):
    pass


def test_a_killed_prediction_goes_on(scene, model, monkeypatch):
    infer, windows, limit = raster_prediction.infer, [], [10**9]

    def counted(network, card, batch, *more):
        windows.extend(batch)
        if len(windows) > limit[0]:
            raise Killed
        return infer(network, card, batch, *more)

    monkeypatch.setattr(raster_prediction, "infer", counted)
    make_map(Order(str(model), scene, scene / "whole.tif", settings=QUICK), progress=False)
    every, order = len(windows), Order(str(model), scene, scene / "map.tif", settings=QUICK)
    windows.clear()
    limit[0] = every // 2
    with pytest.raises(Killed):
        make_map(order, progress=False)
    assert not (scene / "map.tif").exists()
    assert (scene / ".map.tif.unfinished" / "done.txt").read_text().split()
    windows.clear()
    limit[0] = 10**9
    make_map(order, progress=False)
    assert 0 < len(windows) < every  # the finished tiles were not made again
    for ending in ("", "_confidence"):
        np.testing.assert_array_equal(read(scene / f"map{ending}.tif"), read(scene / f"whole{ending}.tif"))


def test_other_settings_of_the_images_are_another_map(scene):
    """A map begun before scene.yaml was changed is not gone on with, though no image changed."""
    before = fingerprint(open_imagery(scene, read_scene(scene)))
    assert fingerprint(open_imagery(scene, read_scene(scene))) == before
    images = {"kind": "files", "path": "images", "bands": list(BANDS)}
    write_scene(scene, {**images, "offset": -0.1}, labels=None, classes=None)
    assert fingerprint(open_imagery(scene, read_scene(scene))) != before


def test_another_model_starts_anew(scene, reader, model, truth, unseen, monkeypatch):
    layers = {"classes": 1, "confidence": 1}
    Canvas(scene / ".map.tif.unfinished", HEIGHT, WIDTH, layers, {"model": "another"})
    (scene / ".map.tif.unfinished" / "done.txt").write_text("0\n1\n2\n")
    make_map(Order(str(reader), scene, scene / "map.tif", settings=QUICK), progress=False)
    np.testing.assert_array_equal(read(scene / "map.tif")[0], np.where(unseen, 255, truth))


@pytest.mark.parametrize(
    ("height", "width", "lines", "overlap"),
    [(47, 61, (23, 29, 5, 0), 7), (14, 29, (100, 100), 0), (30, 31, (7, 11, 3, 10), 13), (90, 90, (31, 37, 30, 1), 4)],
)
def test_tiles_cover_everything_once_with_all_windows_that_touch_them(height, width, lines, overlap):
    """Their windows need no pixel beyond the line that ends them."""
    lines = Blocks(*lines)
    covered = np.zeros((height, width), int)
    rows = sorted({*range(0, height - SIZE + 1, SIZE - overlap), height - SIZE})
    columns = sorted({*range(0, width - SIZE + 1, SIZE - overlap), width - SIZE})
    ends = {*range(lines.top, height, lines.height), height}, {*range(lines.left, width, lines.width), width}
    for tile in tiles(height, width, lines, SIZE, overlap):
        covered[tile.rows, tile.columns] += 1
        touching = [
            (row, column)
            for row in rows
            for column in columns
            if row < tile.rows.stop and row + SIZE > tile.rows.start
            and column < tile.columns.stop and column + SIZE > tile.columns.start
        ]  # fmt: skip
        assert list(tile.windows) == touching
        assert (tile.reach_rows.start, tile.reach_columns.start) == touching[0]
        assert tile.reach_rows.stop in ends[0]
        assert tile.reach_columns.stop in ends[1]
        assert (touching[-1][0] + SIZE, touching[-1][1] + SIZE) <= (tile.reach_rows.stop, tile.reach_columns.stop)
        assert touching[-1][1] + SIZE <= tile.reach_columns.stop
    assert (covered == 1).all()


def test_half_overlapping_hills_sum_to_one():
    total = np.zeros((24, 24))
    for row in (0, 6, 12):
        for column in (0, 6, 12):
            total[row : row + 12, column : column + 12] += hill(12)
    np.testing.assert_allclose(total[6:18, 6:18], 1, atol=1e-6)


def test_a_pastis_patch_lies_where_its_metadata_says(tmp_path, monkeypatch):
    monkeypatch.setenv("CLUEMAP_DEVICE", "cpu")
    home = write_pastis(tmp_path / "PASTIS", patches=2, size=28)
    model = write_model(tmp_path / "m.safetensors", ALL)
    make_map(Order(str(model), home, tmp_path / "map.tif", patch="10001"), progress=False)
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.crs == "EPSG:2154"
        assert file.bounds == (420000, 6899720, 420280, 6900000)  # builders.feature: number 1
    with pytest.raises(DataError, match=r"no patch '7'.*10000"):
        make_map(Order(str(model), home, tmp_path / "map.tif", patch="7"), progress=False)


def test_a_germany_tile_lies_where_its_list_says(tmp_path, monkeypatch):
    monkeypatch.setenv("CLUEMAP_DEVICE", "cpu")
    home, generator = tmp_path / "data_IJGI18" / "datasets" / "full" / "240", np.random.default_rng(0)
    shapes = {"x10": (2, 24, 24, 4), "x20": (2, 12, 12, 6), "x60": (2, 4, 4, 3)}
    arrays = {name: generator.integers(1, 4000, shape) for name, shape in shapes.items()}
    (home / "data16").mkdir(parents=True)
    for name in ("7", "8"):
        file, labels = home / "data16" / f"{name}.tfrecord.gz", np.ones((24, 24), int)
        write_tile(file, **arrays, doy=np.array([50, 150]), year=np.full(2, 2016), labels=labels, padded=3)
    write_lists(home, {"7": (690000.0, 5340000.0)}, {})
    model = write_model(tmp_path / "m.safetensors", mtlcc_tile.BANDS)
    make_map(Order(str(model), tmp_path, tmp_path / "map.tif", patch="2016_7"), progress=False)
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.crs == "EPSG:32632"
        assert file.bounds == (690000, 5340000 - 240, 690240, 5340000)
    with pytest.raises(DataError, match=r"geotransforms.csv beside it does not say"):
        make_map(Order(str(model), tmp_path, tmp_path / "map.tif", patch="2016_8"), progress=False)
    with pytest.raises(DataError, match="2016_9"):
        make_map(Order(str(model), tmp_path, tmp_path / "map.tif", patch="2016_9"), progress=False)


def test_models_are_found_by_path_folder_and_run(tmp_path, model):
    folder = tmp_path / "out" / "mine" / "train_segmenter"
    (folder / "model").mkdir(parents=True)
    file = folder / "model" / "segmenter.safetensors"
    file.write_bytes(model.read_bytes())
    (folder / "run.json").write_text(json.dumps({"run_id": "abc123"}))
    assert find_model(str(model)) == model
    assert find_model(str(folder)) == file
    assert find_model("abc123", tmp_path / "out") == file
    for name in ("nosuchrun", str(tmp_path / "out"), "models:/noalias"):
        with pytest.raises(CheckpointError, match=name.split("/")[-1]):
            find_model(name, tmp_path / "out")


def test_a_registered_model_is_found_by_its_alias(root, model):
    from cluemap.tracking.store.mlflow_store import Store

    store = Store()
    client, run = store.client, store.create("mine/results", "evaluate", "key", 0, {})
    client.create_registered_model("cluemap-mine-segmenter")
    client.create_model_version("cluemap-mine-segmenter", "any", run_id=run)
    client.set_registered_model_alias("cluemap-mine-segmenter", "champion", "1")
    address = "models:/cluemap-mine-segmenter@champion"
    with pytest.raises(CheckpointError, match=f"run {run}.*dvc checkout"):
        find_model(address, root / "out")
    file = root / "out" / "mine" / "train_segmenter" / "model" / "segmenter.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(model.read_bytes())
    (root / "out" / "mine" / "evaluate").mkdir()
    (root / "out" / "mine" / "evaluate" / "run.json").write_text(json.dumps({"run_id": run}))
    assert find_model(address, root / "out") == file
    with pytest.raises(TrackingError, match="challenger"):
        find_model(address.replace("champion", "challenger"), root / "out")
    baseline = client.create_model_version(
        "cluemap-mine-segmenter", "gone", run_id=run, tags={"stage": "train_baselines"}
    )
    client.set_registered_model_alias("cluemap-mine-segmenter", "champion", baseline.version)
    with pytest.raises(CheckpointError, match=r"a baseline, and version 2 .* holds no .*--stage train_baselines`"):
        find_model(address, root / "out")  # not the segmenter of the same run


def test_what_cannot_be_mapped(scene, model, tmp_path):
    def refused(match, **changed):
        with pytest.raises(CluemapError, match=match):
            make_map(
                Order(**{"model": str(model), "scene": scene, "out": tmp_path / "map.tif", **changed}), progress=False
            )

    refused("neither scene.yaml", scene=tmp_path / "images")
    refused("ending in .tif", out=tmp_path / "map.png")
    refused("from 0 to under 1", settings=Settings(overlap=1.0))
    refused("--batch 0", settings=Settings(batch=0))
    refused("nowhere.gpkg is missing", parcels=tmp_path / "nowhere.gpkg")
    refused("lacks B11", model=str(write_model(tmp_path / "b.safetensors", ("B04", "B03", "B11"))))
    refused("less than a window of 64", model=str(write_model(tmp_path / "c.safetensors", BANDS, 64)))


def test_what_is_unlike_the_training_is_said_or_refused(scene, tmp_path, monkeypatch, caplog):
    """The script, of a model that knows its training."""

    def call(days):
        file = tmp_path / "trained.safetensors"
        write_model(file, BANDS, training={"days": list(days), "dates": [12, 18, 24]})
        line = ["predict.py", "--model", str(file), "--scene", str(scene), "--out", str(scene / "m.tif")]
        monkeypatch.setattr(sys, "argv", line)
        return script.main()

    monkeypatch.setenv("CLUEMAP_DEVICE", "cpu")
    assert call(range(335, 350)) == 2  # December alone
    assert not list(scene.glob("*m.tif*"))
    assert call(range(60, 300, 10)) == 0
    assert "the scene has 3 dates, the training's windows had 12 to 24" in caplog.text
    assert (scene / "m.tif").exists()


def test_values_that_are_no_reflectance_are_refused(scene, model, tmp_path):
    """Shares of one, without the scale that says so: every value would be 0."""
    for file in (scene / "images").iterdir():
        with rasterio.open(file) as found:
            values = found.read().astype(np.float32) / 10_000
        write_raster(file, values, names=BANDS)
    with pytest.raises(CluemapError, match=r"no reflectance .* \(by their values, 1 would do"):
        make_map(Order(str(model), scene, tmp_path / "map.tif", settings=QUICK), progress=False)
    assert not (tmp_path / "map.tif").exists()


@pytest.mark.parametrize(
    "places", [("LOCAL_RANK",), ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")]
)
def test_a_map_is_made_by_one_process_whatever_a_launcher_left(scene, model, monkeypatch, places):
    values = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
    for name in values:
        monkeypatch.delenv(name, raising=False)
    for name in places:
        monkeypatch.setenv(name, values[name])
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: pytest.fail("it would wait for the others"))
    make_map(Order(str(model), scene, scene / "map.tif", settings=QUICK), progress=False)
    assert (scene / "map.tif").exists()


def test_the_script_says_what_it_made_and_what_is_wrong(scene, model, capsys, monkeypatch):
    def call(*more):
        monkeypatch.setattr(sys, "argv", ["predict.py", "--scene", str(scene), "--out", str(scene / "m.tif"), *more])
        return script.main(), capsys.readouterr()

    status, said = call("--model", str(model), "--tile", "40")
    assert status == 0
    assert "m.tif" in said.out
    status, said = call("--model", "nothing")
    assert status == 2
    assert said.err.startswith("predict: error: --model 'nothing'")


def test_a_full_disk_is_one_message(tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "12.npz")

    monkeypatch.setattr(script, "make_map", full)
    monkeypatch.setenv("CLUEMAP_DEVICE", "cpu")
    line = ["predict.py", "--model", "m", "--scene", str(tmp_path), "--out", str(tmp_path / "map.tif")]
    monkeypatch.setattr(sys, "argv", line)
    assert script.main() == 2
    assert "No space left on device: '12.npz': make room, then the same command continues" in capsys.readouterr().err
