"""What a trial is scored by: its stages, the number that counts, and the curve that is looked at on the way."""

from dataclasses import dataclass

from cluemap.errors import DataError
from cluemap.experiments.ablation import MASK_STAGES
from cluemap.experiments.pipelines import Pipeline
from cluemap.params import Params
from cluemap.paths import PARCEL_STAGES
from cluemap.training.classifier_task import FIXED_THRESHOLD
from cluemap.tuning.search_space import PARCEL_SCORE


@dataclass(frozen=True)
class Objective:
    """One way to score a pipeline, always on the validation fold; more is better."""

    stages: tuple[str, ...]
    score: str  # key of "validation" in the last stage's metrics.json; a dot leads into what it holds
    curve: str | None  # key of the last training's validation points that means the same; None = it has none
    first: int  # only points after this step mean anything
    steps: int  # of the training that has the curve

    @property
    def trained(self) -> str:
        """The stage that has the curve."""
        if "train_parcels" in self.stages:
            return "train_parcels"
        return "train_segmenter" if "train_segmenter" in self.stages else "train_classifier"

    def value(self, pipeline: Pipeline) -> float:
        """The finished pipeline's score.

        Raises:
            DataError: it has none.
        """
        found = pipeline.metrics(self.stages[-1])["validation"]
        for key in self.score.split("."):
            found = (found or {}).get(key)
        if found is None:
            raise DataError(f"{pipeline.folder}: {self.stages[-1]} has no validation score {self.score}")
        return float(found)


def objective(score: str, params: Params) -> Objective:
    """How `score` (tune.objective) is had from a trial with these params, by the fewest stages that give it."""
    start, steps = params.clues.start_step, params.classifier.steps
    if score == "mean_average_precision":
        return Objective(("train_classifier",), score, score, 0, steps)
    if score == "cam_agreement":
        return Objective(("train_classifier",), score, score, start, steps)
    if score == "segmenter_miou":
        return Objective((*MASK_STAGES, "refine_masks", "train_segmenter"), "miou", "miou", 0, params.segmenter.steps)
    if score == PARCEL_SCORE:  # parcels are prepared in every trial: what is a sliver may be searched
        return Objective(PARCEL_STAGES, f"{params.parcels.kind}.miou", "miou", 0, params.parcels.steps)
    if params.cams.source == "clue" and params.masks.threshold == FIXED_THRESHOLD:
        return Objective(("train_classifier",), "clue_cam_miou_fixed", "clue_cam_miou_fixed", start, steps)
    curve = {"validation": "clue_cam_miou"}.get(str(params.masks.threshold), "clue_cam_miou_fixed")
    return Objective(MASK_STAGES, "miou", curve if params.cams.source == "clue" else None, start, steps)
