"""The files of stage make_cams: every window's CAM in its own row, whatever batches they came in."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import tiny
import torch
from builders import write_prepared

from cluemap.data.batches import stream
from cluemap.data.windows import Windows
from cluemap.model.method.cams import min_max
from cluemap.model.method.pseudo_masks import upsample
from cluemap.params import load_params
from cluemap.runtime.distributed import Ranks
from cluemap.stages.make_cams import SPLITS, cam_file, make_cams
from cluemap.stages.make_masks import score_source
from cluemap.training.classifier_task import new_classifier
from cluemap.training.inference import cams, shifted_cams

SOURCES = ["fused", "clue"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A network that learnt nothing, and the CAMs written with it in batches of 3."""
    root = tmp_path_factory.mktemp("camming")
    file = tiny.write_params(
        root / "params.yaml",
        {"cams": {"source": "fused", "compare": ["clue"]}, "compute": {"inference_batch": 3}},
    )
    params = load_params("tiny", file)
    counts = {"train": 11, "validation": 4, "test": 2}
    write_prepared(root / "windows", counts=counts, classes=3, size=14, bands=5, dataset="tiny")
    windows = Windows.open(root / "windows")
    network, clues = new_classifier(windows, params)
    metrics = make_cams(network, clues, windows, params, Ranks(0, 1, torch.device("cpu")), root, root / "state")
    return network, clues, windows, params, root / "cams", metrics


def test_each_row_is_its_windows(made):
    network, clues, windows, params, folder, _ = made
    for split in SPLITS:
        indexes = windows.indexes(split)
        written = {source: np.load(cam_file(folder, source, split)) for source in SOURCES}
        assert {len(maps) for maps in written.values()} == {len(indexes)}
        for row, batch in enumerate(stream(windows, indexes[:, None], torch.device("cpu"))):
            alone = cams(network, clues, batch, SOURCES, params)[0]
            for source in SOURCES:
                np.testing.assert_allclose(written[source][row], alone[source][0].numpy(), atol=2e-3)


def test_rows_differ(made):
    """Otherwise the test above would say nothing of their order."""
    _, _, windows, _, folder, _ = made
    maps = np.load(cam_file(folder, "clue", "train"))
    assert len(np.unique(maps.reshape(len(maps), -1), axis=0)) == len(windows.indexes("train"))


def test_metrics_are_of_the_files(made):
    _, _, windows, _, folder, metrics = made
    assert metrics["windows"] == 15
    labels = windows.image_labels[windows.indexes("train")]
    for source in SOURCES:
        maps = np.load(cam_file(folder, source, "train")).astype(np.float64)
        assert metrics["mean_score"][source] == pytest.approx(maps[labels].mean(), rel=1e-5)
        assert not maps[~labels].any()


def test_shifted_grids_are_a_mean_at_every_pixel(made):
    """Against loops over grids and pixels: a pixel takes part where a moved window still holds it at its own place."""
    network, clues, windows, params, *_ = made
    (batch,) = stream(windows, windows.indexes("train")[None, :3], torch.device("cpu"))
    size = windows.card.size
    together, times = dict.fromkeys(SOURCES, 0.0), np.zeros((size, size))
    for down, right in product(range(size // network.side), repeat=2):
        padded = np.pad(batch.images.numpy(), [(0, 0)] * 3 + [(0, down), (0, right)], mode="edge")
        moved = torch.from_numpy(padded[..., down:, right:].copy())
        found = cams(network, clues, replace(batch, images=moved), SOURCES, params)[0]
        for source in SOURCES:
            cam = upsample(found[source], size).numpy()
            back = np.zeros_like(cam)
            for row, column in product(range(down, size), range(right, size)):
                back[..., row, column] = cam[..., row - down, column - right]
            together[source] = together[source] + back
        for row, column in product(range(down, size), range(right, size)):
            times[row, column] += 1
    shifted, watched = shifted_cams(network, clues, batch, SOURCES, params)
    for source in SOURCES:
        expected = min_max(torch.from_numpy(together[source] / times)) * batch.image_labels[:, :, None, None]
        np.testing.assert_allclose(shifted[source].numpy(), expected.numpy(), atol=1e-5)
        assert not np.allclose(shifted[source], upsample(cams(network, clues, batch, SOURCES, params)[0][source], size))
    torch.testing.assert_close(watched.attention, cams(network, clues, batch, SOURCES, params)[1].attention)


def test_shifted_grids_are_written_in_pixels(made, tmp_path):
    network, clues, windows, params, *_ = made
    params = params.model_copy(update={"cams": params.cams.model_copy(update={"shifted_grids": True})})
    make_cams(network, clues, windows, params, Ranks(0, 1, torch.device("cpu")), tmp_path, tmp_path / "state")
    maps = np.load(cam_file(tmp_path / "cams", "clue", "train"))
    assert maps.shape == (11, 3, windows.card.size, windows.card.size)
    score_source(windows, tmp_path / "cams", "clue", "train", 0.3, params)  # read as CAMs of the grid are
