"""A model's temperature from the validation fold, against its logits taken one window at a time."""

import numpy as np
import pytest
import torch
from builders import write_prepared

from cluemap.data.batches import load
from cluemap.data.windows import Windows
from cluemap.params import load_params
from cluemap.runtime.distributed import Ranks
from cluemap.statistics.calibration import calibrated, fit_temperature, reliability
from cluemap.statistics.model_calibration import calibration_on, labelled_logits, temperature_of

SIZE, CLASSES = 11, 3
ALONE = Ranks(0, 1, torch.device("cpu"))


class Overconfident(torch.nn.Module):
    """Logits from the first band of the first date, far too sure."""

    def forward(self, images, day, valid):
        first = images[:, 0, :1]
        return 40 * torch.cat([first * weight for weight in (0.1, -0.3, 0.5, 0.2)], dim=1)


@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "windows"
    counts = {"train": 7, "validation": 13, "test": 5}
    return Windows.open(write_prepared(folder, counts, classes=CLASSES, size=SIZE, bands=5))


@pytest.fixture(scope="module")
def params():
    params = load_params("demo")
    return params.model_copy(update={"compute": params.compute.model_copy(update={"inference_batch": 4})})


def slow(windows, split):
    """Logits and classes, one window after another."""
    logits, labels = [], []
    for row, index in enumerate(windows.indexes(split)):
        batch = load(windows, np.array([index]))
        found = Overconfident()(batch.images, batch.day, batch.valid)[0].double().numpy()
        for r, c in np.ndindex(SIZE, SIZE):
            truth = windows.masks(split)[row][r, c]
            if truth != 255:
                logits.append(found[:, r, c])
                labels.append(int(truth))
    return np.array(logits), np.array(labels)


def test_against_one_window_at_a_time(windows, params):
    logits, labels = slow(windows, "validation")
    found = labelled_logits(Overconfident(), windows, "validation", params, ALONE)
    np.testing.assert_allclose(found[0], logits, atol=1e-5)
    np.testing.assert_array_equal(found[1], labels)
    temperature = temperature_of(Overconfident(), windows, params, ALONE)
    assert temperature == pytest.approx(fit_temperature(logits, labels), abs=6e-4)
    assert temperature > 3


def test_the_test_fold_is_scored_with_the_given_temperature(windows, params):
    logits, labels = slow(windows, "test")
    found = calibration_on(Overconfident(), 20.0, windows, "test", params, ALONE)
    expected = reliability(calibrated(logits, 20.0), labels)
    assert found.after.expected_error == pytest.approx(expected.expected_error, abs=1e-6)
    assert found.before.expected_error > found.after.expected_error + 0.1


def test_no_label_no_temperature(windows, params, monkeypatch):
    monkeypatch.setattr(Windows, "masks", lambda self, split: np.full((13, SIZE, SIZE), 255, np.uint8))
    assert temperature_of(Overconfident(), windows, params, ALONE) == 1.0
