"""What the report shows of other stages' folders."""

from pathlib import Path

import torch

from cluemap.params import load_params
from cluemap.runtime.distributed import Ranks
from cluemap.stages.result_report import _curve
from cluemap.stages.stage import Stage


def test_the_learning_curve_is_shown_where_there_is_one(tmp_path: Path):
    alone = Ranks(0, 1, torch.device("cpu"))
    stage = Stage("evaluate", load_params("demo"), alone, tmp_path, tmp_path / "prepared")
    assert _curve(stage) == []
    file = tmp_path / "demo" / "ablate" / "learning_curve.png"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"a picture")
    (part,) = _curve(stage)
    assert (part["kind"], part["file"]) == ("picture", str(file))
