"""Files that params name: read beside data and outputs, so that a result depends on their content too."""

from pathlib import Path

from cluemap.params import Params
from cluemap.paths import ROOT


def named_files(params: Params) -> dict[str, Path]:
    """Key of params -> the file that it names, there or not; only keys that name one."""
    found = {}
    if params.labelled.file:
        found["labelled.file"] = ROOT / params.labelled.file
    if params.segmenter.init != "none":
        from cluemap.model.storage.initial_weights import model_file  # torch: seconds, spared where nothing is named

        found["segmenter.init"] = model_file(params.segmenter.init)
    return found


def read_by(stage: str, params: Params) -> list[Path]:
    """Those that a stage reads."""
    readers = {
        "labelled.file": stage not in ("prepare", "prepare_parcels"),
        "segmenter.init": stage in ("train_segmenter", "train_reference"),
    }
    return [file for key, file in named_files(params).items() if readers[key]]
