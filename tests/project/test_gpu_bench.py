"""bench/gpu.py without a GPU: every part runs, errors and missing time are noted, and parity can fail."""

import argparse
import json
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from locations import PROJECT

sys.path.insert(0, str(PROJECT / "bench"))

import gpu
import gpu_parity as parity
import gpu_parts as parts
import torch.fx.experimental._config as meta_config
import work


def measured(folder: Path, plan=None, seconds: float = 290.0, size: str = "tiny") -> dict:
    bench = parts.Bench("cpu", parts.SCALES[size], folder, {})
    given = argparse.Namespace(size=size, device="cpu", seconds=seconds, out=folder / "record.json")
    record = gpu.measured(plan or gpu.every_part(bench), given, bench)
    assert json.loads(given.out.read_text()) == record
    return record


@pytest.mark.slow
def test_every_part_runs_and_agrees_with_the_cpu(tmp_path):
    """The other side of parity is here what a GPU runs: blocks and attention over dates outside the CPU's tiles."""
    record = measured(tmp_path)
    assert [line["part"] for line in record["lines"] if "error" in line or "skipped" in line] == []
    checked = {line["part"]: line for line in record["lines"] if "errors" in line}
    assert all(line["within"] for name, line in checked.items() if "bf16" not in name)
    assert all(0 < line["largest"] < 0.05 for name, line in checked.items() if "bf16" in name)
    assert checked["parity classifier, fp32"]["largest"] > 0  # another way through the same maths
    rated = [line for line in record["lines"] if "windows_per_second" in line]
    assert len(rated) == 16
    assert all(line["windows_per_second"] > 0 for line in rated)
    text = gpu.markdown(record)
    assert all(line["part"] in text for line in rated)
    assert "| clue maths, fp32 |" in text


def test_an_error_is_noted_and_the_next_part_has_its_turn(tmp_path):
    def bad() -> dict:
        raise torch.OutOfMemoryError("no room")

    plan = [gpu.Part("bad", 1, bad), gpu.Part("good", 1, lambda: {"windows_per_second": 2.0})]
    lines = measured(tmp_path, plan)["lines"]
    assert (lines[0]["error"], lines[1]["windows_per_second"]) == ("OutOfMemoryError: no room", 2.0)
    assert lines[0]["where"].startswith("test_gpu_bench.py:")


def test_what_does_not_fit_is_skipped(tmp_path):
    plan = [gpu.Part("long", 61, dict), gpu.Part("short", 1, dict)]
    first, second = measured(tmp_path, plan, seconds=60.0, size="paper")["lines"]
    assert first["skipped"] == "may need 61 s, 60 are left"
    assert "skipped" not in second


def test_all_parts_of_the_paper_may_need_less_than_is_given_but_for_compilation():
    bench = parts.Bench("cpu", parts.SCALES["paper"], Path(), {})
    plan = gpu.every_part(bench)
    assert [part.name.endswith("compiled") for part in plan][-3:] == [True] * 3
    assert not any(part.name.endswith("compiled") for part in plan[:-3])


@pytest.mark.parametrize("wrong", [1.001, float("nan")])
def test_parity_notices_what_differs(wrong):
    expected = {"maps": torch.ones(5, 7), "mask": torch.arange(35)}
    assert parity.compared(dict(expected), expected, parity.LIMIT)["within"]
    assert not parity.compared({**expected, "maps": expected["maps"] * wrong}, expected, parity.LIMIT)["within"]
    assert not parity.compared({**expected, "mask": expected["mask"] + 1}, expected, parity.LIMIT)["within"]
    assert not parity.compared({**expected, "maps": torch.ones(5, 8)}, expected, parity.LIMIT)["within"]


@pytest.mark.parametrize("network", gpu.NETWORKS)
def test_a_training_step_makes_nothing_on_another_device(network, monkeypatch):
    """torch refuses to mix its device without data, `meta`, with the CPU, as it refuses to mix a GPU with it."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it knows no `meta`
    told, size, here = work.params("paper", "fp32"), work.Size(7, 5, 3), work.ranks("meta")
    task, made = work.task_of(network, size, told, here), work.batch(size, here.device)
    with meta_config.patch(meta_nonzero_assume_all_nonzero=True):
        parts_of = task.losses(lambda b: task.network(b.images, b.day, b.valid), made, told.clues.start_step)
        parts_of["total"].backward()
    assert {value.device.type for value in parts_of.values()} == {"meta"}
    assert {weight.grad.device.type for weight in task.network.parameters() if weight.grad is not None} == {"meta"}
