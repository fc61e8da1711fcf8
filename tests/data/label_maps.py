"""Results with simple label maps, to be drawn."""

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.labels import Labels
from nerve_runtime.result import FrameResult


def result_of(
    labels: Labels,
    class_names: tuple[str, ...] = ("grass", "caf\u00e9"),
    *,
    confidence: NDArray[np.uint8] | None = None,
    keyframe: bool = True,
    age: int = 0,
    valid: bool = True,
) -> FrameResult:
    """A result with these labels, certain everywhere unless told."""
    certain = np.full(labels.shape, 255, dtype=np.uint8)
    times = {"total": 12.3}
    return FrameResult(
        labels, certain if confidence is None else confidence, class_names, 0, None, times, keyframe, age, valid
    )


def filled(value: int, size_hw: tuple[int, int] = (200, 300)) -> NDArray[np.uint8]:
    """One label everywhere."""
    return np.full(size_hw, value, dtype=np.uint8)


def split(size_hw: tuple[int, int] = (200, 300)) -> NDArray[np.uint8]:
    """Label 0 in the left half, 1 in the right one."""
    labels = filled(0, size_hw)
    labels[:, size_hw[1] // 2 :] = 1
    return labels


def noise(size_hw: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """A picture of random colours, uint8 (H, W, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
