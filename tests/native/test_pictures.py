"""The C library's pictures are Python's, byte by byte and bit by bit."""

from itertools import product

import numpy as np
import pytest

from nerve_runtime.frames import resize_frame
from nerve_runtime.motion import FloatArray, UInt8Array, _sampled, grey_picture
from nerve_runtime.opencv import cv2
from tests.native import pictures

pytestmark = pytest.mark.native

SIDES = (1, 2, 3, 7, 16, 31, 49, 64, 98, 150)


def picture_of(rng: np.random.Generator, height: int, width: int, *channels: int) -> UInt8Array:
    """Random levels, half of the time only the darkest and brightest ones."""
    if rng.random() < 0.5:
        return rng.integers(0, 256, (height, width, *channels), dtype=np.uint8)
    return np.asarray(rng.choice(np.array([0, 1, 254, 255], np.uint8), (height, width, *channels)))


def places_of(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Places around each pixel, also far outside, some on halves and whole numbers, some tiny."""
    y, x = np.mgrid[0:height, 0:width]
    steps = rng.normal(0, rng.choice([1e-6, 0.3, 4, 300]), (height, width, 2))
    steps = np.where(rng.random(steps.shape) < 0.2, np.rint(steps * 64) / 64, steps)
    return np.asarray(np.stack([x, y], axis=2) + steps, dtype=np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_a_frame_of_any_size_is_resized_to_the_same_bytes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(200):
        rows, columns, height, width = (int(side) for side in rng.integers(1, 260, 4))
        pixels = picture_of(rng, rows, columns, 3)
        np.testing.assert_array_equal(
            pictures.resized_frame(pixels, (height, width)), resize_frame(pixels, (height, width))
        )


def test_every_mix_of_shrinking_and_growing_axes_gives_the_same_bytes() -> None:
    rng = np.random.default_rng(0)
    for rows, columns, height, width in product(
        (1, 2, 7, 49, 98), (1, 3, 16, 64), (1, 2, 7, 31, 49), (1, 3, 8, 64, 150)
    ):
        pixels = picture_of(rng, rows, columns, 3)
        np.testing.assert_array_equal(
            pictures.resized_frame(pixels, (height, width)), resize_frame(pixels, (height, width))
        )


def test_shrinking_by_whole_numbers_gives_the_same_bytes() -> None:
    rng = np.random.default_rng(1)
    for down, across, height, width in product((1, 2, 3, 4, 5, 8), (1, 2, 3, 4, 7), (1, 5, 49), (1, 6, 37)):
        pixels = picture_of(rng, down * height, across * width, 3)
        np.testing.assert_array_equal(
            pictures.resized_frame(pixels, (height, width)), resize_frame(pixels, (height, width))
        )


@pytest.mark.parametrize(
    "size_hw", [(512, 512), (256, 256), (384, 384), (720, 1280), (360, 640), (1080, 1920), (900, 512)]
)
def test_a_video_frame_is_resized_to_the_same_bytes(size_hw: tuple[int, int]) -> None:
    pixels = picture_of(np.random.default_rng(2), 720, 1280, 3)
    np.testing.assert_array_equal(pictures.resized_frame(pixels, size_hw), resize_frame(pixels, size_hw))


@pytest.mark.parametrize("size_hw", [(40, 30), (60, 90), (40, 90), (50, 70), (25, 35)])
def test_rows_may_lie_apart_or_backwards_and_colours_be_reversed(size_hw: tuple[int, int]) -> None:
    wide = picture_of(np.random.default_rng(3), 100, 90, 3)
    for pixels in (wide[:50, 10:80], wide[::2, 10:80], wide[::-2, 10:80]):
        np.testing.assert_array_equal(pictures.resized_frame(pixels, size_hw), resize_frame(pixels.copy(), size_hw))
        swapped = resize_frame(pixels[..., ::-1].copy(), size_hw)
        np.testing.assert_array_equal(pictures.resized_frame(pixels, size_hw, bgr=True), swapped)


def test_motion_is_measured_on_the_same_grey_picture() -> None:
    rng = np.random.default_rng(4)
    sizes = [
        (1, 1),
        (1, 3000),
        (2000, 1),
        (2, 1000),
        (256, 256),
        (512, 512),
        (384, 384),
        (257, 256),
        (300, 5),
        (640, 1024),
    ]
    sizes += [(int(height), int(width)) for height, width in rng.integers(1, 700, (60, 2))]
    for size_hw in sizes:
        rgb = picture_of(rng, *size_hw, 3)
        np.testing.assert_array_equal(pictures.grey_picture(rgb), grey_picture(rgb), err_msg=str(size_hw))


def test_the_size_of_motion_is_rounded_as_python_rounds() -> None:
    expected = {
        size: grey_picture(np.zeros((*size, 3), np.uint8)).shape
        for size in product((1, 3, 96, 512, 513, 1024), range(1, 1100, 7))
    }
    assert {size: pictures.motion_size_hw(size) for size in expected} == expected


def test_planes_of_floats_are_averaged_and_blended_to_the_same_bits() -> None:
    rng = np.random.default_rng(5)
    for _ in range(400):
        rows, columns, height, width = (int(side) for side in rng.integers(1, 100, 4))
        if rng.random() < 0.4:
            rows, columns = height * int(rng.integers(1, 9)), width * int(rng.integers(1, 9))
        pairs = rng.normal(50, 40, (rows, columns, 2)).astype(np.float32)
        found = np.asarray([[0], [1]], np.float32)[rng.integers(0, 2, (rows, columns))]
        for values in (pairs, found):
            expected = cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA).reshape(height, width, -1)
            np.testing.assert_array_equal(pictures.resized_by_area(values, (height, width)), expected)


@pytest.mark.parametrize("seed", range(3))
def test_levels_and_pairs_between_pixels_have_the_same_bits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(60):
        height, width = (int(rng.choice(SIDES)) for _ in range(2))
        places = places_of(rng, height, width)
        grey = picture_of(rng, height, width)
        np.testing.assert_array_equal(pictures.sampled(grey, places), _sampled(grey, places))
        pairs = rng.normal(100, 80, (height, width, 2)).astype(np.float32)
        np.testing.assert_array_equal(pictures.sampled(pairs, places), _sampled(pairs, places))


def test_levels_close_to_a_half_are_rounded_the_same_way() -> None:
    rng = np.random.default_rng(6)
    grey = picture_of(rng, 200, 256)
    y, x = np.mgrid[0:200, 0:256].astype(np.float32)
    for _ in range(10):
        halves = rng.integers(1, 256, (200, 256, 2)) / np.float32(256)
        nudged = np.nextafter(halves.astype(np.float32), rng.choice([-9, 9], halves.shape).astype(np.float32))
        places = np.stack([x, y], axis=2) + nudged
        np.testing.assert_array_equal(pictures.sampled(grey, places), _sampled(grey, places))


def test_a_level_is_rounded_once_after_each_product_and_sum() -> None:
    # Rounded after the products too, as without FMA, it is 126; about one level in a million is such a one.
    grey = np.array([[173, 84], [118, 83]], np.uint8)
    place = np.array([[[float.fromhex("0x1.ed1p-3"), float.fromhex("0x1.31a8p-1")]]], np.float32)
    assert pictures.sampled(grey, place) == _sampled(grey, place) == 127


def test_a_mean_has_the_bits_of_numpy() -> None:
    rng = np.random.default_rng(7)
    for count in [*range(1, 300), 1000, 1024, 2304, 4095, 4096, 9216, 16384, 20001, 65536]:
        values = rng.random(count, dtype=np.float32)
        assert pictures.mean_in_pairs(values) == float(values.mean()), count
