"""CSCL again, pixel by pixel, worked out from METHOD section 15 alone (float64 numpy, nothing of cluemap, no torch)."""

import math

import numpy as np

NO_CLASS = 255


def contexts(height: int, width: int, window: int, stride: int, dilation: int):
    """Index of a place j, its centre (y, x) and the pixel (v, u) there, which may lie outside the image."""
    half = window // 2
    for y in range(0, height, stride):
        for x in range(0, width, stride):
            for j in range(window * window):
                row, column = divmod(j, window)
                yield j, row, column, y, x, y + (row - half) * dilation, x + (column - half) * dilation


def unit(vector: np.ndarray) -> np.ndarray:
    length = math.sqrt(float((vector**2).sum()))
    return vector / length if length else vector


def similarities(query, key, rows, columns, window, stride, dilation) -> np.ndarray:
    """b d h w twice, window e, window d-e -> b j h' w'."""
    b, _, h, w = query.shape
    out = np.full((b, window**2, math.ceil(h / stride), math.ceil(w / stride)), np.nan)
    for n in range(b):
        for j, row, column, y, x, v, u in contexts(h, w, window, stride, dilation):
            inside = 0 <= v < h and 0 <= u < w
            there = key[n, :, v, u] if inside else np.zeros(key.shape[1])
            placed = there + np.concatenate([rows[row], columns[column]])
            out[n, j, y // stride, x // stride] = unit(query[n, :, y, x]) @ unit(placed)
    return out


def loss(similar, mask, window, stride, dilation, positive_weight, masked) -> float:
    """b j h' w', b h w -> the mean over the pairs that count."""
    terms = []
    for n in range(len(mask)):
        for j, _, _, y, x, v, u in contexts(*mask.shape[1:], window, stride, dilation):
            inside = 0 <= v < mask.shape[1] and 0 <= u < mask.shape[2]
            if masked and (not inside or (v, u) == (y, x) or NO_CLASS in (mask[n, y, x], mask[n, v, u])):
                continue
            alike = inside and mask[n, v, u] == mask[n, y, x]
            s = similar[n, j, y // stride, x // stride]
            terms.append(-positive_weight * s if alike else s)
    return sum(terms) / len(terms) if terms else 0.0
