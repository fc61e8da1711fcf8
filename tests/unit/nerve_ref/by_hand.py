"""Independent numpy forms of what the reference computes: small loops and full matrices, no torch."""

import itertools

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Size = tuple[int, int]


def softmax(logits: Floats, axis: int = -1) -> Floats:
    powers = np.exp(logits - logits.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def unit(vectors: Floats, axis: int = -1) -> Floats:
    return vectors / np.sqrt((vectors**2).sum(axis, keepdims=True))


def resize_matrix(from_hw: Size, to_hw: Size) -> Floats:
    """(q, p): each row holds the bilinear weights of one target token, pixel centres at +0.5 (align_corners False)."""
    rows, columns = _resize_axis(from_hw[0], to_hw[0]), _resize_axis(from_hw[1], to_hw[1])
    return np.kron(rows, columns).astype(np.float64)


def _resize_axis(source: int, target: int) -> Floats:
    weights = np.zeros((target, source))
    for i in range(target):
        place = min(max((i + 0.5) * source / target - 0.5, 0), source - 1)
        low = int(place)
        weights[i, low] += 1 - (place - low)
        weights[i, min(low + 1, source - 1)] += place - low
    return weights


def pool_matrix(grid_hw: Size, cells_hw: Size) -> Floats:
    """(m, p): averages tokens over cells."""
    matrix = np.zeros((cells_hw[0] * cells_hw[1], grid_hw[0] * grid_hw[1]))
    for y, x in itertools.product(range(grid_hw[0]), range(grid_hw[1])):
        cell = (y * cells_hw[0] // grid_hw[0]) * cells_hw[1] + x * cells_hw[1] // grid_hw[1]
        matrix[cell, y * grid_hw[1] + x] = 1
    return matrix / matrix.sum(1, keepdims=True)


def post_processed(weights: Floats, sharpen: float, row_threshold: float, key_norm: bool) -> Floats:
    """Rows of one head: key normalisation, power, threshold, each followed by a row normalisation."""
    if key_norm:
        weights = weights / np.maximum(weights.mean(0), 1e-6)
    weights = weights / weights.sum(1, keepdims=True)
    powers = weights**sharpen
    powers = np.where(powers >= row_threshold * powers.max(1, keepdims=True), powers, 0)
    return powers / powers.sum(1, keepdims=True)


def local_matrix(features: Floats, sigma: float) -> Floats:
    """(p, p): S_local of unit features (f, h, w), pair by pair."""
    _, height, width = features.shape
    matrix = np.zeros((height * width, height * width))
    for y, x, dy, dx in itertools.product(range(height), range(width), (-1, 0, 1), (-1, 0, 1)):
        if (dy or dx) and 0 <= y + dy < height and 0 <= x + dx < width:
            cosine = features[:, y, x] @ features[:, y + dy, x + dx]
            factor = 1 / np.sqrt(2) if dy and dx else 1.0
            matrix[y * width + x, (y + dy) * width + x + dx] = factor * np.exp(-(1 - cosine) / sigma)
    return matrix / matrix.sum(1, keepdims=True)
