"""params.yaml as frozen, strictly checked classes: one per block, one field per key (units and sources stand there)."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml.error import YAMLError

from cluemap.errors import ParamsError
from cluemap.files import parsed_yaml
from cluemap.paths import ROOT

Share = Field(ge=0.0, le=1.0)
Positive = Field(gt=0)


class Block(BaseModel):
    """One block of params.yaml: frozen, no unknown keys, no conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class PastisSource(Block):
    format: Literal["pastis"]
    classes: Literal["all"] | list[int]
    folds: Literal["metadata"]


class Pastis24Source(Block):
    format: Literal["pastis24"]
    classes: Literal["all"] | list[int]
    folds: Literal["metadata", "fold_paths", "by_patch"]


class MtlccSource(Block):
    format: Literal["mtlcc"]
    classes: Literal["all"] | list[int]
    tiles: Literal[240, 480, "240pkl"]
    years: list[Literal[2016, 2017]] = Field(min_length=1)
    fold: int = Field(ge=0, le=9)


class SceneSource(Block):
    """A user's own region; its scene.yaml says the rest (docs/data/scene.md)."""

    format: Literal["scene"]


class PsetaeSource(Block):
    """Parcels in PSE-TAE's own layout: they have no images, so only the stages of parcels run."""

    format: Literal["psetae"]
    folder: str
    classes: Literal["all"] | list[int]
    labels: str
    bands: list[str] = Field(min_length=1)
    scale: float = Positive
    pixel: float = Positive


Source = Annotated[
    PastisSource | Pastis24Source | MtlccSource | SceneSource | PsetaeSource, Field(discriminator="format")
]


class WindowParams(Block):
    size: int = Positive
    stride: int = Positive
    flush_edge: bool
    max_dates: int = Positive
    presence: float = Share
    fold: int = Field(ge=1, le=5)
    clear: float = Field(default=0.0, ge=0.0, le=1.0)
    bright: float = Field(default=0.25, gt=0.0)
    least_dates: int = Field(default=10, gt=0)


class LabelledParams(Block):
    """Which training windows keep their labels. A file of names goes before a count, a count before a share."""

    kind: Literal["image_labels", "masks"]
    share: float = Field(gt=0.0, le=1.0)
    count: int = Field(ge=0)
    file: str
    seed: int = Field(ge=0)

    @property
    def all(self) -> bool:
        """Whether nothing is hidden."""
        return self.share == 1.0 and not self.count and not self.file


class StepParams(Block):
    """The optimiser's course, of every network that is trained, validated or not."""

    batch: int = Positive
    steps: int = Positive
    learning_rate: float = Positive
    final_learning_rate: float = Field(ge=0.0)
    warmup: float = Share
    weight_decay: float = Field(ge=0.0)
    weight_averaging: float = Field(ge=0.0, lt=1.0)


class CourseParams(StepParams):
    """The course of a network that is validated on its way."""

    validate_every: int = Positive


class NetworkParams(CourseParams):
    """What the classifier and the segmenter share: sizes and the optimiser's course. The sizes are TSViT's: the
    segmenter of kind `ltae` has its own (LtaeParams).
    """

    patch: int = Positive
    width: int = Positive
    temporal_depth: int = Positive
    spatial_depth: int = Positive
    heads: int = Positive
    head_width: int = Positive
    feed_forward: int = Positive
    dropout: float = Field(ge=0.0, lt=1.0)
    residual: Literal["plain", "normed", "both"]
    token_spread: float = Positive
    whitening: float = Field(ge=0.0)
    mask_padding: bool


class ClassifierParams(NetworkParams):
    select: Literal["last", "mean_average_precision"]


class SegmenterParams(NetworkParams):
    kind: Literal["tsvit", "ltae"]
    pixel_layout: Literal["spatial", "flat"]
    select: Literal["last", "miou"]
    init: str = "none"
    class_weights: float = Field(default=0.0, ge=0.0, le=1.0)
    balanced: float = Field(default=0.0, ge=0.0, le=1.0)
    labels: Literal["hard", "weighted", "soft"] = "hard"


class LtaeParams(Block):
    width: int = Positive
    heads: int = Positive
    key_width: int = Positive
    value_width: int = Positive
    convolutions: int = Field(ge=0)
    dropout: float = Field(ge=0.0, lt=1.0)


class CsclParams(Block):
    kind: Literal["off", "pretrain", "joint"]
    joined: bool
    window: int
    stride: int = Positive
    dilation: int = Positive
    positive_weight: float = Positive
    masked: bool
    weight: float = Positive
    steps: int = Positive
    learning_rate: float = Positive
    decay: float = Field(gt=0.0, le=1.0)

    @field_validator("window")
    @classmethod
    def _has_neighbours(cls, window: int) -> int:
        if window < 3 or window % 2 == 0:
            why = "holds the pixel alone, which has nothing to be compared with" if window == 1 else "has no middle"
            raise ValueError(f"a window of {window} {why}: give an odd number from 3 on")
        return window

    @model_validator(mode="after")
    def _joins_every_pixel(self) -> "CsclParams":
        if self.joined and self.stride > 1:
            raise ValueError(f"joined similarities are wanted at every pixel, but stride is {self.stride}: give 1")
        return self


class AugmentationParams(Block):
    flips: bool
    dropped_dates: float = Field(ge=0.0, lt=1.0)
    shifted_days: int = Field(ge=0)
    band_gain: float = Field(ge=0.0)
    band_offset: float = Field(ge=0.0)
    light: float = Field(ge=0.0)


class SemisupervisedParams(Block):
    kind: Literal["off", "fixmatch", "freematch"]
    metadata: Literal["none", "teacher", "both"]
    image_labels: bool
    classifier: bool
    ratio: int = Positive
    threshold: float = Share
    positive: float = Share
    negative: float = Share
    momentum: float = Field(ge=0.0, lt=1.0)
    start: float = Field(ge=0.0, le=1.0)
    weight: float = Field(ge=0.0)
    distillation: float = Field(ge=0.0)
    dropped_dates: float = Field(ge=0.0, lt=1.0)
    shifted_days: int = Field(ge=0)
    band_gain: float = Field(ge=0.0)
    band_offset: float = Field(ge=0.0)
    light: float = Field(ge=0.0)
    masked_pixels: float = Share

    def begun(self, step: int, steps: int) -> bool:
        """Whether the teacher's labels count in this step of so many."""
        return step >= self.start * steps

    @model_validator(mode="after")
    def _ordered(self) -> "SemisupervisedParams":
        if self.negative >= self.positive:
            raise ValueError(f"negative {self.negative} must be under positive {self.positive}")
        return self


class LossParams(Block):
    lambda_clue: float = Field(ge=0.0)
    lambda_tap: float = Field(ge=0.0)


class ClueParams(Block):
    count: int = Positive
    start_step: int = Field(ge=0)
    mu_high: float = Share
    mu_low: float = Share
    negatives_from: Literal["all_windows", "present_windows"]
    eta: float = Positive
    rounds: int = Positive
    assignment: Literal["argmax", "gumbel"]
    momentum: float = Share
    weights: Literal["cam", "squared", "binary"]
    tau: float = Positive
    positive_in_denominator: bool

    @model_validator(mode="after")
    def _ordered(self) -> "ClueParams":
        if self.mu_low >= self.mu_high:
            raise ValueError(f"mu_low {self.mu_low} must be under mu_high {self.mu_high}")
        return self


class TemporalParams(Block):
    kind: Literal["power", "softmax"]
    sharpness: float = Field(ge=0.0)


class AffinityParams(Block):
    dilation: int = Positive
    rounds: int = Field(ge=0)
    temperature: float = Positive
    blend: float = Share


CamSource = Literal["clue", "refined", "fused", "spatial", "temporal"]


class CamParams(Block):
    source: CamSource
    compare: list[CamSource]
    blend: float = Share
    shifted_grids: bool


class MaskParams(Block):
    threshold: float | Literal["validation"]
    ignore_band: float = Field(ge=0.0)
    curve_points: int = Field(ge=2)


class RefineParams(StepParams):
    """The course, and all from `whitening` on, is the learner `network`'s; its sizes are those of LtaeParams."""

    learner: Literal["none", "linear", "trees", "network"]
    start: Literal["masks", "image_labels"]
    starts: int = Positive
    rounds: int = Positive
    confidence: float = Share
    folds: int = Positive
    pixels: int = Positive
    parcels: bool
    keep_probabilities: bool
    whitening: float = Field(ge=0.0)
    dropout: float = Field(ge=0.0, lt=1.0)
    flips: bool
    dropped_dates: float = Field(ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _has_a_learner(self) -> "RefineParams":
        if self.keep_probabilities and self.learner == "none":
            raise ValueError("keep_probabilities wants a learner, whose they are: learner is none")
        if self.start == "image_labels" and self.learner == "none":
            raise ValueError("start: image_labels wants rounds, and learner is none: set learner to linear")
        return self


class BaselineParams(Block):
    pixels: int = Positive
    rounds: int = Positive
    leaves: int = Field(ge=2)
    forest: int = Field(ge=0)


class ParcelParams(CourseParams):
    """Parcels as sets of pixels. The networks' sizes are the published ones and stand in their modules."""

    least_pixels: int = Positive
    labels: Literal["parcels", "image_labels", "instances", "masks", "cams"]
    least_votes: float = Share
    kind: Literal["pse_tae", "pse_ltae"]
    published: bool
    pixels: int = Field(ge=2)
    dropout: float = Field(ge=0.0, lt=1.0)
    focal_gamma: float = Field(ge=0.0)
    select: Literal["last", "miou"]

    @model_validator(mode="after")
    def _one_published(self) -> "ParcelParams":
        if self.published and self.kind != "pse_tae":
            raise ValueError(f"the published form is that of pse_tae: {self.kind} wants published: false")
        return self


class ComputeParams(Block):
    precision: Literal["fp32", "bf16"]
    compile: bool
    clip_norm: float = Field(ge=0.0)
    inference_batch: int = Positive


class CheckpointParams(Block):
    minutes: float = Field(ge=0.0)


class FigureParams(Block):
    windows: int = Field(ge=0)


class RegistryParams(Block):
    metric: Literal["miou", "accuracy"]
    minimal_gain: float = Field(ge=0.0)


class Method(Block):
    """The blocks that a data set may override."""

    windows: WindowParams
    labelled: LabelledParams
    classifier: ClassifierParams
    losses: LossParams
    clues: ClueParams
    temporal_weighting: TemporalParams
    affinity: AffinityParams
    cams: CamParams
    masks: MaskParams
    refine: RefineParams
    segmenter: SegmenterParams
    ltae: LtaeParams
    cscl: CsclParams
    augmentation: AugmentationParams
    semisupervised: SemisupervisedParams
    baselines: BaselineParams
    parcels: ParcelParams
    compute: ComputeParams
    checkpoint: CheckpointParams
    figures: FigureParams
    registry: RegistryParams


class Params(Method):
    """Everything one data set's pipeline is told: the method with that data set's overrides in place."""

    dataset: str
    root: str
    seed: int = Field(ge=0)
    source: Source

    @property
    def raw(self) -> Path:
        """The folder of the raw data; `root` as written is relative to the project's root."""
        return ROOT / self.root

    def flat(self) -> dict[str, Any]:
        """Dotted key -> plain value, the form that MLflow and comparisons take."""
        return dict(_flatten(self.model_dump(mode="json")))


FORMATS = ("pastis", "pastis24", "mtlcc", "scene", "psetae")  # pydantic puts the union's tag into an error's place
METHOD_BLOCKS = tuple(Method.model_fields)
PARCEL_DATASETS = "parcel_datasets"  # which data sets' parcels dvc.yaml runs through
TUNE = "tune"  # what `src/tune.py` searches: not part of a pipeline, read by experiments/space.py


def load_params(dataset: str, file: Path | str | None = None) -> Params:
    """Read params.yaml (YAML 1.2, the parser DVC uses) for one data set.

    Raises:
        ParamsError: unreadable file, unknown data set, or a key that is unknown, missing, wrong-typed or impossible.
    """
    file = Path(file) if file else ROOT / "params.yaml"
    tree = read_tree(file)
    _check_names(file, "", tree, ["datasets", PARCEL_DATASETS, "seed", *METHOD_BLOCKS, *_blocks_of_datasets(tree)])
    root, block = _dataset(file, tree, dataset)
    _check_names(file, dataset, block, ["source", *METHOD_BLOCKS], all_wanted=True)
    merged: dict[str, Any] = {"dataset": dataset, "root": root, "seed": tree.get("seed"), "source": block["source"]}
    for name in METHOD_BLOCKS:
        _check_mapping(file, name, tree.get(name))
        _check_mapping(file, f"{dataset}.{name}", block[name])
        merged[name] = {**tree[name], **block[name]}
    try:
        params = Params.model_validate(merged)
    except ValidationError as error:
        raise ParamsError(_explain(file, dataset, block, error)) from None
    if params.segmenter.labels != "hard" and not params.refine.keep_probabilities:
        mend = "set refine.keep_probabilities: true (and a refine.learner)"
        raise ParamsError(
            f"{file}: segmenter.labels {params.segmenter.labels} of {dataset} wants probabilities: {mend}"
        )
    return params


def read_tree(file: Path) -> dict[str, Any]:
    """A params file as it stands. Raises ParamsError: it is missing or is not YAML."""
    try:
        tree = parsed_yaml(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{file} is missing: the project's own lies beside dvc.yaml") from None
    except YAMLError as error:
        raise ParamsError(f"{file} is not YAML: {error}") from None
    _check_mapping(file, "the file", tree)
    return tree


def _blocks_of_datasets(tree: dict[str, Any]) -> Iterator[str]:
    return (
        name
        for name, block in tree.items()
        if isinstance(block, dict) and "source" in block and name not in METHOD_BLOCKS
    )


def _dataset(file: Path, tree: dict[str, Any], dataset: str) -> tuple[str, dict[str, Any]]:
    _check_mapping(file, "datasets", tree.get("datasets"))
    _check_mapping(file, PARCEL_DATASETS, tree.get(PARCEL_DATASETS, {}))
    roots, known = tree["datasets"], sorted(_blocks_of_datasets(tree))
    if dataset not in known:
        raise ParamsError(f"{file} has no block for the data set {dataset!r}{nearest(dataset, known)}; it has {known}")
    source = tree[dataset]["source"]
    if isinstance(source, dict) and isinstance(source.get("folder"), str):  # a layout without images
        return source["folder"], tree[dataset]
    if dataset not in roots:
        raise ParamsError(f"{file}: `datasets` does not say where {dataset!r} lies: add `{dataset}: data/<its folder>`")
    if not isinstance(roots[dataset], str):
        raise ParamsError(f"{file}: datasets.{dataset} is {roots[dataset]!r}: give the folder of its raw data")
    return roots[dataset], tree[dataset]


def _check_mapping(file: Path, name: str, content: Any) -> None:
    if not isinstance(content, dict):
        raise ParamsError(f"{file}: {name} should hold `key: value` lines, found {content!r}")


def _check_names(file: Path, where: str, block: dict[str, Any], allowed: list[str], all_wanted: bool = False) -> None:
    prefix = f"{where}." if where else ""
    for name in block:
        if name not in (*allowed, TUNE):
            raise ParamsError(f"{file}: unknown key `{prefix}{name}`{nearest(str(name), [*allowed, TUNE])}")
    wanted = allowed if all_wanted else ["datasets", "seed", *METHOD_BLOCKS]
    for name in wanted:
        if name not in block:
            mend = f"write `{name}: {{}}` to override nothing" if all_wanted else "the project's own file holds it"
            raise ParamsError(f"{file}: missing key `{prefix}{name}`: {mend}")


def nearest(name: str, allowed: list[str]) -> str:
    """How an error about an unknown name ends: with the name that was perhaps meant."""
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    return f": did you mean `{near[0]}`?" if near else ""


def _explain(file: Path, dataset: str, block: dict[str, Any], error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        path = [str(part) for part in problem["loc"] if part not in FORMATS]
        overridden = len(path) > 1 and path[-1] in block.get(path[0], {})
        own = path[0] == "source" or overridden
        key = ".".join([dataset, *path] if own else path)
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown key `{key}`{nearest(path[-1], _known(problem['loc']))}")
        elif problem["type"] == "missing":
            lines.append(f"missing key `{key}`")
        else:
            lines.append(f"`{key}`: {problem['msg']}, found {problem['input']!r}")
    return "\n".join(f"{file}: {line}" for line in dict.fromkeys(lines))


def _known(place: tuple[int | str, ...]) -> list[str]:
    """The keys of the block in which pydantic found an unknown one."""
    if place[0] == "source":
        blocks: dict[str, type[Block]] = {
            "pastis": PastisSource, "pastis24": Pastis24Source, "mtlcc": MtlccSource, "scene": SceneSource,
            "psetae": PsetaeSource,
        }  # fmt: skip
        return list(blocks[str(place[1])].model_fields)
    return list(getattr(Params.model_fields[str(place[0])].annotation, "model_fields", {}))


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
