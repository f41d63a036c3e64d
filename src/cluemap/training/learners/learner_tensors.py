"""A trained pixel learner as a segmenter: its numbers without scikit-learn's objects, so that no pickle is kept."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluemap.model.networks.pixel_segmenter import ABSENT, EvenSeries, Linear, PixelSegmenter, Trees
from cluemap.training.learners.linear_discriminant import FARTHEST
from cluemap.training.learners.pixel_learners import LinearLearner, PixelLearner, SampledLearner

Floats = NDArray[np.float64]
NEVER = -1e6  # discriminant of a class without pixels: under all others


class Tree(NamedTuple):
    """One tree. Axes: n node, k class."""

    feature: NDArray[np.int64]  # n
    threshold: Floats  # n
    left: NDArray[np.int64]  # n; a leaf leads to itself
    right: NDArray[np.int64]  # n
    value: Floats  # n k, counts at leaves


def segmenter_of(learner: PixelLearner) -> PixelSegmenter:
    """The segmenter that gives a fitted learner's probabilities (after a softmax over the classes)."""
    card = learner.features.windows.card
    series = EvenSeries(
        torch.from_numpy(card.mean), torch.from_numpy(card.std), torch.from_numpy(learner.features.days)
    )
    if isinstance(learner, LinearLearner):
        return PixelSegmenter(series, _linear(learner)).eval()
    if isinstance(learner, SampledLearner):
        return PixelSegmenter(series, _trees(learner)).eval()
    raise TypeError(f"no segmenter is known for a {type(learner).__name__}")


def _linear(learner: LinearLearner) -> Linear:
    mean, deviation = learner.moments.scale()
    shift = np.where(np.isfinite(learner.model.shift), learner.model.shift, NEVER)
    return Linear(
        mean=_floats(mean), deviation=_floats(deviation), directions=_floats(learner.model.directions),
        shift=_floats(shift), farthest=torch.tensor(FARTHEST),
    )  # fmt: skip


def _trees(learner: SampledLearner) -> Trees:
    from sklearn.ensemble import HistGradientBoostingClassifier  # half a second: only where it is asked for

    columns = learner.model.classes_.astype(np.int64) - learner.first
    base = np.full(learner.size, ABSENT)
    boosted = isinstance(learner.model, HistGradientBoostingClassifier)
    if len(columns) == 1:
        base[columns] = 0.0
        return _packed([_leaf(learner.size)], base, share=False)
    if boosted:
        start = np.asarray(learner.model._baseline_prediction, float).ravel()  # scikit-learn has no public name for it
        base[columns] = np.array([0.0, start[0]]) if len(columns) == 2 else start
        return _packed(_boosted(learner.model, columns, learner.size), base, share=False)
    return _packed([_grown(one.tree_, columns, learner.size) for one in learner.model.estimators_], base, share=True)


def _boosted(model: Any, columns: NDArray[np.int64], size: int) -> list[Tree]:
    """Of boosted trees: each round has one tree a class; of two classes one, for the second."""
    targets = columns[1:] if len(columns) == 2 else columns
    found = []
    for trees in model._predictors:
        for target, tree in zip(targets, trees, strict=True):
            nodes = tree.nodes
            own, leaf = np.arange(len(nodes)), nodes["is_leaf"].astype(bool)
            value = np.zeros((len(nodes), size))
            value[leaf, target] = nodes["value"][leaf]
            feature = np.where(leaf, 0, nodes["feature_idx"]).astype(np.int64)
            left, right = (np.where(leaf, own, nodes[side]).astype(np.int64) for side in ("left", "right"))
            found.append(Tree(feature, np.where(leaf, 0.0, nodes["num_threshold"]), left, right, value))
    return found


def _grown(tree: Any, columns: NDArray[np.int64], size: int) -> Tree:
    """Of a forest: leaves hold the classes' shares."""
    own, leaf = np.arange(tree.node_count), tree.children_left < 0
    value = np.zeros((tree.node_count, size))
    value[:, columns] = tree.value[:, 0] / tree.value[:, 0].sum(axis=1, keepdims=True)
    left, right = (np.where(leaf, own, side) for side in (tree.children_left, tree.children_right))
    return Tree(np.where(leaf, 0, tree.feature), np.where(leaf, 0.0, tree.threshold), left, right, value)


def _leaf(size: int) -> Tree:
    nothing = np.zeros(1, np.int64)
    return Tree(nothing, np.zeros(1), nothing, nothing, np.zeros((1, size)))


def _packed(trees: list[Tree], base: Floats, share: bool) -> Trees:
    nodes = max(len(tree.feature) for tree in trees)

    def padded(name: str) -> NDArray:
        parts = [np.asarray(getattr(tree, name)) for tree in trees]
        return np.stack([np.pad(part, [(0, nodes - len(part)), *[(0, 0)] * (part.ndim - 1)]) for part in parts])

    steps = max(_depth(tree) for tree in trees)
    whole = {name: torch.from_numpy(padded(name)) for name in ("feature", "left", "right")}
    return Trees(
        **whole, threshold=torch.from_numpy(_rounded_down(padded("threshold"))), value=_floats(padded("value")),
        base=_floats(base), steps=torch.tensor(steps), share=torch.tensor(share),
    )  # fmt: skip


def _depth(tree: Tree) -> int:
    """Steps from the root to the deepest leaf."""
    level, steps = np.array([0]), 0
    while True:
        inner = level[tree.left[level] != level]
        if not len(inner):
            return steps
        level, steps = np.concatenate([tree.left[inner], tree.right[inner]]), steps + 1


def _rounded_down(threshold: Floats) -> NDArray[np.float32]:
    """The largest float32 up to each: so that a float32 compares with it as with the threshold itself."""
    near = threshold.astype(np.float32)
    return np.where(near > threshold, np.nextafter(near, np.float32(-np.inf)), near).astype(np.float32)


def _floats(values: NDArray) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))
