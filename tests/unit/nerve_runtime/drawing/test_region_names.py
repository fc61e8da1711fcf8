import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from nerve_runtime.drawing.boxes import Box
from nerve_runtime.drawing.legend import label_areas
from nerve_runtime.drawing.overlays import OverlayStyle, overlay
from nerve_runtime.drawing.region_names import PlacedName, place_names
from nerve_runtime.drawing.text import draw_outlined_text, frame_line_px, outlined_size_hw
from tests.data.label_maps import filled, noise, result_of, split

NAMES = ("grass", "water", "sand", "zebra", "dog", "pizza", "soccer ball", "strawberry", "\u7a7a\u6c17")
NAMED = OverlayStyle(legend=False, status=False)


def placed_in(labels: NDArray[np.uint8], taken: tuple[Box, ...] = ()) -> list[PlacedName]:
    return place_names(labels, label_areas(labels), NAMES, frame_line_px(labels.shape), taken)


def scene(size_hw: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """Three strips of ground with six ellipses on them at random places."""
    rng = np.random.default_rng(seed)
    height, width = size_hw
    labels = filled(0, size_hw)
    labels[height // 3 :], labels[2 * height // 3 :] = 1, 2
    for label in range(3, len(NAMES)):
        middle = int(rng.uniform(0, width)), int(rng.uniform(0, height))
        axes = int(rng.uniform(0.04, 0.2) * width), int(rng.uniform(0.04, 0.2) * height)
        cv2.ellipse(labels, middle, axes, rng.uniform(0, 180), 0, 360, label, cv2.FILLED)
    return labels


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("size_hw", [(720, 1280), (512, 512), (128, 128), (101, 257)])
def test_names_lie_in_the_frame_on_their_own_regions_and_on_no_other_name(size_hw: tuple[int, int], seed: int) -> None:
    labels = scene(size_hw, seed)
    status = Box(size_hw[0] - 40, 0, 40, size_hw[1] // 2)
    names = placed_in(labels, (status,))
    assert len(names) >= 2
    for number, name in enumerate(names):
        assert name.box.top >= 0
        assert name.box.left >= 0
        inside = labels[name.box.pixels]
        assert inside.shape == outlined_size_hw(NAMES[name.label], frame_line_px(size_hw))
        assert np.mean(inside == name.label) >= 0.5
        assert not any(name.box.overlaps(other.box) for other in names[:number])
        assert not name.box.overlaps(status)


def test_every_large_class_of_a_roomy_frame_is_named_once() -> None:
    labels = filled(0, (720, 1280))
    for label in range(1, len(NAMES)):
        labels[100:300, 20 + 140 * label : 150 + 140 * label] = label
    assert sorted(name.label for name in placed_in(labels)) == list(range(len(NAMES)))


def test_a_name_stands_in_the_middle_of_a_region_with_room() -> None:
    labels = filled(0, (720, 1280))
    labels[200:400, 700:1000] = 1
    (box,) = [name.box for name in placed_in(labels) if name.label == 1]
    # Within the 8 px in which labels are looked at.
    assert box.top + box.height / 2 == pytest.approx(300, abs=8)
    assert box.left + box.width / 2 == pytest.approx(850, abs=8)


def test_a_name_takes_the_widest_part_of_a_region() -> None:
    labels = filled(0, (720, 1280))
    labels[300:312, 100:900] = 1
    labels[250:360, 900:1100] = 1
    (box,) = [name.box for name in placed_in(labels) if name.label == 1]
    assert (labels[box.pixels] == 1).all()


def test_a_name_gives_way_to_text_that_is_there_already() -> None:
    labels = filled(0, (720, 1280))
    (free,) = [name.box for name in placed_in(labels)]
    (moved,) = [name.box for name in placed_in(labels, (free,))]
    assert not moved.overlaps(free)
    assert placed_in(labels, (Box(0, 0, 720, 1280),)) == []


@pytest.mark.parametrize("size_hw", [(1, 1), (3, 500), (500, 3), (14, 14)])
def test_a_frame_too_small_for_a_name_has_none(size_hw: tuple[int, int]) -> None:
    assert placed_in(filled(7, size_hw)) == []


def test_small_regions_and_no_label_have_no_name() -> None:
    labels = filled(255, (720, 1280))
    labels[:100, :130] = 1  # 1.4 %
    labels[300:400, :150] = 2  # 1.6 %
    assert [name.label for name in placed_in(labels)] == [2]


def test_a_region_that_is_too_thin_for_its_name_has_none() -> None:
    labels = filled(0, (720, 1280))
    labels[:, 600:622] = 6
    assert [name.label for name in placed_in(labels)] == [0]


def test_edges_that_shake_hardly_move_names() -> None:
    moves: list[float] = []
    for seed in range(6):
        still, rng = scene((720, 1280), seed), np.random.default_rng(seed)
        before = {name.label: name.box for name in placed_in(still)}
        edges = cv2.morphologyEx(still, cv2.MORPH_GRADIENT, np.ones((9, 9), dtype=np.uint8)) > 0
        for _ in range(4):
            shaken = np.where(edges & (rng.random(still.shape) < 0.5), np.roll(still, 3, axis=(0, 1)), still)
            shaken[rng.random(still.shape) < 0.01] = 2
            after = {name.label: name.box for name in placed_in(shaken)}
            assert after.keys() == before.keys()
            moves += [
                np.hypot(box.top - before[label].top, box.left - before[label].left) for label, box in after.items()
            ]
    # Half of the 8 px in which labels are looked at, and the height of a line.
    assert np.mean(moves) < 4
    assert np.quantile(moves, 0.97) < 24


@pytest.mark.parametrize("brightness", [0, 128, 255])
def test_outlined_text_is_white_beside_black_on_any_picture(brightness: int) -> None:
    picture = np.full((60, 200, 3), brightness, dtype=np.uint8)
    draw_outlined_text(picture, "zebra", (10, 20), 30)
    height, width = outlined_size_hw("zebra", 30)
    white, black = picture.min(axis=2) > 240, picture.max(axis=2) < 15
    assert white[10 : 10 + height, 20 : 20 + width].sum() > 50
    assert black[10 : 10 + height, 20 : 20 + width].sum() > 50
    untouched = np.ones(picture.shape[:2], dtype=bool)
    untouched[10 : 10 + height, 20 : 20 + width] = False
    assert (picture[untouched] == brightness).all()


def test_outlined_text_beyond_the_edges_is_clipped() -> None:
    whole = np.full((60, 200, 3), 90, dtype=np.uint8)
    draw_outlined_text(whole, "zebra", (10, 20), 30)
    for top, left in ((10, 20), (-5, -7), (45, 170), (-100, 0), (0, 400)):
        picture = np.full((60, 200, 3), 90, dtype=np.uint8)
        draw_outlined_text(picture, "zebra", (top, left), 30)
        expected = np.full((60, 200, 3), 90, dtype=np.uint8)
        rows, columns = np.mgrid[:60, :200]
        from_yx = rows - top + 10, columns - left + 20
        known = (from_yx[0] >= 0) & (from_yx[0] < 60) & (from_yx[1] >= 0) & (from_yx[1] < 200)
        expected[known] = whole[from_yx[0][known], from_yx[1][known]]
        np.testing.assert_array_equal(picture, expected)


def test_names_are_drawn_on_the_overlay_and_can_be_left_out() -> None:
    picture, labels = noise((200, 300)), split()
    bare = overlay(picture, result_of(labels), OverlayStyle(legend=False, status=False, names=False))
    changed = (overlay(picture, result_of(labels), NAMED) != bare).any(axis=2)
    assert changed[:, :150].any()
    assert changed[:, 150:].any()
    assert changed.mean() < 0.05


def test_the_background_is_not_named() -> None:
    picture, result = noise((200, 300)), result_of(split(), ("background", "car"))
    drawn = overlay(picture, result, NAMED)
    np.testing.assert_array_equal(drawn[:, :140], picture[:, :140])
    assert (drawn[:, 150:].max(axis=2) < 10).any()
