"""Which classes are read out, at which size, and how labels get to the frame's size."""

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.opencv import cv2

READOUT_ELEMENTS_LIMIT = 2**27  # classes * H * W of float32 scores at frame size: half a gigabyte

UInt8Array = NDArray[np.uint8]


def possible_winners(label_scores: NDArray[np.float32], grid_hw: tuple[int, int], *, keep_first: bool) -> UInt8Array:
    """Labels that can win some pixel under bilinear read-out, in rising order; leaving out the rest changes nothing.

    A pixel's scores are a convex mix of one 2 x 2 block of tokens. In a block a class stays below its greatest score,
    and the winner is at least the greatest of all classes' least scores; a class under that bound in every block wins
    nowhere. On the tiny world 2 to 10 of 38 classes remain, and the read-out's time falls with their number.

    Args:
        label_scores: finite float32 (c, p), tokens row-major over `grid_hw`.
        grid_hw: token grid.
        keep_first: keep label 0 in any case, because pixels below the threshold become it.
    """
    maps = label_scores.reshape(-1, *grid_hw)
    most, least = _over_blocks(maps, np.maximum), _over_blocks(maps, np.minimum)
    possible = (most >= least.max(axis=0)).any(axis=(1, 2))
    possible[0] |= keep_first
    return np.flatnonzero(possible).astype(np.uint8)


def _over_blocks(maps: NDArray[np.float32], pick: np.ufunc) -> NDArray[np.float32]:
    """The picked value of every 2 x 2 block of tokens, (c, h-1, w-1); an axis of one token stays as it is."""
    rows = pick(maps[:, :-1], maps[:, 1:]) if maps.shape[1] > 1 else maps
    return np.asarray(pick(rows[:, :, :-1], rows[:, :, 1:]) if maps.shape[2] > 1 else rows, dtype=np.float32)


def readout_size_hw(classes: int, size_hw: tuple[int, int], limit_px: int | None = None) -> tuple[int, int]:
    """The frame's size, halved until classes * H * W is within `READOUT_ELEMENTS_LIMIT` and both sides in `limit_px`.

    >>> readout_size_hw(20, (1080, 1920)), readout_size_hw(200, (2160, 3840)), readout_size_hw(2, (500, 3000), 1920)
    ((1080, 1920), (540, 960), (250, 1500))
    """
    height, width = size_hw
    longest = limit_px or max(size_hw)
    while classes * height * width > READOUT_ELEMENTS_LIMIT or max(height, width) > longest:
        height, width = max(1, height // 2), max(1, width // 2)
    return height, width


def enlarged(plane: UInt8Array, size_hw: tuple[int, int]) -> UInt8Array:
    """A coarser plane of labels or confidences, uint8 (H, W), at the frame's size; nothing is blended."""
    return np.asarray(cv2.resize(plane, size_hw[::-1], interpolation=cv2.INTER_NEAREST), dtype=np.uint8)
