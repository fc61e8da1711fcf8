"""Which classes can be the best anywhere in a frame: the others need not be read out at the frame's size."""

import numpy as np
from numpy.typing import NDArray


def possible_winners(
    label_scores: NDArray[np.float32], grid_hw: tuple[int, int], *, keep_first: bool
) -> NDArray[np.uint8]:
    """Labels that can win some pixel under bilinear read-out, in rising order; leaving out the rest changes nothing.

    A pixel's scores are a convex mix of one 2 x 2 block of tokens. In a block a class stays below its greatest score,
    and the winner is at least the greatest of all classes' least scores; a class under that bound in every block wins
    nowhere. On the tiny world 3 to 7 of 20 classes remain, and the read-out's time falls with their number.

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
