"""What each step of the method brings: one pipeline with single steps changed, over several seeds and data sets.

A variant runs again only the stages that its change reaches; the others' outputs are taken over from the whole method's
pipeline of the same seed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from cluemap.experiments import few_labels
from cluemap.experiments.pipelines import Pipeline, make_pipeline, run_all
from cluemap.experiments.variants import Row, Variant, at
from cluemap.paths import STAGES

ALL_STAGES = STAGES[1:]  # the prepared windows are shared
MASK_STAGES = ("train_classifier", "make_cams", "make_masks")
SEGMENTER_STAGES = ("train_segmenter", "train_reference", "evaluate")
SOURCES: dict[str, Any] = {"cams.source": "clue", "cams.compare": ["fused", "refined"]}  # what the rows read
WHOLE = "whole"  # the variant that changes nothing


def masks(words: str, *sources: str) -> tuple[Row, ...]:
    """mIoU of the sources' pseudo masks of the training windows, at the used and at the best threshold."""
    names = {"fused": "raw fused CAM", "refined": "propagated CAM", "clue": "clue CAM"}
    return tuple(
        Row(f"{names[source]}{words}{note}", "make_masks", at("sources", source, "train", *key))
        for source in sources
        for note, key in (("", ("miou",)), (", best threshold", ("oracle", "miou")))
    )


def segmenters(words: str) -> tuple[Row, ...]:
    """Test mIoU of the segmenters from pseudo and from true masks, and their ratio."""
    return (
        Row(f"segmenter, image labels, test{words}", "evaluate", at("test", "weak", "miou")),
        Row(f"segmenter, true masks, test{words}", "evaluate", at("test", "full", "miou")),
        Row(f"ratio{words}", "evaluate", at("ratio")),
    )


def edges(words: str) -> tuple[Row, ...]:
    """Test scores of both segmenters at borders, near them and away from them."""
    kinds = {"weak": "image labels", "full": "true masks"}
    scores = {"boundary IoU": "boundary_iou", "mIoU within 1 px of a border": "border_1px_miou",
              "mIoU within 2 px of a border": "border_miou", "mIoU away from borders": "interior_miou"}  # fmt: skip
    return tuple(
        Row(f"{name}, {whose}, test{words}", "evaluate", at("test", kind, key))
        for kind, whose in kinds.items()
        for name, key in scores.items()
    )


def baselines() -> tuple[Row, ...]:
    """Test mIoU of the pixel-wise learners from the final pseudo masks and from true masks."""
    kinds = {"weak": "image labels", "full": "true masks"}
    return tuple(
        Row(f"{learner}, {words}, test", "evaluate", at("baselines", learner, kind, "miou"))
        for kind, words in kinds.items()
        for learner in ("trees", "forest", "linear")
    )


NEITHER = {"losses.lambda_tap": 0.0, "losses.lambda_clue": 0.0}
PLAIN = {"augmentation.flips": False, "augmentation.dropped_dates": 0.0, "segmenter.weight_averaging": 0.0}
TSVIT = {"segmenter.kind": "tsvit", "segmenter.steps": 1000, "segmenter.validate_every": 250}


def _segmenter(changes: Mapping[str, Any], words: str) -> Variant:
    """A change that reaches the segmenters alone, with all their lines."""
    return Variant(changes, SEGMENTER_STAGES, (*segmenters(words), *edges(words)))


def _refined_by(learner: str) -> Variant:
    """Another learner of the rounds, with the scores of its masks."""
    rows = (Row(f"refined masks, {learner} as learner{note}", "refine_masks", at(split, "miou"))
            for split, note in (("train", ""), ("validation", ", validation windows")))  # fmt: skip
    return Variant({"refine.learner": learner}, ("refine_masks",), tuple(rows))


def _labels(kind: str, words: str) -> Variant:
    """What the segmenter learns of masks that are not sure; true masks are, so train_reference stays as it is."""
    changes = {"refine.keep_probabilities": True, "segmenter.labels": kind}
    validation = Row(f"segmenter, image labels, validation, {words}", "train_segmenter", at("validation", "miou"))
    stages = ("refine_masks", "train_segmenter", "evaluate")
    return Variant(changes, stages, (*segmenters(f", {words}")[::2], validation))


VARIANTS: dict[str, Variant] = {
    WHOLE: Variant(
        {},
        ALL_STAGES,
        (
            *masks("", "fused", "refined", "clue"),
            Row("refined masks", "evaluate", at("refined_masks", "miou")),
            *segmenters(""),
            *edges(""),
            *baselines(),
        ),
    ),
    "no_losses": Variant(NEITHER, MASK_STAGES, masks(", neither loss", "fused", "refined", "clue")),
    "no_clue_loss": Variant({"losses.lambda_clue": 0.0}, MASK_STAGES, masks(", L_tap alone", "refined", "clue")),
    "narrow_tokens": Variant({"classifier.token_spread": 0.02}, MASK_STAGES, masks(", tokens start at 0.02", "clue")),
    "unrefined": Variant(
        {"refine.learner": "none"},
        ("refine_masks", "train_segmenter", "train_baselines", "evaluate"),
        (*segmenters(", masks not refined")[::2],
         Row("trees, masks not refined, test", "evaluate", at("baselines", "trees", "weak", "miou"))),
    ),
    "no_cams": Variant(
        {**few_labels.SEARCHED, "refine.rounds": 10}, ("refine_masks",),
        (Row("refined masks, from the image labels without any CAM", "refine_masks", at("train", "miou")),),
    ),
    "refined_by_trees": _refined_by("trees"),
    "refined_by_network": _refined_by("network"),
    "weighted_labels": _labels("weighted", "pixels weighted by confidence"),
    "soft_labels": _labels("soft", "probabilities as labels"),
    "plain_training": Variant(
        PLAIN, SEGMENTER_STAGES, segmenters(", no flips, no dropped dates, no averaging"),
    ),
    "tsvit": _segmenter(TSVIT, ", TSViT, 1,000 steps"),
    "cscl_pretrain": _segmenter({"cscl.kind": "pretrain"}, ", CSCL before"),
    "cscl_joint": _segmenter({"cscl.kind": "joint"}, ", CSCL beside"),
    "cscl_joined": _segmenter({"cscl.kind": "joint", "cscl.joined": True}, ", CSCL beside and joined"),
    "tsvit_cscl_pretrain": _segmenter({**TSVIT, "cscl.kind": "pretrain"}, ", TSViT, 1,000 steps, CSCL before"),
    "tsvit_cscl_joint": _segmenter({**TSVIT, "cscl.kind": "joint"}, ", TSViT, 1,000 steps, CSCL beside"),
    **few_labels.VARIANTS,
}  # fmt: skip


def ablate(
    dataset: str, folder: Path, prepared: Path, seeds: Sequence[int], variants: Sequence[str], jobs: int
) -> list[dict[str, Any]]:
    """Run (or resume) the variants for each seed, `jobs` at once; one row of numbers per line of the table.

    Raises:
        StageFailed: see `run_all`.
    """
    pipelines: dict[tuple[str, int], Pipeline] = {}
    for name in dict.fromkeys((WHOLE, *variants)):  # the whole method first: the others take its outputs over
        changes = {**SOURCES, **VARIANTS[name].changes}
        for seed in seeds:
            where = folder / f"{name}_{seed}"
            drawn = {"seed": seed, "labelled.seed": seed}
            pipelines[name, seed] = make_pipeline(dataset, where, prepared, {**changes, **drawn})
    run_all([(pipelines[WHOLE, seed], _stages_of_whole(variants)) for seed in seeds], jobs)
    others = [name for name in variants if name != WHOLE]
    for name in others:
        for seed in seeds:
            pipelines[name, seed].take_over(pipelines[WHOLE, seed], VARIANTS[name].stages)
    run_all([(pipelines[name, seed], VARIANTS[name].stages) for name in others for seed in seeds], jobs)
    return [
        line(row.name, [row.value(pipelines[name, seed].metrics(row.stage)) for seed in seeds])
        for name in variants
        for row in VARIANTS[name].rows
    ]


def _stages_of_whole(variants: Sequence[str]) -> tuple[str, ...]:
    """The whole method's stages that are needed: all for its own lines, else those that the variants take over."""
    if WHOLE in variants:
        return ALL_STAGES
    last = max(ALL_STAGES.index(VARIANTS[name].stages[-1]) for name in variants)
    reached = [set(ALL_STAGES[: last + 1]) - set(VARIANTS[name].stages) for name in variants]
    return tuple(stage for stage in ALL_STAGES if any(stage in needed for needed in reached))


def line(name: str, values: Sequence[float]) -> dict[str, Any]:
    """One line of a table: a value per seed, their mean and standard deviation."""
    spread = stdev(values) if len(values) > 1 else 0.0
    return {"name": name, "values": list(values), "mean": mean(values), "spread": spread}


def table(lines: list[dict[str, Any]], seeds: Sequence[int], head: str = "mIoU in %") -> str:
    """The lines as Markdown: every seed, mean and standard deviation, in %."""
    top = [head, *(f"seed {seed}" for seed in seeds), "mean ± s.d."]
    rows = [top, ["---", *["---:"] * (len(top) - 1)]]
    for one in lines:
        numbers = [f"{100 * value:.1f}" for value in one["values"]]
        rows.append([one["name"], *numbers, f"{100 * one['mean']:.1f} ± {100 * one['spread']:.1f}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def together(tables: Mapping[str, list[dict[str, Any]]]) -> str:
    """Data set -> its lines, as one Markdown table: mean and standard deviation of every line, a column a data set."""
    names = list(dict.fromkeys(one["name"] for lines in tables.values() for one in lines))
    rows = [["mIoU in %", *tables], ["---", *["---:"] * len(tables)]]
    for name in names:
        found = [next((one for one in lines if one["name"] == name), None) for lines in tables.values()]
        cells = ["" if one is None else f"{100 * one['mean']:.1f} ± {100 * one['spread']:.1f}" for one in found]
        rows.append([name, *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
