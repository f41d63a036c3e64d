"""Variants of the ablation for few labels (METHOD section 16): the labelled part alone, and what the rest adds.

Of masks a number of windows keeps theirs and all keep their image labels; of image labels a share of the windows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cluemap.experiments.variants import Row, Variant, at
from cluemap.paths import STAGES

COUNTS = (10, 30, 100)  # windows with masks
SHARES = (2, 5, 10, 25)  # % of the windows with image labels
TEACHER = {"semisupervised.kind": "fixmatch", "semisupervised.metadata": "teacher"}
NO_METADATA = {"semisupervised.metadata": "none", "semisupervised.distillation": 0.0}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {  # name -> words, changes
    "alone": ("labelled part alone", {}),
    "fixmatch": ("FixMatch, no metadata", {**TEACHER, **NO_METADATA}),
    "freematch": ("FreeMatch, no metadata", {**TEACHER, **NO_METADATA, "semisupervised.kind": "freematch"}),
    "both": ("place in teacher and student", {**TEACHER, "semisupervised.metadata": "both"}),
    "teacher": ("place in the teacher alone", TEACHER),
    "undistilled": ("place in the teacher alone, no distillation", {**TEACHER, "semisupervised.distillation": 0.0}),
    "unbound": ("place in the teacher alone, image labels not used", {**TEACHER, "semisupervised.image_labels": False}),
}
SEGMENTER = {**TEACHER, "semisupervised.classifier": False}
SEARCHED = {"refine.start": "image_labels", "refine.learner": "linear"}
IMAGE_LABEL_METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "alone": METHODS["alone"],
    "segmenter": ("teacher of the segmenter", SEGMENTER),
    "teacher": ("teacher of classifier and segmenter", TEACHER),
    "searched": ("labelled part alone, masks from image labels", SEARCHED),
    "searched_teacher": ("teacher of the segmenter, masks from image labels", {**SEARCHED, **SEGMENTER}),
}
FULL, WEAK = ("test", "full", "miou"), ("test", "weak", "miou")


def few_masks(count: int) -> dict[str, Variant]:
    """Every method where so many windows have masks."""
    known = {"labelled.kind": "masks", "labelled.count": count}
    return {
        f"few_{name}_{count}": Variant(
            {**known, **changes},
            ("train_reference", "evaluate"),
            (Row(f"segmenter, masks of {count} windows, {words}, test", "evaluate", at(*FULL)),),
        )
        for name, (words, changes) in METHODS.items()
    }


def few_image_labels(percent: int) -> dict[str, Variant]:
    """The whole pipeline where such a share of the windows has image labels: alone, and with a teacher."""
    known = {"labelled.kind": "image_labels", "labelled.share": percent / 100}
    return {
        f"few_labels_{name}_{percent}": Variant(
            {**known, **changes},
            STAGES[1:],
            (Row(f"segmenter, {percent} % of image labels, {words}, test", "evaluate", at(*WEAK)),),
        )
        for name, (words, changes) in IMAGE_LABEL_METHODS.items()
    }


VARIANTS: dict[str, Variant] = {
    name: variant
    for group in (*map(few_masks, COUNTS), *map(few_image_labels, SHARES))
    for name, variant in group.items()
}


def learning_curves(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, list[float]]]:
    """Lines of the table -> words of a method -> windows with masks -> a score a seed (two counts or more)."""
    values = {one["name"]: list(one["values"]) for one in lines}
    found: dict[str, dict[int, list[float]]] = {}
    for count in COUNTS:
        for (words, _), variant in zip(METHODS.values(), few_masks(count).values(), strict=True):
            if variant.rows[0].name in values:
                found.setdefault(words, {})[count] = values[variant.rows[0].name]
    return {words: points for words, points in found.items() if len(points) > 1}
