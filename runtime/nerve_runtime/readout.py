"""Which classes are read out, at which size, and how labels get to the frame's size."""

from collections.abc import Mapping
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.bundle.spec import Readout
from nerve_runtime.opencv import cv2

READOUT_ELEMENTS_LIMIT = 2**27  # classes * H * W of float32 scores at frame size: half a gigabyte
BLOCK_TOKENS: Mapping[Readout, int] = {"bilinear": 2, "guided": 4}
"""Side of the block of tokens of which a pixel is a mix.

Guided, a pixel of the working frame is a mix of 3 x 3 tokens, and a pixel of the result one of 2 x 2 such pixels, which
lie in the same token or in neighbours.
"""
ROUNDING = 1e-6
"""More than the graphs' float32 sums of 9 products that are at most 1 can be off."""

UInt8Array = NDArray[np.uint8]


def possible_winners(
    label_scores: NDArray[np.float32], grid_hw: tuple[int, int], readout: Readout, *, keep_first: bool
) -> UInt8Array:
    """Labels that can win some pixel of a read-out, in rising order; leaving out the rest changes nothing.

    A pixel's scores are a convex mix, the same for every class, of one block of `BLOCK_TOKENS`. In a block a class stays
    below its greatest score, and the winner is at least the greatest of all classes' least scores; a class under that
    bound in every block wins nowhere. On the tiny world 2 to 10 of 38 classes remain, and the read-out's time falls
    with their number.

    Args:
        label_scores: finite float32 (c, p), tokens row-major over `grid_hw`.
        grid_hw: token grid.
        readout: how the scores are read out.
        keep_first: keep label 0 in any case, because pixels below the threshold become it.
    """
    maps, side = label_scores.reshape(-1, *grid_hw), BLOCK_TOKENS[readout]
    most, least = _over_blocks(maps, side, np.maximum), _over_blocks(maps, side, np.minimum)
    possible = (most >= least.max(axis=0) - ROUNDING).any(axis=(1, 2))
    possible[0] |= keep_first
    return np.flatnonzero(possible).astype(np.uint8)


def _over_blocks(maps: NDArray[np.float32], side: int, pick: np.ufunc) -> NDArray[np.float32]:
    """The picked value of every block of side x side tokens, (c, h-side+1, w-side+1); a shorter axis is one block."""
    for axis in (1, 2):
        width = min(side, maps.shape[axis])
        along = np.moveaxis(maps, axis, 0)
        count = len(along) - width + 1
        picked = reduce(pick, (along[start : start + count] for start in range(width)))
        maps = np.moveaxis(picked, 0, axis)
    return maps


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
