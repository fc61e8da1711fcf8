"""Classes that cannot win are left out of the read-out, and nothing else changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nerve_runtime.readout import possible_winners


def _bilinear(line: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Resize the last axis with half-pixel centres and clamped borders, written out by hand."""
    size = line.shape[-1]
    place = np.clip((np.arange(length) + 0.5) * size / length - 0.5, 0, size - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, size - 1)
    share = place - low
    return line[..., low] * (1 - share) + line[..., high] * share


def _read_out(scores: NDArray[np.float32], grid_hw: tuple[int, int], size_hw: tuple[int, int]) -> NDArray[np.int64]:
    maps = scores.astype(np.float64).reshape(-1, *grid_hw)
    tall = _bilinear(maps.swapaxes(1, 2), size_hw[0]).swapaxes(1, 2)
    return _bilinear(tall, size_hw[1]).argmax(axis=0)


@given(
    seed=st.integers(0, 10_000),
    classes=st.integers(1, 9),
    grid_hw=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    size_hw=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    spread=st.sampled_from([0.05, 0.3, 3.0]),
)
def test_reading_out_the_possible_winners_alone_gives_the_same_labels(
    seed: int, classes: int, grid_hw: tuple[int, int], size_hw: tuple[int, int], spread: float
) -> None:
    tokens = grid_hw[0] * grid_hw[1]
    scores = np.random.default_rng(seed).dirichlet(np.full(classes, spread), tokens).T.astype(np.float32)
    rows = possible_winners(scores, grid_hw, keep_first=False)
    np.testing.assert_array_equal(rows[_read_out(scores[rows], grid_hw, size_hw)], _read_out(scores, grid_hw, size_hw))


def test_a_class_that_is_second_everywhere_but_first_between_tokens_is_kept() -> None:
    first_then_third = np.array([[0.55, 0.0], [0.45, 0.45], [0.0, 0.55]], np.float32)
    assert possible_winners(first_then_third, (1, 2), keep_first=False).tolist() == [0, 1, 2]
    assert _read_out(first_then_third, (1, 2), (1, 3))[0, 1] == 1


def test_a_class_below_the_others_everywhere_is_left_out() -> None:
    scores = np.array([[0.9, 0.8], [0.1, 0.15], [0.0, 0.05]], np.float32)
    assert possible_winners(scores, (1, 2), keep_first=False).tolist() == [0]


@pytest.mark.parametrize(("keep_first", "expected"), [(True, [0, 1]), (False, [1])])
def test_the_background_is_kept_for_pixels_below_the_threshold(keep_first: bool, expected: list[int]) -> None:
    scores = np.array([[0.1, 0.1], [0.9, 0.9]], np.float32)
    assert possible_winners(scores, (1, 2), keep_first=keep_first).tolist() == expected
