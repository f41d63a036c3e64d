"""What a result cost: seconds of each stage and GPU-hours, from the `run.json` of every stage that it was made of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluemap.files import read_json


def cost(folders: Mapping[str, Path]) -> dict[str, Any]:
    """Stage -> its output folder, to {"seconds": {stage: s}, "total_seconds", "gpu_hours"}; each folder counts once.

    Stages that ran before costs were kept, or left no `run.json`, count nothing.
    """
    cards = {stage: read_json(folder / "run.json") for stage, folder in folders.items() if _has_card(folder)}
    seconds = {stage: float(card.get("seconds", 0.0)) for stage, card in cards.items()}
    hours = sum(seconds[stage] * card.get("gpus", 0) for stage, card in cards.items()) / 3600
    return {"seconds": seconds, "total_seconds": sum(seconds.values()), "gpu_hours": hours}


def _has_card(folder: Path) -> bool:
    return (folder / "run.json").exists()
