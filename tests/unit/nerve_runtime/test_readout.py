"""Classes that cannot win are left out of the read-out, and nothing else changes."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nerve_runtime.bundle.spec import Readout
from nerve_runtime.readout import possible_winners


def _bilinear(line: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Resize the last axis with half-pixel centres and clamped borders, written out by hand."""
    size = line.shape[-1]
    place = np.clip((np.arange(length) + 0.5) * size / length - 0.5, 0, size - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, size - 1)
    share = place - low
    return line[..., low] * (1 - share) + line[..., high] * share


def _read_out(maps: NDArray[np.float64], size_hw: tuple[int, int]) -> NDArray[np.int64]:
    tall = _bilinear(maps.swapaxes(1, 2), size_hw[0]).swapaxes(1, 2)
    return _bilinear(tall, size_hw[1]).argmax(axis=0)


def _maps(scores: NDArray[np.float32], grid_hw: tuple[int, int]) -> NDArray[np.float64]:
    return scores.astype(np.float64).reshape(-1, *grid_hw)


def _guided(maps: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each pixel as a mix of its own token and the 8 around it, by any weights (3, 3, H, W), pixel by pixel."""
    _, _, height, width = weights.shape
    rows, columns = maps.shape[1:]
    found = np.zeros((len(maps), height, width))
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)))
    for y, x in np.ndindex(height, width):
        row, column = y * rows // height, x * columns // width
        for dy, dx in np.ndindex(3, 3):
            found[:, y, x] += weights[dy, dx, y, x] * padded[:, row + dy, column + dx]
    return found


def _random_weights(
    rng: np.random.Generator, grid_hw: tuple[int, int], token_px: int, spread: float
) -> NDArray[np.float64]:
    """Weights (3, 3, H, W) that sum to 1 over the tokens inside the grid; at a small spread one token takes nearly all."""
    height, width = (side * token_px for side in grid_hw)
    weights = rng.gamma(spread, size=(3, 3, height, width)) + 1e-12
    for index, (tokens, side) in enumerate(zip(grid_hw, (height, width), strict=True)):
        own = np.arange(side) // token_px
        for offset in range(3):
            outside = (own + offset - 1 < 0) | (own + offset - 1 >= tokens)
            place = (offset, slice(None), outside) if index == 0 else (slice(None), offset, slice(None), outside)
            weights[place] = 0
    return np.asarray(weights / weights.sum(axis=(0, 1)))


SCORES = {
    "seed": st.integers(0, 10_000),
    "classes": st.integers(1, 9),
    "grid_hw": st.tuples(st.integers(1, 6), st.integers(1, 6)),
    "size_hw": st.tuples(st.integers(1, 40), st.integers(1, 40)),
    "spread": st.sampled_from([0.05, 0.3, 3.0]),
}


def _random_scores(
    rng: np.random.Generator, classes: int, grid_hw: tuple[int, int], spread: float
) -> NDArray[np.float32]:
    return rng.dirichlet(np.full(classes, spread), grid_hw[0] * grid_hw[1]).T.astype(np.float32)


@given(**SCORES)
def test_reading_out_the_possible_winners_alone_gives_the_same_labels(
    seed: int, classes: int, grid_hw: tuple[int, int], size_hw: tuple[int, int], spread: float
) -> None:
    scores = _random_scores(np.random.default_rng(seed), classes, grid_hw, spread)
    rows = possible_winners(scores, grid_hw, "bilinear", keep_first=False)
    found, expected = (_read_out(_maps(some, grid_hw), size_hw) for some in (scores[rows], scores))
    np.testing.assert_array_equal(rows[found], expected)


@given(**SCORES, token_px=st.integers(1, 3))
def test_so_it_does_with_any_guide_whatever_weights_it_gives(
    seed: int, classes: int, grid_hw: tuple[int, int], size_hw: tuple[int, int], spread: float, token_px: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = _random_scores(rng, classes, grid_hw, spread)
    weights = _random_weights(rng, grid_hw, token_px, spread)
    rows = possible_winners(scores, grid_hw, "guided", keep_first=False)
    found, expected = (_read_out(_guided(_maps(some, grid_hw), weights), size_hw) for some in (scores[rows], scores))
    np.testing.assert_array_equal(rows[found], expected)


def test_a_guided_pixel_may_lie_between_tokens_three_apart() -> None:
    """Two pixels that meet take all of the token before the one's own and of that after the other's."""
    scores = np.array([[0.5, 0.5, 0.5, 0.05], [0.45, 0, 0, 0.45], [0.05, 0.5, 0.5, 0.5]], np.float32)
    weights = np.zeros((3, 3, 1, 4))
    weights[1, [1, 0, 2, 1], 0, range(4)] = 1
    labels = _read_out(_guided(_maps(scores, (1, 4)), weights), (1, 7))
    assert labels[0, 3] == 1
    assert possible_winners(scores, (1, 4), "guided", keep_first=False).tolist() == [0, 1, 2]
    assert possible_winners(scores, (1, 4), "bilinear", keep_first=False).tolist() == [0, 2]


def test_a_class_that_is_second_everywhere_but_first_between_tokens_is_kept() -> None:
    first_then_third = np.array([[0.55, 0.0], [0.45, 0.45], [0.0, 0.55]], np.float32)
    assert possible_winners(first_then_third, (1, 2), "bilinear", keep_first=False).tolist() == [0, 1, 2]
    assert _read_out(_maps(first_then_third, (1, 2)), (1, 3))[0, 1] == 1


@pytest.mark.parametrize("readout", get_args(Readout))
def test_a_class_below_the_others_everywhere_is_left_out(readout: Readout) -> None:
    scores = np.array([[0.9, 0.8], [0.1, 0.15], [0.0, 0.05]], np.float32)
    assert possible_winners(scores, (1, 2), readout, keep_first=False).tolist() == [0]


@pytest.mark.parametrize(("keep_first", "expected"), [(True, [0, 1]), (False, [1])])
def test_the_background_is_kept_for_pixels_below_the_threshold(keep_first: bool, expected: list[int]) -> None:
    scores = np.array([[0.1, 0.1], [0.9, 0.9]], np.float32)
    assert possible_winners(scores, (1, 2), "bilinear", keep_first=keep_first).tolist() == expected
