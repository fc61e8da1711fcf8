"""Which classes are read out, at which size, and how labels get to the frame's size."""

from collections.abc import Mapping
from functools import reduce
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.bundle.spec import Readout
from nerve_runtime.labels import Labels, label_dtype
from nerve_runtime.opencv import cv2

READOUT_ELEMENTS_LIMIT = 2**27  # classes * H * W of float32 scores at frame size: half a gigabyte
BLOCK_TOKENS: Mapping[Readout, int] = {"bilinear": 2, "guided": 4}
"""Side of the block of tokens of which a pixel is a mix.

Guided, a pixel of the working frame is a mix of 3 x 3 tokens, and a pixel of the result one of 2 x 2 such pixels, which
lie in the same token or in neighbours.
"""
LEADERS = (2, 3)
"""Of how many classes, those that lead in a block, the mean is compared with; a fourth leaves out one class in 50."""
ROUNDING = 1e-6
"""More than the graphs' float32 sums of 9 products that are at most 1 can be off."""

Level = TypeVar("Level", np.uint8, np.uint16, np.uint8 | np.uint16)


def possible_winners(
    label_scores: NDArray[np.float32], grid_hw: tuple[int, int], readout: Readout, *, keep_first: bool
) -> Labels:
    """Labels that can win some pixel of a read-out, in rising order; leaving out the rest changes nothing.

    A pixel's scores are a convex mix, the same for every class, of one block of `BLOCK_TOKENS`. So a class that wins
    nowhere in any block is left out, which two bounds show, the quick one first: a class stays below its greatest score
    in the block, and the winner is at least the greatest of all classes' least scores; and a class that is below the
    mean of some others at every token of the block is so at every pixel, where one of them is at least that mean.

    On clips of the tiny world 5.3 of 38 classes remain bilinearly and 5.7 guided, where 4.9 win (6.4 and 7.4 by the first
    bound alone), and the read-out's time falls with their number.

    Args:
        label_scores: finite float32 (c, p), tokens row-major over `grid_hw`.
        grid_hw: token grid.
        readout: how the scores are read out.
        keep_first: keep label 0 in any case, because pixels below the threshold become it.

    Returns:
        Labels (n,), of the dtype that `label_dtype` has for c classes.
    """
    maps, side = label_scores.reshape(-1, *grid_hw), BLOCK_TOKENS[readout]
    most, least = _over_blocks(maps, side, np.maximum), _over_blocks(maps, side, np.minimum)
    rows = np.flatnonzero((most >= least.max(axis=0) - ROUNDING).any(axis=(1, 2)))
    rows = rows[_undominated(maps[rows], side)]
    if keep_first and rows[0] != 0:
        rows = np.insert(rows, 0, 0)
    winners: Labels = rows.astype(label_dtype(len(label_scores)))
    return winners


def _undominated(maps: NDArray[np.float32], side: int) -> NDArray[np.bool_]:
    """Which classes are not below the mean of the leading 2, nor of the leading 3, throughout every block; bool (c,)."""
    blocks = np.stack([seen for rows in _windows(maps, side, axis=1) for seen in _windows(rows, side, axis=2)])
    order = np.argsort(-blocks.mean(axis=0), axis=0, kind="stable")
    leading = np.take_along_axis(blocks, order[None, : max(LEADERS)], axis=1)
    possible = np.ones(order.shape, dtype=np.bool_)
    for leaders in LEADERS:
        mean = leading[:, :leaders].mean(axis=1, keepdims=True)
        possible &= (blocks >= mean - ROUNDING).any(axis=0)
    return np.asarray(possible.any(axis=(1, 2)))


def _over_blocks(maps: NDArray[np.float32], side: int, pick: np.ufunc) -> NDArray[np.float32]:
    """The picked value of every block of side x side tokens, (c, h-side+1, w-side+1); a shorter axis is one block."""
    return np.asarray(reduce(pick, _windows(reduce(pick, _windows(maps, side, axis=1)), side, axis=2)))


def _windows(maps: NDArray[np.float32], side: int, axis: Literal[1, 2]) -> list[NDArray[np.float32]]:
    """The maps as seen from each of the `side` places of a block along an axis."""
    width = min(side, maps.shape[axis])
    ends = range(maps.shape[axis] - width + 1, maps.shape[axis] + 1)
    if axis == 1:
        return [maps[:, start:end] for start, end in enumerate(ends)]
    return [maps[:, :, start:end] for start, end in enumerate(ends)]


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


def enlarged(plane: NDArray[Level], size_hw: tuple[int, int]) -> NDArray[Level]:
    """A coarser plane of labels or confidences, uint8 or uint16 (H, W), at the frame's size; nothing is blended."""
    resized: NDArray[Level] = np.asarray(
        cv2.resize(plane, size_hw[::-1], interpolation=cv2.INTER_NEAREST), dtype=plane.dtype
    )
    return resized
