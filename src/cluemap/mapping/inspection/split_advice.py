"""What could help a spatial split in which some class lacks windows."""

from collections import Counter
from collections.abc import Iterable, Mapping

from cluemap.data.image_labels import split_of
from cluemap.data.patches import SPLITS
from cluemap.data.scenes.scene_reader import SceneReader
from cluemap.data.scenes.spatial_split import assign_folds
from cluemap.data.scenes.tables import listed

SEEDS = 200  # tried


def missing(windows: Mapping[str, Counter[str]], names: Iterable[str]) -> list[str]:
    """One text a split: the classes that have windows, but none in it."""
    names = [name for name in names if any(counter[name] for counter in windows.values())]
    found = []
    for split in SPLITS:
        lacking = [name for name in names if not windows[split][name]]
        if lacking:
            found.append(f"the {split} split has no window of {listed(lacking)}")
    return found


def advice(reader: SceneReader, held: Mapping[str, Counter[str]], fold: int, block: float) -> str:
    """The split.seed that gives every class windows in every split, if there is one; else why there is none.
    `held`: block -> windows per class."""
    if reader.fields is not None:
        return "fields are kept whole, their classes as even as blocks allow: set a smaller split.block, or label more"
    names = {name for counter in held.values() for name, count in counter.items() if count}
    for seed in range(SEEDS):
        folds = assign_folds(list(reader.blocks), seed)
        splits: dict[str, set[str]] = {split: set() for split in SPLITS}
        for name, counter in held.items():
            splits[split_of(folds[name], fold)].update(crop for crop, count in counter.items() if count)
        if all(crops == names for crops in splits.values()):
            return f"set split.seed: {seed} (tried out: every class then has windows in every split)"
    rare = sorted(name for name in names if sum(bool(counter[name]) for counter in held.values()) < len(SPLITS))
    if rare:
        return (
            f"no split.seed can help: {listed(rare)} lie in fewer than {len(SPLITS)} blocks; set split.block under "
            f"{block:g}, label more land, or merge classes"
        )
    return f"none of {SEEDS} seeds helps: set split.block under {block:g}, or label more land"
