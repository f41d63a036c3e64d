"""A scene.yaml that works, written from a folder of images and a file of labels."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cluemap.data.scenes.imagery import Imagery, open_imagery
from cluemap.data.scenes.labels import Labelling
from cluemap.data.scenes.reflectance import check_level, fitting_scale, is_reflectance
from cluemap.data.scenes.scene_file import COLOURS, NAME, Scene, Split, read_scene
from cluemap.data.scenes.scene_reader import split_scene
from cluemap.errors import DataError
from cluemap.files import write_text
from cluemap.mapping.inspection.image_guesses import ImageGuess, guess_images
from cluemap.mapping.inspection.label_guesses import LabelGuess, guess_labels
from cluemap.params import WindowParams

BLOCKS = (4800.0, 2400.0, 1440.0, 960.0, 720.0, 480.0, 360.0, 240.0)  # metres, tried from the largest
ENOUGH = 20  # blocks with labels: four a fold
CRS = re.compile(r"set grid\.crs: (EPSG:\d+)")


@dataclass(frozen=True)
class Proposal:
    """How to cut and split the scene."""

    size: int  # pixels
    stride: int
    block: float  # metres
    gap: float
    windows: int  # that it gives


def describe(images: Path, labels: Path, folder: Path, column: str | None = None, size: int = 24) -> Proposal:
    """Write `folder`/scene.yaml, see that it can be read, and give what params.yaml should say.

    Raises:
        DataError: images or labels that cannot be read; the file is there already.
    """
    file = folder / NAME
    if file.exists():
        raise DataError(f"{file} is there already: move it away, or give another --out")
    seen, told = guess_images(images), guess_labels(labels, column)
    text = _Text(seen, told, _relative(images, folder), _relative(labels, folder))
    try:
        scene, imagery, text = _opened(folder, text)
        if imagery.grid.height < size or imagery.grid.width < size:
            size = max(4, min(imagery.grid.height, imagery.grid.width) // 5)
        proposal = _proposal(folder, scene, imagery, size)
    except DataError:
        file.unlink(missing_ok=True)
        raise
    write_text(file, replace(text, proposal=proposal).yaml())
    return proposal


@dataclass(frozen=True)
class _Text:
    """All that goes into the file."""

    images: ImageGuess
    labels: LabelGuess
    path: str
    file: str
    grid: str | None = None
    scale: float | None = None
    proposal: Proposal = Proposal(24, 24, 4800.0, 240.0, 0)

    def yaml(self) -> str:
        seen, told, plan = self.images, self.labels, self.proposal
        hints = "".join(f"# guessed, please check: {text}\n" for text in (*seen.guessed, *told.guessed))
        lines = [
            f"# Written by src/describe_scene.py; docs/data/scene.md explains every key.\n{hints}images:",
            f"  kind: {seen.kind}",
            f"  path: {json.dumps(self.path)}",
            f"  bands: {_list(seen.bands)}",
            *([f"  file_bands: {_list(seen.file_bands)}"] if seen.file_bands else []),
            *([f"  true_colour: {_list(seen.true_colour)}"] if seen.true_colour != ["B04", "B03", "B02"] else []),
            *([f"  scale: {self.scale:g}  # guessed from the values"] if self.scale else []),
            *([f"grid: {{crs: {self.grid}, resample: true}}  # the images lie on no grid of metres"]
              if self.grid else []),
            "classes:  # merge crops by listing several values; remove those that should not be learned",
            *(f'  - {{name: {_name(value)}, colour: "{COLOURS[i % len(COLOURS)]}", values: [{json.dumps(value)}]}}'
              f"  # {count} features" for i, (value, count) in enumerate(told.counts.most_common())),
            f"labels:\n  kind: {told.kind}\n  file: {json.dumps(self.file)}",
            f"  column: {json.dumps(told.column, ensure_ascii=False)}",
            *(f"  {key}: {json.dumps(value)}" for key, value in told.settings.items()),
            *(["  outside: unlabelled  # background: if the file holds every field, and the rest is no crop"]
              if told.kind == "polygons" else []),
            f"split: {{block: {plan.block:g}, gap: {plan.gap:g}, seed: 0}}  # metres",
            f"# params.yaml: windows: {{size: {plan.size}, stride: {plan.stride}}}  # {plan.windows} windows",
        ]  # fmt: skip
        return "\n".join(lines) + "\n"


def _opened(folder: Path, text: _Text) -> tuple[Scene, Imagery, _Text]:
    """Scene and imagery with the guesses so far, following what the errors advise about grid and scale."""
    imagery = None
    for _ in range(3):
        write_text(folder / NAME, text.yaml())
        try:
            scene = read_scene(folder)
            imagery = open_imagery(folder, scene)
        except DataError as error:
            advised = CRS.search(str(error))
            crs = advised[1] if advised else "null" if "grid.resample: true" in str(error) else None
            if crs is None or text.grid:
                raise
            text = replace(text, grid=crs)
            continue
        if is_reflectance(imagery) or text.scale:
            break
        text = replace(text, scale=fitting_scale(imagery))
        if text.scale is None:
            raise DataError(f"{folder / text.path}: the values are no reflectance with any usual scale")
    if imagery is None:
        raise DataError(f"{folder / text.path}: the images cannot be brought to one grid: set grid in {NAME} by hand")
    return scene, imagery, text


def _proposal(folder: Path, scene: Scene, imagery: Imagery, size: int) -> Proposal:
    """The largest blocks that leave enough of them, with as large a gap as they allow."""
    check_level(imagery, folder)
    labels = Labelling(folder, scene, imagery.grid)
    params = WindowParams(size=size, stride=size, flush_edge=False, max_dates=60, presence=0.01, fold=1)
    last = ""
    best: Proposal | None = None
    for block in BLOCKS:
        for gap in (240.0, 100.0, 0.0):
            plan = Proposal(size, size, block, gap, 0)
            cut = scene.model_copy(update={"split": Split(block=block, gap=gap)})
            try:
                reader = split_scene(folder, cut, imagery, labels, params)
            except DataError as error:
                last = str(error)
                if "split.block" in last:
                    continue
                raise
            per = sum(_count(piece.rows, size) * _count(piece.columns, size) for piece in reader.pieces)
            best = best or replace(plan, windows=per)
            if len(reader.blocks) >= ENOUGH:
                return replace(plan, windows=per)
            break
    if best is None:
        raise DataError(f"no spatial split of this scene holds five blocks with labels: {last}")
    return best


def _count(side: slice, size: int) -> int:
    return (side.stop - side.start) // size


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _list(names: Sequence[str]) -> str:
    return "[" + ", ".join(json.dumps(name) if not re.fullmatch(r"[A-Za-z]\w*", name) else name for name in names) + "]"


def _name(value: str) -> str:
    """A class's name: `background` has a meaning of its own, and a number reads as one."""
    return json.dumps(f"class {value}" if value.isdigit() else value, ensure_ascii=False)
