"""Trained networks as files: everything that is needed to use one stands in the file itself."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cluemap.data.patches import Legend
from cluemap.data.windowing import DateChoice
from cluemap.data.windows import Windows
from cluemap.errors import CheckpointError
from cluemap.model.method.clues import Clues
from cluemap.model.networks.classifier import Classifier
from cluemap.model.networks.context import ContextSegmenter
from cluemap.model.networks.pixel_segmenter import PixelSegmenter, pixel_segmenter
from cluemap.model.networks.segmenter import Segmenter, build_segmenter
from cluemap.model.networks.stand_in import METADATA, StandInSegmenter
from cluemap.model.networks.stand_in_classifier import StandInClassifier
from cluemap.model.storage import checkpoints
from cluemap.params import ClassifierParams, CsclParams, LtaeParams, Params, SegmenterParams

PIXELS = "pixels"  # kind of a segmenter that train_baselines fitted
CLASSIFIER, SEGMENTER = "classifier.safetensors", "segmenter.safetensors"
# What a file written before these keys existed does not say; neither changes a network whose weights are given.
ADDED_LATER = {"token_spread": 1.0, "weight_averaging": 0.0, "whitening": 0.0}
UNUSED_LTAE = {"width": 1, "heads": 1, "key_width": 1, "value_width": 1, "convolutions": 0, "dropout": 0.0}


@dataclass(frozen=True)
class Training:
    """What the training windows held, to compare a scene with that is to be mapped."""

    days: tuple[int, ...]  # days of the year with data, rising
    dates: tuple[int, int, int]  # dates with data in a window: fewest, median, most


@dataclass(frozen=True)
class Card:
    """What a model was trained on and how its inputs are made."""

    dataset: str
    digest: str  # of the prepared windows
    legend: Legend
    size: int  # pixels a side of a window
    max_dates: int
    mean: NDArray[np.float32]  # c
    std: NDArray[np.float32]  # c
    training: Training | None = None  # None: a model of before these were noted
    temperature: float = 1.0  # that logits are divided by before a softmax says how sure the model is
    chosen: DateChoice | None = None  # None: up to max_dates of all

    @property
    def dates(self) -> DateChoice:
        """Which dates of a window it was shown, and has to be shown."""
        return self.chosen or DateChoice(self.max_dates)


def about(kind: str, windows: Windows, params: Params, temperature: float = 1.0) -> dict[str, Any]:
    """The description that goes into a model's file; no times or run ids: same training, same bits."""
    card = windows.card
    return {
        "kind": kind,
        "dataset": card.dataset,
        "digest": card.digest,
        "legend": card.legend.to_json(),
        "size": card.size,
        "max_dates": card.max_dates,
        **({"dates": asdict(card.dates)} if card.dates.clear else {}),
        "mean": card.mean.tolist(),
        "std": card.std.tolist(),
        "training": asdict(training_facts(windows)),
        "temperature": temperature,
        **_sizes(kind, windows, params),
    }


def training_facts(windows: Windows) -> Training:
    """Of the training windows' dates; no image is read."""
    days: set[int] = set()
    counts = []
    for index in windows.indexes("train"):
        _, day, valid = windows.series(int(index))
        days.update(day[valid].tolist())
        counts.append(int(valid.sum()))
    return Training(tuple(sorted(days)), (min(counts), int(np.median(counts)), max(counts)))


def _sizes(kind: str, windows: Windows, params: Params) -> dict[str, Any]:
    """The params that a network is built from."""
    stood_in = params.semisupervised.kind != "off" and windows.part  # it learned from unlabelled windows
    if kind == "classifier":
        taught = {"metadata": 0} if stood_in and params.semisupervised.classifier else {}
        return {"network": params.classifier.model_dump(mode="json"), **taught}
    joined = params.cscl.kind != "off" and params.cscl.joined
    return {
        "network": params.segmenter.model_dump(mode="json"),
        "ltae": params.ltae.model_dump(mode="json"),
        **({"metadata": metadata_told(params)} if stood_in else {}),
        **({"cscl": params.cscl.model_dump(mode="json")} if joined else {}),  # else its head is not part of the model
    }


def metadata_told(params: Params) -> int:
    """How many numbers of a window the published segmenter is told beside its images: none, but for comparison."""
    return METADATA if params.semisupervised.metadata == "both" else 0


def load_classifier(file: Path, windows: Windows | None = None) -> tuple[Classifier, Clues, Card]:
    """A trained classifier, its clues and its card; ready for inference.

    Raises:
        CheckpointError: missing, damaged, no classifier, or (with `windows`) of another data set or classes.
    """
    found, card = _read(file, "classifier", windows)
    params = ClassifierParams.model_validate({**ADDED_LATER, **found.about["network"]})
    kind = StandInClassifier if "metadata" in found.about else Classifier
    network = kind(len(card.legend.bands), len(card.legend.classes), card.size, params)
    _fill(network, found.tensors, file)
    clues = Clues(found.tensors["clues/positive"], found.tensors["clues/negative"])
    return network, clues, card


def load_segmenter(file: Path, windows: Windows | None = None) -> tuple[Segmenter, Card]:
    """A trained segmenter and its card; ready for inference. Raises as `load_classifier`."""
    found, card = _read(file, "segmenter", windows)
    if found.about["network"].get("kind") == PIXELS:
        return _pixel_segmenter(found.tensors, file), card
    params = SegmenterParams.model_validate({"kind": "tsvit", **ADDED_LATER, **found.about["network"]})
    ltae = LtaeParams.model_validate(found.about.get("ltae", UNUSED_LTAE))
    classes = len(card.legend.classes) + card.legend.background
    plain = build_segmenter(len(card.legend.bands), classes, card.size, params, ltae)
    network: Segmenter = plain
    if "cscl" in found.about:
        network = ContextSegmenter(plain, classes, CsclParams.model_validate(found.about["cscl"])).published()
    if "metadata" in found.about:
        if found.about["metadata"] and windows is None:
            raise CheckpointError(
                f"{file} asks for the place of every window (semisupervised.metadata: both), for comparison alone: "
                "train with `teacher` there to map with the model"
            )
        network = StandInSegmenter(plain, found.about["metadata"])
    _fill(network, found.tensors, file)
    return network, card


def about_pixels(learner: str, windows: Windows, params: Params, temperature: float = 1.0) -> dict[str, Any]:
    """As `about`, of a segmenter made of a pixel learner."""
    known = about("segmenter", windows, params, temperature)
    return {**known, "network": {"kind": PIXELS, "learner": learner}, "ltae": UNUSED_LTAE}


def _pixel_segmenter(tensors: dict[str, Tensor], file: Path) -> PixelSegmenter:
    try:
        network = pixel_segmenter(checkpoints.split(tensors, "network/"))
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file} does not fit its own description: {error}") from None
    return network.eval()


def _read(file: Path, kind: str, windows: Windows | None) -> tuple[checkpoints.Checkpoint, Card]:
    found = checkpoints.load(file)
    content = found.about
    if content.get("kind") != kind:
        raise CheckpointError(f"{file} holds a {content.get('kind')}, not a {kind}: give the other model's file")
    card = Card(
        dataset=content["dataset"],
        digest=content["digest"],
        legend=Legend.from_json(content["legend"]),
        size=content["size"],
        max_dates=content["max_dates"],
        mean=np.array(content["mean"], np.float32),
        std=np.array(content["std"], np.float32),
        training=training_of(content.get("training")),
        temperature=content.get("temperature", 1.0),
        chosen=DateChoice(**content["dates"]) if "dates" in content else None,
    )
    if windows is not None:
        _check_same_data(file, card, windows)
    return found, card


def training_of(content: dict[str, Any] | None) -> Training | None:
    return Training(tuple(content["days"]), tuple(content["dates"])) if content else None


def _check_same_data(file: Path, card: Card, windows: Windows) -> None:
    mend = "run `dvc repro`, or give the checkpoint of this data set"
    ours = windows.card
    if card.dataset != ours.dataset:
        raise CheckpointError(f"{file} was trained on {card.dataset!r}, the windows are of {ours.dataset!r}: {mend}")
    if card.legend.class_names != ours.legend.class_names:
        found, wanted = len(card.legend.classes), len(ours.legend.classes)
        different = sorted({*card.legend.class_names} ^ {*ours.legend.class_names})
        raise CheckpointError(f"{file} knows {found} classes, the windows have {wanted}; differing {different}: {mend}")
    if card.digest != ours.digest:
        raise CheckpointError(f"{file} was trained on other windows of {card.dataset!r} (their digest differs): {mend}")


def _fill(network: Classifier | Segmenter, tensors: dict[str, Tensor], file: Path) -> None:
    try:
        network.load_state_dict(checkpoints.split(tensors, "network/"))
    except RuntimeError as error:
        raise CheckpointError(f"{file} does not fit its own description: {error}") from None
    network.eval().requires_grad_(False)
