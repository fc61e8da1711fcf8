"""Results with regions of every shape: holes, single pixels, the whole picture, classes beside each other."""

from collections.abc import Iterator

import numpy as np

from nerve_runtime import FrameResult

CLASS_NAMES = ("background", "car, old", 'a "quoted" <tag> & more', "Straße")


def drawn_results(*, background: bool) -> Iterator[FrameResult]:
    """Nine results of different sizes, each with all kinds of regions."""
    for seed in range(8):
        random = np.random.default_rng(seed)
        height, width = random.integers(8, 70, 2)
        side = int(random.integers(1, 6))
        coarse = random.integers(0, len(CLASS_NAMES), (height // side + 1, width // side + 1))
        labels = np.kron(coarse, np.ones((side, side), dtype=int))[:height, :width].astype(np.uint8)
        labels[0, 0] = 255
        yield result_of(labels, background=background)
    yield result_of(np.full((300, 400), 1, dtype=np.uint8), background=background)


def result_of(labels: np.ndarray, *, background: bool) -> FrameResult:
    """A result with these labels."""
    names = CLASS_NAMES if background else ("road", *CLASS_NAMES[1:])
    confidence = np.full(labels.shape, 204, dtype=np.uint8)
    return FrameResult(labels, confidence, names, 0, None, {}, True, 0, True)
