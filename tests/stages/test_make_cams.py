"""The files of stage make_cams: every window's CAM in its own row, whatever batches they came in."""

import numpy as np
import pytest
import tiny
import torch
from builders import write_prepared

from cluemap.data.batches import stream
from cluemap.data.windows import Windows
from cluemap.params import load_params
from cluemap.runtime.distributed import Ranks
from cluemap.stages.make_cams import SPLITS, cam_file, make_cams
from cluemap.training.classifier_task import new_classifier
from cluemap.training.inference import cams

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
    metrics = make_cams(network, clues, windows, params, Ranks(0, 1, torch.device("cpu")), root)
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
