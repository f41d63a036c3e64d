"""The bench's arithmetic and its table; nothing is timed here."""

import sys

import pytest
from locations import PROJECT

sys.path.insert(0, str(PROJECT / "bench"))

import table
import work

ABOUT = {"size": "paper", "date": "2026-11-21", "processor": "a processor", "threads": 1, "torch": "2", "clock": "cpu"}


def record(rate: float, ceiling: float) -> dict:
    place = {"what": "cams", "precision": "bf16", "dates": 60, "classes": 18, "batch": 4}
    line = {**place, "windows_per_second": rate, "gflops": 54 * rate, "ceiling": ceiling, "memory_gb": 1.5}
    top = {"what": "ceiling", "precision": "fp32", "dates": 60, "classes": 18, "batch": 4, "memory_gb": 1.0}
    return {"about": ABOUT, "lines": [{**top, "fp32_gflops": 100.0, "bf16_gflops": 400.0, "copy_gbps": 9.0}, line]}


def test_operations_of_the_paper():
    """METHOD's sizes by hand: tokens x layers x (2 weights + 4 tokens x inner width)."""
    told, size = work.params("paper", "fp32"), work.SIZES["paper"]
    temporal = 144 * 78 * 8 * (2 * 262_144 + 4 * 78 * 256)
    spatial = 18 * 145 * 4 * (2 * 262_144 + 4 * 145 * 256)
    assert work.classifier_operations(size, told.classifier) == temporal + spatial
    assert work.classifier_operations(size, told.classifier, spatial=False) == temporal
    segmenter = 144 * 79 * 4 * (2 * 196_608 + 4 * 79 * 128) + 19 * 144 * 4 * (2 * 196_608 + 4 * 144 * 128)
    assert work.segmenter_operations(size, told.segmenter) == segmenter


def test_shares_are_of_the_ceiling_beside_the_line():
    row = table.markdown(record(rate=2.0, ceiling=50.0)).splitlines()[-1]
    assert row == "| cams | bf16 | 60, 18, 4 | 2 windows/s | 108 | 54 % | 1.50 GB |"  # 108 / (50 x 400 / 100)


def test_another_machine_is_compared_by_its_ceiling():
    text = table.compared(record(rate=6.0, ceiling=100.0), record(rate=2.0, ceiling=50.0))
    assert text.splitlines()[-1] == "| cams | bf16 | 60 | 4 | 1.50 |"


def test_the_released_code_is_met_at_its_own_ceiling():
    """Twice the ceiling here: half a second here is a second there, 0.55 of which were needed."""
    made = record(rate=2.0, ceiling=380.0)
    assert table.against_released(made).splitlines()[-1] == "| cams | bf16 | 0.50 | 1.00 | 0.55 | 0.6 | 1.50 GB |"
    assert table.against_released({**made, "about": {**ABOUT, "size": "demo"}}) == ""


def test_the_context_loss_is_set_against_the_step_without_it():
    made = record(rate=6.0, ceiling=100.0)
    plain = made["lines"][1]
    other = {"what": f"cams{table.WITH_CSCL}", "windows_per_second": 2.0, "ceiling": 50.0, "memory_gb": 1.8}
    made["lines"].append({**plain, **other})
    assert table.cost_of_context(made).splitlines()[-1] == "| cams | bf16 | 4 | 1.50 | 1.20 |"
    assert table.cost_of_context(record(rate=6.0, ceiling=100.0)) == ""


@pytest.mark.parametrize("network", work.SEGMENTERS)
def test_a_step_with_the_context_loss_has_both_losses(network):
    told = work.params("demo", "fp32")
    told = told.model_copy(update={"cscl": told.cscl.model_copy(update={"kind": "joint"})})
    size = work.Size(dates=3, classes=2, batch=1)
    here = work.ranks("cpu")
    assert set(work.training(network, size, told, here)(work.batch(size, here.device), 0)) == {
        "total",
        "pixels",
        "context",
    }


@pytest.mark.parametrize("size", work.SIZES)
def test_a_batch_has_the_size_asked_for(size):
    import torch

    made = work.batch(work.SIZES[size], torch.device("cpu"))
    assert made.images.shape == (made.image_labels.shape[0], work.SIZES[size].dates, 10, 24, 24)
