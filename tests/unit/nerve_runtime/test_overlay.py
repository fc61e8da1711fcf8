import numpy as np

from nerve_runtime.overlay import overlay, palette
from nerve_runtime.result import FrameResult
from tests.data.clips import halves


def result_of(labels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], *, valid: bool = True) -> FrameResult:
    confidence = np.full(labels.shape, 255, dtype=np.uint8)
    return FrameResult(labels, confidence, ("grass", "caf\u00e9"), 0, None, {}, True, valid)


def test_a_class_keeps_its_colour_whatever_the_number_of_classes() -> None:
    np.testing.assert_array_equal(palette(7), palette(200)[:7])
    assert palette(0).shape == (0, 3)


def test_colours_of_neighbouring_classes_are_far_apart() -> None:
    colours = palette(20).astype(int)
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=2) + 1000 * np.eye(20)
    assert distances.min() > 30
    assert len(np.unique(palette(255), axis=0)) > 240


def test_no_label_is_grey() -> None:
    assert palette(256)[255].tolist() == [128, 128, 128]


def test_opacity_goes_from_the_frame_to_the_colours() -> None:
    picture = halves((200, 300))
    labels = np.zeros((200, 300), dtype=np.uint8)
    bare = overlay(picture, result_of(labels), opacity=0.0)
    np.testing.assert_array_equal(bare[150:], picture[150:])
    full = overlay(picture, result_of(labels), opacity=1.0)
    assert (full[150:] == palette(1)[0]).all()
    assert (picture == halves((200, 300))).all()


def test_the_legend_darkens_its_corner_and_shows_the_colour() -> None:
    labels = np.ones((200, 300), dtype=np.uint8)
    drawn = overlay(np.full((200, 300, 3), 200, dtype=np.uint8), result_of(labels), opacity=0.5)
    assert (drawn[:14, :20] == palette(2)[1]).all(axis=2).any()
    assert drawn[1, 1].mean() < 0.6 * drawn[199, 299].mean()


def test_a_tiny_frame_and_an_invalid_frame_are_drawn() -> None:
    labels = np.full((2, 3), 255, dtype=np.uint8)
    drawn = overlay(np.zeros((2, 3, 3), dtype=np.uint8), result_of(labels, valid=False))
    assert drawn.shape == (2, 3, 3)
