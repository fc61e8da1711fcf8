import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nerve_runtime.errors import UsageError
from nerve_runtime.result import FrameResult
from nerve_stream.drawing import text as lettering
from nerve_stream.drawing.colours import CONE_LOSSES, class_colours, palette
from nerve_stream.drawing.overlay import OverlayStyle, outline_px, overlay, status_text
from tests.data.clips import halves

BARE = OverlayStyle(legend=False, status=False)
STREET = ("road", "sky", "building", "tree", "car", "person", "bus", "truck", "bicycle", "pole", "sign", "fence")


def result_of(
    labels: NDArray[np.uint8],
    class_names: tuple[str, ...] = ("grass", "caf\u00e9"),
    *,
    confidence: NDArray[np.uint8] | None = None,
    keyframe: bool = True,
    age: int = 0,
    valid: bool = True,
) -> FrameResult:
    certain = np.full(labels.shape, 255, dtype=np.uint8)
    times = {"total": 12.3}
    return FrameResult(
        labels, certain if confidence is None else confidence, class_names, 0, None, times, keyframe, age, valid
    )


def filled(value: int, size_hw: tuple[int, int] = (200, 300)) -> NDArray[np.uint8]:
    return np.full(size_hw, value, dtype=np.uint8)


def split(size_hw: tuple[int, int] = (200, 300)) -> NDArray[np.uint8]:
    """Label 0 in the left half, 1 in the right one."""
    labels = filled(0, size_hw)
    labels[:, size_hw[1] // 2 :] = 1
    return labels


def test_a_slot_keeps_its_colour_whatever_the_number_of_slots() -> None:
    np.testing.assert_array_equal(palette(7), palette(200)[:7])
    assert palette(0).shape == (0, 3)
    assert len(np.unique(palette(255), axis=0)) > 240


def test_a_class_has_the_colour_of_its_name_in_every_list_and_place() -> None:
    alone = class_colours(("zebra",))[0].tolist()
    assert class_colours(("zebra", "moon", "sky"))[0].tolist() == alone
    assert class_colours(("moon", "zebra"))[1].tolist() == alone
    assert class_colours(("background", "zebra"))[1].tolist() == alone
    assert class_colours(("  ZEBRA ",))[0].tolist() == alone
    # Written down, since colours may not change from one version to the next either.
    assert alone == [255, 115, 194]


@given(st.lists(st.text(max_size=12), min_size=1, max_size=30, unique=True), st.text(max_size=12))
def test_a_name_added_at_the_end_changes_no_other_colour(class_names: list[str], added: str) -> None:
    before = class_colours(class_names)[: len(class_names)]
    np.testing.assert_array_equal(class_colours([*class_names, added])[: len(class_names)], before)


def test_colours_of_one_list_look_different_also_without_one_kind_of_cone() -> None:
    linear = (class_colours(STREET)[: len(STREET)] / 255.0) ** 2.2
    for matrix in (np.eye(3), *CONE_LOSSES):
        seen = 255 * np.clip(linear @ np.transpose(matrix), 0, 1) ** (1 / 2.2)
        apart = np.linalg.norm(seen[:, None] - seen[None], axis=2) + 1000 * np.eye(len(STREET))
        assert apart.min() > (25 if matrix is not CONE_LOSSES and np.array_equal(matrix, np.eye(3)) else 5)


def test_as_many_classes_as_there_are_labels_have_each_a_colour_of_their_own() -> None:
    table = class_colours([f"class {number}" for number in range(254)])
    assert len(np.unique(table[:254], axis=0)) == 254
    assert table[255].tolist() == [128, 128, 128]


def test_opacity_goes_from_the_frame_to_the_colours() -> None:
    picture = halves((200, 300))
    bare = overlay(picture, result_of(filled(0)), OverlayStyle(opacity=0.0, legend=False, status=False))
    np.testing.assert_array_equal(bare, picture)
    full = overlay(picture, result_of(filled(0)), OverlayStyle(opacity=1.0, legend=False, status=False))
    assert (full == class_colours(("grass", "caf\u00e9"))[0]).all()
    assert (picture == halves((200, 300))).all()
    with pytest.raises(UsageError, match=r"opacity is 1\.5, expected 0 to 1"):
        OverlayStyle(opacity=1.5)


def test_the_background_stays_as_it_is_and_other_classes_do_not() -> None:
    picture = halves((200, 300))
    drawn = overlay(picture, result_of(split(), ("background", "car")), BARE)
    np.testing.assert_array_equal(drawn[:, :150], picture[:, :150])
    assert (drawn[:, 150:] != picture[:, 150:]).any(axis=2).all()
    assert class_colours(("background", "car"))[0].tolist() == [0, 0, 0]


def test_contours_draw_two_pixels_inside_each_edge_at_720p_and_leave_the_rest_nearly_alone() -> None:
    picture = np.full((720, 1280, 3), 90, dtype=np.uint8)
    drawn = overlay(picture, result_of(split((720, 1280))), OverlayStyle(contours=True, legend=False, status=False))
    colours = class_colours(("grass", "caf\u00e9"))
    assert (outline_px(720), outline_px(16), outline_px(2160)) == (2, 1, 6)
    assert (drawn[:, 638:640] == colours[0]).all()
    assert (drawn[:, 640:642] == colours[1]).all()
    inside = np.abs(drawn[:, [600, 637, 642, 700]].astype(int) - 90)
    assert 0 < inside.max() <= 0.12 * 0.55 * 165 + 1


def test_dimming_shows_doubtful_pixels_paler_in_proportion() -> None:
    confidence = filled(255)
    confidence[:, 100:200], confidence[:, 200:] = 128, 0
    style = OverlayStyle(opacity=1.0, dim_by_confidence=True, legend=False, status=False)
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


def test_the_legend_darkens_its_corner_and_shows_the_colour() -> None:
    labels = filled(1)
    drawn = overlay(np.full((200, 300, 3), 200, dtype=np.uint8), result_of(labels), OverlayStyle(status=False))
    assert (drawn[:20, :20] == class_colours(("grass", "caf\u00e9"))[1]).all(axis=2).any()
    assert drawn[1, 1].mean() < 0.5 * drawn[199, 299].mean()
    assert (drawn[:30] > 240).any()


def test_text_is_readable_on_white() -> None:
    picture = np.full((200, 300, 3), 255, dtype=np.uint8)
    drawn = overlay(picture, result_of(filled(0), ("background",)), OverlayStyle())
    # Contrast as WCAG defines it, of white text on the shade; 7 is its strictest level.
    shade = ((drawn[1, 1, 0] / 255 + 0.055) / 1.055) ** 2.4
    assert 1.05 / (shade + 0.05) > 7


def test_the_status_line_tells_pace_time_and_age() -> None:
    assert status_text(result_of(filled(0)), 24.84) == "24.8 fps  12 ms  KEY"
    assert status_text(result_of(filled(0), keyframe=False, age=3), None) == "12 ms  age 3"
    silent = overlay(halves((200, 300)), result_of(filled(0)), OverlayStyle(status=False))
    spoken = overlay(halves((200, 300)), result_of(filled(0)), OverlayStyle(), fps=24.8)
    changed = (silent != spoken).any(axis=2)
    assert changed[175:, :80].any()
    assert not changed[:170].any()


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
