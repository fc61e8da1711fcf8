"""Pictures that another decoder reads back, and colours that say what they should."""

import numpy as np

from nerve_export.parity.pictures import (
    DIFFERENT,
    LIMIT_LINE,
    differences,
    encode_png,
    enlarged,
    heat_map,
    histogram,
    label_colors,
)
from nerve_runtime.opencv import cv2

LIMIT = 1e-3


def decoded(content: bytes) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture[..., ::-1]


def test_another_decoder_reads_the_same_pixels() -> None:
    for size_hw in ((1, 1), (3, 7), (64, 48)):
        rgb = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), np.uint8)
        np.testing.assert_array_equal(decoded(encode_png(rgb)), rgb)


def test_enlarging_repeats_whole_pixels() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (3, 5, 3), np.uint8)
    large = enlarged(rgb, 7)
    assert large.shape == (9, 15, 3)
    np.testing.assert_array_equal(large[::3, ::3], rgb)
    np.testing.assert_array_equal(enlarged(rgb, 2), rgb)


def test_no_two_labels_share_a_colour_and_ignore_is_black() -> None:
    colors = label_colors(np.arange(256, dtype=np.uint8)[None])[0]
    assert len({tuple(color) for color in colors[:32]}) == 32
    assert tuple(colors[255]) == (0, 0, 0)


def test_only_pixels_that_differ_are_red() -> None:
    first, second = np.zeros((4, 4), np.uint8), np.eye(4, dtype=np.uint8)
    picture = differences(np.full((4, 4, 3), 200, np.uint8), first, second)
    np.testing.assert_array_equal((picture == DIFFERENT).all(2), first != second)


def test_a_heat_map_grows_paler_up_to_the_limit_and_is_red_beyond() -> None:
    errors = np.array([[0, 1e-8, 1e-6, 1e-4, LIMIT, 2 * LIMIT, np.nan, np.inf]])
    colors = heat_map(errors, LIMIT)[0].astype(int)
    ends = cv2.applyColorMap(np.array([[0, 255]], np.uint8), cv2.COLORMAP_INFERNO)[0, :, ::-1]
    assert (np.diff(colors[:5].sum(1)) > 0).all()
    np.testing.assert_array_equal(colors[[0, 4]], ends)
    assert all(tuple(color) == DIFFERENT for color in colors[5:])


def test_a_histogram_has_its_bars_left_of_the_limit_where_all_is_well() -> None:
    picture = histogram(np.full((8, 8), 1e-6), LIMIT)
    line = np.flatnonzero((picture == LIMIT_LINE).all(2).all(0))
    bars = np.flatnonzero((picture[-1] == (78, 99, 160)).all(1))
    assert len(line) == 2
    assert bars.size > 0
    assert bars.max() < line.min()


def test_numbers_that_are_not_finite_are_in_the_last_bar() -> None:
    picture = histogram(np.array([np.nan, np.inf, 5.0]), LIMIT)
    bars = np.flatnonzero((picture[-1] == (78, 99, 160)).all(1))
    assert bars.min() >= picture.shape[1] - 8
