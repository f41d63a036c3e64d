"""Windows of a network that sees a few pixels: the map is what it says of the raster as a whole."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cluemap.data.patches import CropClass, Legend
from cluemap.data.scenes.grid import Blocks
from cluemap.mapping.map_canvas import PROBABILITY, Canvas
from cluemap.mapping.map_sources import PatchImagery
from cluemap.mapping.overlap_blending import core, hill, tiles
from cluemap.mapping.raster_prediction import Settings, layout, predict
from cluemap.model.networks.ltae import LtaeSegmenter
from cluemap.model.storage.trained_models import Card
from cluemap.params import load_params

SIZE, HEIGHT, WIDTH, DATES, BANDS, REACH = 11, 37, 53, 5, 3, 2
LEGEND = Legend(tuple("abc"), (0, 1, 2), tuple(CropClass(f"crop {k}", "#112233") for k in range(4)), True)
CARD = Card("mine", "0", LEGEND, SIZE, 60, np.full(3, 1500, np.float32), np.full(3, 600, np.float32))
DAYS = np.array([20, 90, 140, 200, 310], np.int16)


def network() -> LtaeSegmenter:
    torch.manual_seed(0)
    params = load_params("demo").ltae.model_copy(update={"convolutions": REACH})
    made = LtaeSegmenter(BANDS, 5, params).eval()
    for weights in made.parameters():
        torch.nn.init.normal_(weights, std=0.3)
    return made


def mapped(images, folder, segmenter, **settings) -> tuple[np.ndarray, int]:
    grid = SimpleNamespace(height=images.shape[2], width=images.shape[3])
    imagery = PatchImagery(grid, DAYS, [], images)
    layers = {"classes": 1, "confidence": 1, "uncertainty": 1, PROBABILITY: 5}
    canvas = Canvas(folder, images.shape[2], images.shape[3], layers, {})
    count = predict(segmenter, CARD, imagery, canvas, Settings(**settings), torch.device("cpu"), False)
    return np.array(canvas.open(PROBABILITY)), count


@pytest.fixture
def images():
    return np.random.default_rng(4).integers(500, 4000, (DATES, BANDS, HEIGHT, WIDTH)).astype(np.int16)


def test_the_map_of_ltae_is_the_networks_answer_to_the_whole_raster(images, tmp_path):
    segmenter = network()
    found, count = mapped(images, tmp_path / "exact", segmenter, tile=23, batch=7)
    with torch.no_grad():
        normalised = torch.from_numpy((images.astype(np.float32) - 1500) / 600)[None]
        logits = segmenter(normalised, torch.from_numpy(DAYS)[None].long(), torch.ones(1, DATES, dtype=torch.bool))
    expected = 100 * logits.softmax(dim=1)[0].numpy()
    assert len(np.unique(found)) > 20  # the random network says something
    np.testing.assert_allclose(found, expected, atol=0.6)
    by_half, many = mapped(images, tmp_path / "half", segmenter, tile=23, batch=7, overlap=0.5)
    assert np.abs(by_half - expected).max() > 0.7  # windows by themselves see zeros where the raster goes on
    assert count < 0.55 * many


@pytest.mark.parametrize(
    ("overlap", "reach", "shortest", "shared", "size"),
    [(None, None, 99, 6, 11), (None, 2, 99, 4, 15), (None, 0, 99, 0, 11), (0.25, 2, 99, 3, 11), (None, 2, 14, 6, 11)],
)
def test_how_windows_lie(overlap, reach, shortest, shared, size):
    """Half; the reach to both sides; none; as asked; a raster too small for larger windows."""
    plan = layout(Settings(overlap=overlap), SIZE, reach, shortest)
    assert (plan.shared, plan.size) == (shared, size)


@pytest.mark.parametrize("reach", [0, 2])
def test_every_pixel_but_those_of_the_raster_s_rim_is_in_the_core_of_a_window(reach):
    size = SIZE + 2 * reach
    seen = np.zeros((HEIGHT, WIDTH))
    for tile in tiles(HEIGHT, WIDTH, Blocks(1000, 1000), size, 2 * reach):
        for row, column in tile.windows:
            seen[row : row + size, column : column + size] += core(size, reach) == 1
    assert (seen[reach : HEIGHT - reach, reach : WIDTH - reach] >= 1).all()
    assert core(size, reach).shape == hill(size).shape
