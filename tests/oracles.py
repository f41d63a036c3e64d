"""Slow, plain answers in float64 numpy and loops, worked out from METHOD.md alone; the fast code is held against them.

Nothing of cluemap is imported here, nor anything of torch. Axis letters are METHOD.md's. One file, longer than the
house's 200 lines on purpose: an answer that is looked up should lie in one place.
"""

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

VOID = 255


# ------------------------------------------------------------------------------------------------ several processes
class Ranks:
    """As many threads as processes; `total` of one adds up what all of them bring, in the order of the ranks."""

    def __init__(self, count: int) -> None:
        self.count, self.slots = count, [None] * count
        self.barrier = threading.Barrier(count, timeout=20)

    def run(self, work: Callable[[int, Callable], Any]) -> list[Any]:
        """What work(rank, total) returned on every rank; the first error of any rank is raised."""
        results: list[Any] = [None] * self.count
        errors: list[BaseException] = []

        def one(rank: int) -> None:
            try:
                results[rank] = work(rank, lambda part: self._total(rank, part))
            except BaseException as error:  # a thread's error has to reach the test
                errors.append(error)
                self.barrier.abort()

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        own = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
        if errors:
            raise (own or errors)[0]
        return results

    def _total(self, rank: int, part: Any) -> Any:
        self.slots[rank] = part
        self.barrier.wait()
        shapes = {getattr(slot, "shape", ()) for slot in self.slots}
        if len(shapes) != 1:
            raise ValueError(f"the ranks add up different shapes: {shapes}")
        everything = sum(self.slots[1:], self.slots[0])
        self.barrier.wait()
        return everything


# --------------------------------------------------------------------------------------------------- clues, section 4
def unit(vector: np.ndarray) -> np.ndarray:
    return vector / math.sqrt(float((vector**2).sum()))


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other) / (math.sqrt(float(one @ one)) * math.sqrt(float(other @ other)))


def normalised_cam(cam: np.ndarray) -> np.ndarray:
    """b k n: every map by its own maximum."""
    out = np.zeros(cam.shape)
    for b, k in np.ndindex(cam.shape[:2]):
        out[b, k] = cam[b, k] / (max(cam[b, k]) + 1e-5)
    return out


def used_positions(cam01, labels, mu_high, mu_low, negatives_from) -> tuple[np.ndarray, np.ndarray]:
    """b k n, b k -> two bool b k n (eq. 4)."""
    positive, negative = np.zeros(cam01.shape, bool), np.zeros(cam01.shape, bool)
    for b, k, n in np.ndindex(cam01.shape):
        positive[b, k, n] = bool(labels[b, k]) and cam01[b, k, n] >= mu_high
        allowed = {"all_windows": True, "present_windows": bool(labels[b, k])}[negatives_from]
        negative[b, k, n] = allowed and cam01[b, k, n] <= mu_low
    return positive, negative


def sinkhorn(scores: np.ndarray, eta: float, rounds: int) -> np.ndarray:
    """N m -> N m for the used positions of one class."""
    positions, clues = scores.shape
    plan = np.exp(scores / eta)
    plan = plan / plan.sum()
    for _ in range(rounds):
        for m in range(clues):
            plan[:, m] = plan[:, m] / plan[:, m].sum() / clues
        for n in range(positions):
            plan[n] = plan[n] / plan[n].sum() / positions
    return plan * positions


def transport(scores: np.ndarray, used: np.ndarray, eta: float, rounds: int) -> np.ndarray:
    """k N m, k N -> k N m: `sinkhorn` of every class over its used positions, 0 elsewhere."""
    plan = np.zeros(scores.shape)
    for k in range(len(scores)):
        if used[k].any():
            plan[k, used[k]] = sinkhorn(scores[k, used[k]], eta, rounds)
    return plan


def moved(clues, features, assigned, weight, momentum) -> np.ndarray:
    """k m d, k N d, k N, k N -> k m d (eq. 7)."""
    out = clues.copy()
    for k, m in np.ndindex(clues.shape[:2]):
        mean, mass = np.zeros(clues.shape[2]), 0.0
        for n in range(features.shape[1]):
            if assigned[k, n] == m:
                mean, mass = mean + weight[k, n] * features[k, n], mass + weight[k, n]
        if mass > 0:
            out[k, m] = unit(momentum * clues[k, m] + (1 - momentum) * unit(mean / mass))
    return out


def position_loss(feature, positives, negatives, target, own_in_denominator, tau) -> float:
    """d, k m d, k m d, (sign, k, m) -> cross-entropy of one position over all 2 k m clues (eq. 8)."""
    logits = {}
    for sign, clues in (("positive", positives), ("negative", negatives)):
        for k, m in np.ndindex(clues.shape[:2]):
            logits[sign, k, m] = cosine(feature, clues[k, m]) / tau
    below = sum(math.exp(value) for key, value in logits.items() if own_in_denominator or key != target)
    return -logits[target] + math.log(below)


def clue_loss(dense, positives, negatives, assigned, used, labels, tau, positive_in_denominator) -> float:
    """b n k d; k m d twice; `assigned` and `used` map "positive" and "negative" to b k n; b k -> number (eq. 8, 9)."""
    windows, grid, classes, _ = dense.shape
    of_classes = []
    for k in range(classes):
        if not any(labels[b, k] for b in range(windows)):
            continue
        losses = []
        for sign in ("positive", "negative"):
            for b, n in np.ndindex(windows, grid):
                if used[sign][b, k, n]:
                    target = (sign, k, int(assigned[sign][b, k, n]))
                    losses.append(
                        position_loss(dense[b, n, k], positives, negatives, target, positive_in_denominator, tau)
                    )
        if losses:
            of_classes.append(sum(losses) / len(losses))
    return sum(of_classes) / len(of_classes) if of_classes else 0.0


# ------------------------------------------------------------------------------ temporal weights, affinity, section 5
def temporal_weights(attention, valid, kind, sharpness) -> np.ndarray:
    """b k t, b t -> b k t; nothing on dates that are not there, the others sum to 1."""
    weights = np.zeros(attention.shape)
    for b, k in np.ndindex(attention.shape[:2]):
        dates = [t for t in range(attention.shape[2]) if valid[b, t]]
        shares = {"power": lambda a: a**sharpness, "softmax": math.exp}[kind]
        total = sum(shares(attention[b, k, t]) for t in dates)
        for t in dates:
            weights[b, k, t] = shares(attention[b, k, t]) / total
    return weights


def weighted_sequence(sequence, weights) -> np.ndarray:
    """b n t d, b k t -> b k n d (eq. 11)."""
    (windows, grid, dates, width), classes = sequence.shape, weights.shape[1]
    out = np.zeros((windows, classes, grid, width))
    for b, k, n, t in np.ndindex(windows, classes, grid, dates):
        out[b, k, n] += weights[b, k, t] * sequence[b, n, t]
    return out


STEPS = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]  # row by row


def around(row: int, column: int, height: int, width: int, dilation: int) -> list[tuple[int, int]]:
    """The 8 neighbours of a position; one outside the grid is the nearest one on its border."""
    return [
        (min(max(row + dilation * down, 0), height - 1), min(max(column + dilation * right, 0), width - 1))
        for down, right in STEPS
    ]


def neighbours(x: np.ndarray, dilation: int) -> np.ndarray:
    """b d h w -> b d 8 h w."""
    windows, depth, height, width = x.shape
    out = np.zeros((windows, depth, 8, height, width))
    for row, column in np.ndindex(height, width):
        for j, (r, c) in enumerate(around(row, column, height, width, dilation)):
            out[:, :, j, row, column] = x[:, :, r, c]
    return out


def affinity(features: np.ndarray, dilation: int, temperature: float) -> np.ndarray:
    """b d h w -> b 8 h w (eq. 12)."""
    windows, depth, height, width = features.shape
    out = np.zeros((windows, 8, height, width))
    for b, row, column in np.ndindex(windows, height, width):
        near = [features[b, :, r, c] for r, c in around(row, column, height, width, dilation)]
        spread = 0.0
        for d in range(depth):
            values = [vector[d] for vector in near]
            mean = sum(values) / 8
            spread += math.sqrt(sum((value - mean) ** 2 for value in values) / 7) / depth
        logits = [cosine(features[b, :, row, column], vector) / (spread + 1e-8) / temperature for vector in near]
        shares = [math.exp(logit - max(logits)) for logit in logits]
        out[b, :, row, column] = [share / sum(shares) for share in shares]
    return out


def propagate(cam: np.ndarray, shares: np.ndarray, dilation: int, rounds: int) -> np.ndarray:
    """b h w, b 8 h w -> b h w (eq. 13)."""
    windows, height, width = cam.shape
    for _ in range(rounds):
        after = np.zeros(cam.shape)
        for b, row, column in np.ndindex(windows, height, width):
            for j, (r, c) in enumerate(around(row, column, height, width, dilation)):
                after[b, row, column] += shares[b, j, row, column] * cam[b, r, c]
        cam = after
    return cam


def refine(cam, sequence, attention, valid, labels, dilation, temperature, rounds, kind, sharpness, blend):
    """b k h w, b n t d, b k t, b t, b k -> b k h w; absent classes come back as they are."""
    height, width = cam.shape[2:]
    weighted = weighted_sequence(sequence, temporal_weights(attention, valid, kind, sharpness))  # b k n d
    out = cam.copy()
    for b, k in zip(*labels.nonzero(), strict=True):
        features = weighted[b, k].T.reshape(1, -1, height, width)
        spread_out = propagate(cam[b, k][None], affinity(features, dilation, temperature), dilation, rounds)[0]
        out[b, k] = (1 - blend) * cam[b, k] + blend * spread_out
    return out


def tap_loss(raw: np.ndarray, refined: np.ndarray, labels: np.ndarray) -> float:
    """b k h w twice, b k -> number (eq. 14)."""
    total, present = 0.0, 0
    for b, k in np.ndindex(labels.shape):
        if labels[b, k]:
            present += 1
            for row, column in np.ndindex(raw.shape[2:]):
                total += abs(refined[b, k, row, column] - raw[b, k, row, column])
    return total / (present * raw.shape[2] * raw.shape[3])


# -------------------------------------------------------------------------------------------- CAMs and masks, 2, 6, 7
def raw_cam(temporal: np.ndarray, spatial: np.ndarray) -> np.ndarray:
    out = np.zeros(temporal.shape)
    for place in np.ndindex(temporal.shape):
        out[place] = (max(temporal[place], 0.0) + max(spatial[place], 0.0)) / 2
    return out


def clue_cam(dense, positives, negatives, labels, height) -> np.ndarray:
    """b n k d, k m d twice, b k -> b k h w, for the present classes (eq. 16)."""
    windows, grid, classes, _ = dense.shape
    width = grid // height
    out = np.zeros((windows, classes, height, width))
    for b, n, k in np.ndindex(windows, grid, classes):
        toward = max(cosine(dense[b, n, k], clue) for clue in positives[k])
        away = max(cosine(dense[b, n, k], clue) for clue in negatives[k])
        out[b, k, n // width, n % width] = max(toward - away, 0.0) if labels[b, k] else 0.0
    return out


def min_max(cam: np.ndarray) -> np.ndarray:
    """b k h w: every map between 0 and 1."""
    out = np.zeros(cam.shape)
    for b, k in np.ndindex(cam.shape[:2]):
        low, high = cam[b, k].min(), cam[b, k].max()
        out[b, k] = (cam[b, k] - low) / (high - low + 1e-8)
    return out


def upsample(cam: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """b k h w -> b k H W, bilinear; pixel centres at half steps, nothing beyond the outermost centres."""

    def between(place: int, many: int, few: int) -> tuple[int, int, float]:
        exact = min(max((place + 0.5) * few / many - 0.5, 0.0), few - 1.0)
        before = math.floor(exact)
        return before, min(before + 1, few - 1), exact - before

    out = np.zeros((*cam.shape[:2], *size))
    for row, column in np.ndindex(size):
        up, down, low = between(row, size[0], cam.shape[2])
        left, right, far = between(column, size[1], cam.shape[3])
        top = (1 - far) * cam[:, :, up, left] + far * cam[:, :, up, right]
        bottom = (1 - far) * cam[:, :, down, left] + far * cam[:, :, down, right]
        out[:, :, row, column] = (1 - low) * top + low * bottom
    return out


def best_class(cam: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """b k H W, b k -> the best score of the present classes, its class 1..K (-inf, 0 where none is present)."""
    windows, classes, height, width = cam.shape
    score, winner = np.full((windows, height, width), -math.inf), np.zeros((windows, height, width), int)
    for b, row, column in np.ndindex(windows, height, width):
        for k in range(classes):
            if labels[b, k] and cam[b, k, row, column] > score[b, row, column]:
                score[b, row, column], winner[b, row, column] = cam[b, k, row, column], k + 1
    return score, winner


def pseudo_mask(score, winner, threshold, background, ignore_band) -> np.ndarray:
    """b H W twice -> label b H W: a class has to beat beta; without a background a score under beta is void."""
    out = np.zeros(score.shape, np.uint8)
    for place in np.ndindex(score.shape):
        if background:
            out[place] = winner[place] if score[place] > threshold else 0
        else:
            out[place] = VOID if score[place] < threshold else winner[place]
        if ignore_band > 0 and abs(score[place] - threshold) <= ignore_band:
            out[place] = VOID
    return out


# -------------------------------------------------------------------------------------------------- losses and scores
def soft_margin(logits: np.ndarray, labels: np.ndarray) -> float:
    """b k, b k -> number: mean over windows and classes of the yes-or-no cross-entropy."""
    total = 0.0
    for place in np.ndindex(logits.shape):
        signed = logits[place] if labels[place] else -logits[place]
        total += math.log(1 + math.exp(-signed))
    return total / logits.size


def confusion(truth: np.ndarray, prediction: np.ndarray, classes: int, first: int) -> np.ndarray:
    """Two label maps -> pixels, true class (from id `first`) by predicted class, the last column for no prediction.

    Only void truth is ignored: a pixel that was left without a class is one that was not found.
    """
    out = np.zeros((classes, classes + 1), int)
    for true, predicted in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if true != VOID:
            out[true - first, classes if predicted == VOID else predicted - first] += 1
    return out


def scores(table: np.ndarray) -> dict[str, Any]:
    """Confusion -> OA, mIoU and balanced accuracy (classes with a true pixel), and per class; nan: it is not there."""
    classes = range(len(table))
    hit = [float(table[k, k]) for k in classes]
    true, predicted = [float(table[k].sum()) for k in classes], [float(table[:, k].sum()) for k in classes]

    def share(part: float, whole: float) -> float:
        return part / whole if whole > 0 else math.nan

    iou = [share(hit[k], true[k] + predicted[k] - hit[k]) if true[k] else math.nan for k in classes]
    seen = [value for value in iou if not math.isnan(value)]
    recall = [share(hit[k], true[k]) for k in classes]
    known = [value for value in recall if not math.isnan(value)]
    return {
        "oa": share(sum(hit), float(table.sum())),
        "miou": sum(seen) / len(seen) if seen else math.nan,
        "iou": iou,
        "precision": [share(hit[k], predicted[k]) for k in classes],
        "recall": recall,
        "balanced": sum(known) / len(known) if known else math.nan,
        "f1": [share(2 * hit[k], true[k] + predicted[k]) if true[k] else math.nan for k in classes],
    }


def average_precision(score: np.ndarray, truth: np.ndarray) -> float:
    """N, N bool -> sum over falling thresholds of (gain in recall) * precision."""
    area, recall_before = 0.0, 0.0
    for threshold in sorted(set(score.tolist()), reverse=True):
        found = [bool(t) for s, t in zip(score, truth, strict=True) if s >= threshold]
        precision, recall = sum(found) / len(found), sum(found) / int(truth.sum())
        area, recall_before = area + (recall - recall_before) * precision, recall
    return area


def mean_average_precision(score: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """b k, b k -> macro (over classes that occur), micro."""
    each = [average_precision(score[:, k], truth[:, k]) for k in range(score.shape[1]) if truth[:, k].any()]
    return sum(each) / len(each), average_precision(score.ravel(), truth.ravel())


def threshold_curve(score, winner, truth, thresholds, background, crops) -> list[tuple[float, float]]:
    """One whole pass over all pixels for every threshold -> (OA, mIoU) of each."""
    curve, classes, first = [], crops + background, 0 if background else 1
    for threshold in thresholds:
        masks = pseudo_mask(score, winner, threshold, background, 0.0)
        result = scores(confusion(truth, masks, classes, first))
        curve.append((result["oa"], result["miou"]))
    return curve


# ------------------------------------------------------------------------------------------- networks, sections 2 and 8
# Weights of a block: first_norm, second_norm (weight, bias); qkv (3hd, d); out, wide, narrow (weight, bias).
# An encoder: {"blocks": [block, ...], "norm": (weight, bias)}.
def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return x @ weight.T + bias


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    out = np.zeros(x.shape)
    for i in range(len(x)):
        mean = x[i].mean()
        out[i] = (x[i] - mean) / math.sqrt(((x[i] - mean) ** 2).mean() + 1e-5) * weight + bias
    return out


def gelu(x: np.ndarray) -> np.ndarray:
    return np.vectorize(lambda value: value * 0.5 * (1 + math.erf(value / math.sqrt(2))))(x)


def attend(x: np.ndarray, qkv: np.ndarray, heads: int, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """tokens d -> tokens (heads width) and the maps (heads tokens tokens); what is not seen gets nothing."""
    tokens, width = len(x), len(qkv) // 3 // heads
    query, key, value = np.split(x @ qkv.T, 3, axis=1)
    out, maps = np.zeros((tokens, heads * width)), np.zeros((heads, tokens, tokens))
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        for i in range(tokens):
            logits = {j: float(query[i, part] @ key[j, part]) / math.sqrt(width) for j in range(tokens) if seen[j]}
            shares = {j: math.exp(logit - max(logits.values())) for j, logit in logits.items()}
            for j, share in shares.items():
                maps[head, i, j] = share / sum(shares.values())
                out[i, part] += maps[head, i, j] * value[j, part]
    return out, maps


def block(x, weights, heads, residual, seen) -> tuple[np.ndarray, np.ndarray]:
    """tokens d -> tokens d, and the attention maps; residual plain | normed | both."""
    normed = layer_norm(x, *weights["first_norm"])
    heard, maps = attend(normed, weights["qkv"], heads, seen)
    x = {"plain": x, "normed": normed, "both": x + normed}[residual] + linear(heard, *weights["out"])
    wide = gelu(linear(layer_norm(x, *weights["second_norm"]), *weights["wide"]))
    return x + linear(wide, *weights["narrow"]), maps


def encoder(x, weights, heads, residual, seen) -> tuple[np.ndarray, np.ndarray]:
    """tokens d -> tokens d after the final norm, and the mean attention map over layers and heads."""
    mean = np.zeros((len(x), len(x)))
    for layer in weights["blocks"]:
        x, maps = block(x, layer, heads, residual, seen)
        mean += maps.mean(axis=0) / len(weights["blocks"])
    return layer_norm(x, *weights["norm"]), mean


def patches(images: np.ndarray, side: int) -> np.ndarray:
    """t c h w -> t n (row column band)."""
    dates, bands, height, width = images.shape
    out = np.zeros((dates, height // side * (width // side), side * side * bands))
    for t, row, column in np.ndindex(dates, height // side, width // side):
        values = []
        for r, c in np.ndindex(side, side):
            values += [images[t, band, row * side + r, column * side + c] for band in range(bands)]
        out[t, row * (width // side) + column] = values
    return out


def temporal_encoder(images, day, valid, weights, side, heads, residual, mask_padding=True):
    """One window t c h w, t, t -> dense n k d, sequence n t d, attention k t (mean over layers, heads, positions).

    `weights`: patch (weight, bias), day_table (row = day), day_bias, class_tokens k d, encoder.
    """
    classes, dates = len(weights["class_tokens"]), len(images)
    looks = patches(images, side)
    dense, sequence, attention = [], [], np.zeros((classes, dates))
    seen = np.array([True] * classes + [bool(v) or not mask_padding for v in valid])
    for n in range(looks.shape[1]):
        tokens = linear(looks[:, n], *weights["patch"])
        for t in range(dates):
            tokens[t] += weights["day_table"][day[t]] + weights["day_bias"]
        out, map_ = encoder(
            np.concatenate([weights["class_tokens"], tokens]), weights["encoder"], heads, residual, seen
        )
        dense.append(out[:classes])
        sequence.append(out[classes:])
        attention += map_[:classes, classes:] / looks.shape[1]
    return np.array(dense), np.array(sequence), attention


def convolve3(x: np.ndarray, weight: np.ndarray, bias: float) -> np.ndarray:
    """h w d, d 3 3 -> h w, zeros outside."""
    height, width, _ = x.shape
    out = np.full((height, width), float(bias))
    for row, column, i, j in np.ndindex(height, width, 3, 3):
        r, c = row + i - 1, column + j - 1
        if 0 <= r < height and 0 <= c < width:
            out[row, column] += x[r, c] @ weight[:, i, j]
    return out


def classifier(images, day, valid, weights, side, heads, residual, mask_padding=True) -> dict[str, np.ndarray]:
    """One window -> logits k, spatial and temporal scores k h/p w/p, dense, sequence, attention.

    `weights`: those of `temporal_encoder`, and global_token d, positions n d, spatial (an encoder),
    class_norm, class_linear (1 d), patch_head (1 d 3 3).
    """
    dense, sequence, attention = temporal_encoder(images, day, valid, weights, side, heads, residual, mask_padding)
    grid, classes, _ = dense.shape
    shape = (images.shape[2] // side, images.shape[3] // side, -1)
    kernel, bias = weights["patch_head"][0][0], weights["patch_head"][1][0]
    logits, spatial, temporal = [], [], []
    for k in range(classes):
        tokens = np.concatenate([weights["global_token"][None], dense[:, k] + weights["positions"]])
        out, _ = encoder(tokens, weights["spatial"], heads, residual, np.ones(grid + 1, bool))
        logits.append(linear(layer_norm(out[:1], *weights["class_norm"]), *weights["class_linear"])[0, 0])
        spatial.append(convolve3(out[1:].reshape(shape), kernel, bias))
        temporal.append(convolve3(dense[:, k].reshape(shape), kernel, bias))
    return {
        "logits": np.array(logits),
        "spatial": np.array(spatial),
        "temporal": np.array(temporal),
        "dense": dense,
        "sequence": sequence,
        "attention": attention,
    }


def segmenter(images, day, valid, weights, side, heads, residual, pixel_layout, mask_padding=True) -> np.ndarray:
    """One window -> logits k h w.

    `weights`: those of `temporal_encoder`, and positions n d, spatial (an encoder), head_norm, head_linear (p*p d).
    """
    dense, _, _ = temporal_encoder(images, day, valid, weights, side, heads, residual, mask_padding)
    grid, classes, _ = dense.shape
    height, width = images.shape[2:]
    out = np.zeros((classes, height, width))
    for k in range(classes):
        tokens, _ = encoder(
            dense[:, k] + weights["positions"], weights["spatial"], heads, residual, np.ones(grid, bool)
        )
        pixels = linear(layer_norm(tokens, *weights["head_norm"]), *weights["head_linear"])  # n (p p)
        for n, q in np.ndindex(pixels.shape):
            if pixel_layout == "flat":
                place = n * side * side + q
                row, column = place // width, place % width
            else:
                row, column = n // (width // side) * side + q // side, n % (width // side) * side + q % side
            out[k, row, column] = pixels[n, q]
    return out
