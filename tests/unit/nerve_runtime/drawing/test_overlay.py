import numpy as np
import pytest

from nerve_runtime.drawing import text as lettering
from nerve_runtime.drawing.colours import class_colours
from nerve_runtime.drawing.overlays import OverlayStyle, outline_px, overlay, status_text
from nerve_runtime.errors import UsageError
from tests.data.clips import halves
from tests.data.label_maps import filled, noise, result_of, split

ONLY_STATUS = OverlayStyle(legend=False, names=False)
BARE = OverlayStyle(legend=False, status=False, names=False)


def test_opacity_goes_from_the_frame_to_the_colours() -> None:
    picture = halves((200, 300))
    bare = overlay(picture, result_of(filled(0)), OverlayStyle(opacity=0.0, legend=False, status=False, names=False))
    np.testing.assert_array_equal(bare, picture)
    full = overlay(picture, result_of(filled(0)), OverlayStyle(opacity=1.0, legend=False, status=False, names=False))
    assert (full == class_colours(("grass", "caf\u00e9"))[0]).all()
    assert (picture == halves((200, 300))).all()
    with pytest.raises(UsageError, match=r"opacity is 1\.5, expected 0 to 1"):
        OverlayStyle(opacity=1.5)


def test_the_hue_of_the_picture_does_not_pull_at_the_colours_of_classes() -> None:
    # Two pictures of one brightness: 0.299 * 255 = 76.2 and 0.299 * 76 + 0.587 * 76 + 0.114 * 76 = 76.
    red, grey = halves((200, 300)), np.full((200, 300, 3), 76, dtype=np.uint8)
    red[:] = (255, 0, 0)
    result = result_of(filled(0))
    np.testing.assert_allclose(overlay(red, result, BARE).astype(int), overlay(grey, result, BARE), atol=1)


@pytest.mark.parametrize("opacity", [0.2, 0.55, 0.9])
def test_two_classes_differ_by_the_opacity_times_their_colours_on_any_picture(opacity: float) -> None:
    picture, names = noise((200, 300)), ("zebra", "water")
    style = OverlayStyle(opacity, legend=False, status=False, names=False)
    drawn = [overlay(picture, result_of(filled(label), names), style).astype(int) for label in (0, 1)]
    colours = class_colours(names)[:2].astype(float)
    # Each of the two is rounded once.
    np.testing.assert_allclose(
        drawn[0] - drawn[1], np.broadcast_to(opacity * (colours[0] - colours[1]), (200, 300, 3)), atol=1.01
    )


def test_the_background_stays_as_it_is_and_other_classes_do_not() -> None:
    picture = halves((200, 300))
    drawn = overlay(picture, result_of(split(), ("background", "car")), BARE)
    np.testing.assert_array_equal(drawn[:, :150], picture[:, :150])
    assert (drawn[:, 150:] != picture[:, 150:]).any(axis=2).all()
    assert class_colours(("background", "car"))[0].tolist() == [0, 0, 0]


def test_contours_draw_two_pixels_inside_each_edge_at_720p_and_leave_the_rest_nearly_alone() -> None:
    picture = np.full((720, 1280, 3), 90, dtype=np.uint8)
    drawn = overlay(
        picture, result_of(split((720, 1280))), OverlayStyle(contours=True, legend=False, status=False, names=False)
    )
    colours = class_colours(("grass", "caf\u00e9"))
    assert (outline_px(720), outline_px(16), outline_px(2160)) == (2, 1, 6)
    assert (drawn[:, 638:640] == colours[0]).all()
    assert (drawn[:, 640:642] == colours[1]).all()
    inside = np.abs(drawn[:, [600, 637, 642, 700]].astype(int) - 90)
    assert 0 < inside.max() <= 0.12 * 0.55 * 165 + 1


def test_between_contours_the_picture_keeps_its_colours() -> None:
    picture = halves((720, 1280))
    style = OverlayStyle(contours=True, legend=False, status=False, names=False)
    inside = overlay(picture, result_of(split((720, 1280))), style)[10:-10, 10:600].astype(int)
    assert np.abs(inside - picture[10:-10, 10:600]).max() <= 0.12 * 0.55 * 255 + 1


def test_dimming_shows_doubtful_pixels_paler_in_proportion() -> None:
    confidence = filled(255)
    confidence[:, 100:200], confidence[:, 200:] = 128, 0
    style = OverlayStyle(opacity=1.0, dim_by_confidence=True, legend=False, status=False, names=False)
    drawn = overlay(np.zeros((200, 300, 3), dtype=np.uint8), result_of(filled(0), confidence=confidence), style)
    colour = class_colours(("grass",))[0].astype(float)
    np.testing.assert_allclose(drawn[10, 50], colour, atol=1)
    np.testing.assert_allclose(drawn[10, 150], colour * 128 / 255, atol=2)
    assert drawn[10, 250].tolist() == [0, 0, 0]


def test_pixels_without_a_label_are_hatched_in_grey() -> None:
    labels = split()
    labels[50:100, 50:100] = 255
    drawn = overlay(np.zeros((200, 300, 3), dtype=np.uint8), result_of(labels), BARE)
    hatched = drawn[52:98, 52:98].reshape(-1, 3)
    assert sorted(map(tuple, np.unique(hatched, axis=0).tolist())) == [(70, 70, 70), (200, 200, 200)]


def test_text_is_readable_on_white() -> None:
    picture = np.full((200, 300, 3), 255, dtype=np.uint8)
    drawn = overlay(picture, result_of(filled(0), ("background",)), OverlayStyle(names=False))
    # Contrast as WCAG defines it, of white text on the shade; 7 is its strictest level.
    shade = ((drawn[1, 1, 0] / 255 + 0.055) / 1.055) ** 2.4
    assert 1.05 / (shade + 0.05) > 7


def test_the_status_line_tells_pace_time_and_age() -> None:
    assert status_text(result_of(filled(0)), 24.84) == "24.8 frames/s, 12 ms a frame, keyframe"
    assert status_text(result_of(filled(0), keyframe=False, age=3), None) == "12 ms a frame, 3 frames after a keyframe"
    assert status_text(result_of(filled(0), keyframe=False, age=1), None) == "12 ms a frame, 1 frame after a keyframe"
    silent = overlay(halves((200, 300)), result_of(filled(0)), OverlayStyle(status=False))
    spoken = overlay(halves((200, 300)), result_of(filled(0)), OverlayStyle(), fps=24.8)
    changed = (silent != spoken).any(axis=2)
    assert changed[175:, :80].any()
    assert not changed[:170].any()


def test_a_status_line_that_is_too_long_loses_whole_parts_at_its_end() -> None:
    black = np.zeros((128, 128, 3), dtype=np.uint8)
    parts = [overlay(black, result_of(filled(0, (128, 128))), ONLY_STATUS, fps=24.8)]
    parts.append(overlay(black, result_of(filled(0, (128, 128)), age=3), ONLY_STATUS, fps=24.8))
    np.testing.assert_array_equal(parts[0], parts[1])
    assert (parts[0][110:, :90] > 240).any()
    assert not (parts[0][110:, 120:] > 240).any()


@pytest.mark.parametrize("unicode_fonts", [True, False])
@pytest.mark.parametrize("size_hw", [(1, 1), (2, 3), (16, 16), (56, 84), (60, 2000), (2000, 60)])
def test_a_frame_of_any_size_is_drawn_with_either_font(
    monkeypatch: pytest.MonkeyPatch, size_hw: tuple[int, int], unicode_fonts: bool
) -> None:
    monkeypatch.setattr(lettering, "HAS_UNICODE_FONTS", unicode_fonts and lettering.HAS_UNICODE_FONTS)
    labels = np.resize(np.arange(60, dtype=np.uint8), size_hw)
    names = tuple(f"\u9053\u8def {number} " + "long " * 30 for number in range(60))
    for style in (OverlayStyle(), OverlayStyle(contours=True, dim_by_confidence=True)):
        drawn = overlay(np.zeros((*size_hw, 3), dtype=np.uint8), result_of(labels, names), style, fps=1.0)
        assert drawn.shape == (*size_hw, 3)
    invalid = overlay(np.zeros((*size_hw, 3), dtype=np.uint8), result_of(filled(255, size_hw), names, valid=False))
    assert invalid.shape == (*size_hw, 3)


def test_letters_that_cannot_be_drawn_are_seen_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "HAS_UNICODE_FONTS", False)
    assert lettering.drawable("stra\u00dfe caf\u00e9 \u7a7a") == "stra?e cafe ?"
    assert lettering.shortened("a\n" + "b" * 40) == "a " + "b" * 27 + "..."


def test_names_in_other_alphabets_are_drawn_where_opencv_can() -> None:
    if not lettering.HAS_UNICODE_FONTS:
        pytest.skip("this OpenCV draws ASCII only")
    pictures = []
    for name in ("\u7a7a\u7a7a", "\u8def\u8def", "??"):
        picture = np.zeros((40, 200, 3), dtype=np.uint8)
        lettering.draw_text(picture, name, (4, 4), 30)
        pictures.append(picture)
    assert all((first != second).any() for first, second in zip(pictures, pictures[1:] + pictures[:1], strict=True))
