"""The C library reads out the same classes, at the same sizes, as Python; its labels are the same."""

from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from nerve_runtime.bundle.spec import Readout
from nerve_runtime.errors import UsageError
from nerve_runtime.labels import CLASSES_LIMIT, cast_labels, ignore_label, label_dtype
from nerve_runtime.motion import FloatArray
from nerve_runtime.opencv import cv2
from nerve_runtime.readout import enlarged, possible_winners, readout_size_hw
from tests.native import pictures

pytestmark = pytest.mark.native


def scores_of(rng: np.random.Generator, classes: int, grid_hw: tuple[int, int]) -> FloatArray:
    """Scores (c, p) of smooth or rugged maps, some of them equal, on coarse steps, or within rounding of another."""
    maps: NDArray[Any] = rng.random((classes, *grid_hw), dtype=np.float32)
    if rng.random() < 0.6:
        smooth = rng.choice([0.7, 1.5, 4])
        maps = np.stack([cv2.GaussianBlur(plane, (0, 0), float(smooth)) for plane in maps])
    maps = maps * rng.choice([0.2, 0.5, 1], (classes, 1, 1)).astype(np.float32)
    match rng.integers(0, 4):
        case 0:
            maps = np.rint(maps * 8) / np.float32(8)
        case 1:
            maps = maps[rng.integers(0, classes, classes)] + rng.choice([0, 5e-7, 1e-6], (classes, 1, 1)).astype(
                np.float32
            )
        case 2:
            maps = maps * 50 - 25
    return np.ascontiguousarray(maps.reshape(classes, -1), dtype=np.float32)


@pytest.mark.parametrize("readout", get_args(Readout))
@pytest.mark.parametrize("seed", range(3))
def test_the_same_labels_can_win(readout: Readout, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(150):
        grid_hw = (int(rng.integers(1, 24)), int(rng.integers(1, 24)))
        scores = scores_of(rng, int(rng.integers(1, 40)), grid_hw)
        keep_first = bool(rng.integers(0, 2))
        expected = possible_winners(scores, grid_hw, readout, keep_first=keep_first)
        assert pictures.possible_winners(scores, grid_hw, readout, keep_first=keep_first) == expected.tolist()


@pytest.mark.parametrize("readout", get_args(Readout))
def test_the_same_of_many_classes_can_win_on_a_grid_of_true_size(readout: Readout) -> None:
    rng = np.random.default_rng(9)
    for classes, grid_hw in ((38, (64, 64)), (300, (32, 32)), (254, (24, 40))):
        scores = scores_of(rng, classes, grid_hw)
        expected = possible_winners(scores, grid_hw, readout, keep_first=True)
        assert pictures.possible_winners(scores, grid_hw, readout, keep_first=True) == expected.tolist()


def test_scores_that_are_not_finite_are_harmless() -> None:
    rng = np.random.default_rng(3)
    values = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 0], np.float32)
    for _ in range(100):
        scores = np.asarray(rng.choice(values, (6, 35)))
        found = pictures.possible_winners(scores, (5, 7), "guided", keep_first=bool(rng.integers(0, 2)))
        assert found == sorted(set(found) & set(range(6)))


def test_labels_are_read_out_at_the_same_size() -> None:
    rng = np.random.default_rng(4)
    for _ in range(500):
        classes = int(rng.choice([1, 2, 38, 254, 255, 65534]))
        height, width = (int(side) for side in rng.choice([1, 2, 3, 255, 720, 1080, 3841, 16000], 2))
        limit_px = int(rng.choice([0, 1, 100, 1920]))
        expected = readout_size_hw(classes, (height, width), limit_px or None)
        assert pictures.readout_size_hw(classes, (height, width), limit_px) == expected


@pytest.mark.parametrize("classes", [2, 3, 127, 128, 129])
def test_scores_that_just_fit_are_read_out_in_full(classes: int) -> None:
    for size_hw in ((1024, 1024), (8192, 8192), (1, 2**27 // classes), (1, 2**27 // classes + 1)):
        assert pictures.readout_size_hw(classes, size_hw, 0) == readout_size_hw(classes, size_hw)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_plane_is_enlarged_to_the_same_labels(dtype: type[np.uint8 | np.uint16]) -> None:
    rng = np.random.default_rng(5)
    cases = [(int(a), int(b), int(c), int(d)) for a, b, c, d in rng.integers(1, 200, (300, 4))]
    cases += [
        (540, 960, 1080, 1920),
        (5, 10, 12, 24),
        (50, 50, 170, 170),
        (100, 10, 130, 13),
        (64, 64, 64, 64),
        (1, 1, 9, 9),
    ]
    for rows, columns, height, width in cases:
        plane: NDArray[np.uint8 | np.uint16] = rng.integers(0, np.iinfo(dtype).max, (rows, columns), dtype=dtype)
        np.testing.assert_array_equal(pictures.enlarged(plane, (height, width)), enlarged(plane, (height, width)))


@pytest.mark.parametrize("classes", [1, 2, 254, 255, CLASSES_LIMIT])
def test_labels_have_as_many_bytes_as_in_python(classes: int) -> None:
    assert pictures.label_bytes(classes) == (label_dtype(classes).itemsize, "")


def test_too_many_classes_are_refused_in_the_same_words() -> None:
    with pytest.raises(UsageError) as error:
        label_dtype(CLASSES_LIMIT + 1)
    assert pictures.label_bytes(CLASSES_LIMIT + 1) == (0, str(error.value))


def test_labels_change_their_width_as_in_python() -> None:
    wide, narrow = np.dtype(np.uint16), np.dtype(np.uint8)
    labels = np.array([*range(254), 65535], np.uint16)
    np.testing.assert_array_equal(pictures.cast_labels(labels), cast_labels(labels, narrow))
    labels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(pictures.cast_labels(labels), cast_labels(labels, wide))
    assert [pictures.library().ignore_label(dtype.itemsize) for dtype in (narrow, wide)] == [
        ignore_label(narrow),
        ignore_label(wide),
    ]
