"""Maps say how sure they are, by the model's temperature; and which land should be labelled next."""

from dataclasses import replace

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from scenes import LEFT, TOP, write_scene
from test_predict import BANDS, CARD, HEIGHT, QUICK, SIZE, WIDTH, Reader, reader, scene, truth, unseen

from cluemap.errors import DataError
from cluemap.mapping import map_products
from cluemap.mapping.map_products import Order, make_map

__all__ = ["reader", "scene", "truth", "unseen"]  # fixtures
FILES = {"kind": "files", "path": "images", "bands": list(BANDS)}


def read(path):
    with rasterio.open(path) as file:
        return file.read(1)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_uncertainty_is_the_calibrated_entropy(unseen, scene, reader, monkeypatch, temperature):
    """The reader's logits are 4 and three times 0."""
    monkeypatch.setattr(map_products, "load_segmenter", lambda file: (Reader(), replace(CARD, temperature=temperature)))
    make_map(Order(str(reader), scene, scene / "map.tif", settings=QUICK), progress=False)
    shares = np.exp(np.array([4, 0, 0, 0]) / temperature)
    shares /= shares.sum()
    found, sure = read(scene / "map_uncertainty.tif"), read(scene / "map_confidence.tif")
    assert set(np.unique(found[~unseen])) == {round(-100 * (shares * np.log(shares)).sum() / np.log(4))}
    assert set(np.unique(sure[~unseen])) == {round(100 * shares[0])}
    assert (found[unseen] == 255).all()


class Doubting(Reader):
    """Unsure of every pixel whose second band is bright."""

    def forward(self, images, day, valid):
        bright = images[:, :, 1].amax(dim=1, keepdim=True) > 5000
        return super().forward(images, day, valid) * (~bright).float()


@pytest.fixture
def labelled(scene, truth, monkeypatch, tmp_path, reader):
    """Fields of 6 x 6 pixels; those in the upper half have labels, two of the others are unsure ones."""
    fields, doubtful = [], []
    for row in range(12, HEIGHT - 6, 7):
        for column in range(0, WIDTH - 6, 7):
            fields.append((row, column))
    doubtful = [number for number, place in enumerate(fields) if place in ((33, 14), (40, 49))]
    for file in sorted((scene / "images").glob("*.tif")):
        with rasterio.open(file, "r+") as image:
            bands = image.read()
            for number in doubtful:
                row, column = fields[number]
                bands[1, row : row + 6, column : column + 6] = 6000
            image.write(bands)
    shapes = [shapely.box(LEFT + 10 * c, TOP - 10 * (r + 6), LEFT + 10 * (c + 6), TOP - 10 * r) for r, c in fields]
    table = gpd.GeoDataFrame({"crop": ["corn"] * len(fields)}, geometry=shapes, crs="EPSG:32632")
    table.to_file(scene / "parcels.gpkg")
    table[[row < 30 for row, _ in fields]].to_file(scene / "fields.gpkg")
    spec = {"kind": "polygons", "file": "fields.gpkg", "column": "crop"}
    write_scene(scene, FILES, labels=spec, classes=[{"name": "corn"}])
    monkeypatch.setattr(map_products, "load_segmenter", lambda file: (Doubting(), CARD))
    return [f"parcel {number}" for number in doubtful], {f"parcel {n}" for n, (row, _) in enumerate(fields) if row < 30}


@pytest.mark.parametrize("scale", [1, 2])
def test_the_unsure_unlabelled_fields_come_first(labelled, scene, reader, scale):
    doubtful, done = labelled
    settings = replace(QUICK, scale=scale)
    order = Order(
        str(reader), scene, scene / "map.tif", parcels=scene / "parcels.gpkg", settings=settings, label_next=5
    )  # fmt: skip
    files = make_map(order, progress=False)
    assert scene / "map_label_next.gpkg" in files
    assert not (scene / "map_probability.tif").exists()
    table = gpd.read_file(scene / "map_label_next.gpkg")
    assert set(table["candidate"][:2]) == set(doubtful)
    assert not set(table["candidate"]) & done
    assert table["rank"].tolist() == [1, 2, 3, 4, 5]
    assert table["uncertainty"][0] > table["uncertainty"][4]
    assert table.crs == "EPSG:32632"
    parcels = gpd.read_file(scene / "parcels.gpkg")
    row = int(table["candidate"][0].split()[1])
    assert table.geometry[0].equals(parcels.geometry[row])


def test_windows_where_there_are_no_parcels(labelled, scene, reader):
    make_map(Order(str(reader), scene, scene / "map.tif", settings=QUICK, label_next=3), progress=False)
    table = gpd.read_file(scene / "map_label_next.gpkg")
    assert len(table) == 3
    assert np.allclose(table.geometry.area, (10 * SIZE) ** 2)
    held = gpd.read_file(scene / "parcels.gpkg").geometry[[int(name.split()[1]) for name in labelled[0]]]
    assert table.geometry[0].intersects(shapely.union_all(held.to_numpy()))


def test_labels_that_were_filled_in_are_not_overwritten(labelled, scene, reader):
    """Asked, labelled, trained again, asked again: the second list must not cost the labels of the first."""
    order, file = (
        Order(str(reader), scene, scene / "map.tif", settings=QUICK, label_next=3),
        scene / "map_label_next.gpkg",
    )
    make_map(order, progress=False)
    table = gpd.read_file(file)
    table["label"] = ["wheat", *table["label"][1:]]
    table.to_file(file, driver="GPKG", layer="label_next")
    (scene / "map.tif").unlink()
    with pytest.raises(DataError, match="holds 1 labels: move it away"):
        make_map(order, progress=False)
    assert gpd.read_file(file)["label"][0] == "wheat"
    assert not (scene / "map.tif").exists()  # said before hours of work
    table.assign(label="").to_file(file, driver="GPKG", layer="label_next")
    make_map(order, progress=False)


def test_a_scene_without_labels_can_be_asked_too(scene, reader):
    make_map(Order(str(reader), scene, scene / "map.tif", settings=QUICK, label_next=4), progress=False)
    assert len(gpd.read_file(scene / "map_label_next.gpkg")) == 4


def test_nothing_left_to_label(labelled, scene, reader):
    gpd.read_file(scene / "parcels.gpkg").to_file(scene / "fields.gpkg")
    order = Order(str(reader), scene, scene / "map.tif", parcels=scene / "parcels.gpkg", settings=QUICK, label_next=4)
    with pytest.raises(DataError, match=r"all of the .* candidates have labels"):
        make_map(order, progress=False)
