import numpy as np
import pytest

from nerve_runtime.drawing.boxes import Box
from nerve_runtime.drawing.colours import class_colours
from nerve_runtime.drawing.legend import LegendEntry, fit_to_corner, label_areas, legend_entries, with_legend
from nerve_runtime.drawing.overlays import OverlayStyle, overlay
from tests.data.label_maps import filled, noise, result_of, split

MANY = tuple(f"class {number}" for number in range(60))


def test_areas_are_the_counts_of_pixels() -> None:
    labels = np.random.default_rng(0).integers(0, 256, (40, 60), dtype=np.uint8)
    np.testing.assert_array_equal(label_areas(labels), np.bincount(labels.ravel(), minlength=256))


def test_entries_come_largest_first_with_colour_and_share() -> None:
    labels = filled(1, (100, 100))
    labels[:20], labels[20, :30] = 2, 3
    labels[21, :5] = 0  # 0.05 %: a speck
    result = result_of(labels, ("dog", "zebra", "sky", "car"))
    entries = legend_entries(result, label_areas(labels))
    assert [entry.text for entry in entries] == ["zebra 80%", "sky 20%", "car <1%"]
    assert entries[0].colour == tuple(class_colours(("zebra",))[0])
    assert [entry.text for entry in legend_entries(result, label_areas(labels), {1})] == ["sky 20%", "car <1%"]


def test_the_background_has_no_colour_and_scores_that_are_not_finite_are_told() -> None:
    background = result_of(filled(0), ("background", "car"))
    assert legend_entries(background, label_areas(background.labels)) == [LegendEntry("background 100%", None)]
    invalid = result_of(filled(255), valid=False)
    assert legend_entries(invalid, label_areas(invalid.labels)) == [LegendEntry("no valid scores", (128, 128, 128))]


def test_the_legend_darkens_its_corner_and_shows_the_colour() -> None:
    labels = filled(1)
    style = OverlayStyle(status=False, names=False)
    drawn = overlay(np.full((200, 300, 3), 200, dtype=np.uint8), result_of(labels), style)
    assert (drawn[:20, :20] == class_colours(("grass", "caf\u00e9"))[1]).all(axis=2).any()
    assert drawn[1, 1].mean() < 0.5 * drawn[199, 299].mean()
    assert (drawn[:30] > 240).any()


def test_a_class_whose_name_is_on_the_picture_is_not_in_its_legend() -> None:
    picture, result = noise((400, 600)), result_of(split((400, 600)))
    both = overlay(picture, result, OverlayStyle(status=False))
    np.testing.assert_array_equal(both, overlay(picture, result, OverlayStyle(status=False, legend=False)))
    result.labels[300:320, 300:320] = 0
    result.labels[300:304, 500:600] = 2  # too small for its name
    with_small = result_of(result.labels, ("grass", "caf\u00e9", "zebra"))
    changed = overlay(picture, with_small, OverlayStyle(status=False)) != overlay(
        picture, with_small, OverlayStyle(status=False, legend=False)
    )
    assert changed[:30, :80].any()
    assert not changed[40:].any()


def test_the_legend_lies_where_it_hides_least() -> None:
    entries = [LegendEntry("zebra 3%", (255, 0, 0))]
    labels = filled(0)
    labels[:100, :200] = 1
    result = result_of(labels, ("background", "zebra"))
    fitting = fit_to_corner(entries, result, 14, [])
    assert fitting is not None
    _, box = fitting
    assert (box.top, box.left + box.width) == (0, 300)
    lower = fit_to_corner(entries, result, 14, [box])
    assert lower is not None
    assert (lower[1].top + lower[1].height, lower[1].left + lower[1].width) == (200, 300)
    unlabelled = fit_to_corner(entries, result_of(filled(0), ("background", "zebra")), 14, [])
    assert unlabelled is not None
    assert unlabelled[1][:2] == (0, 0)


def test_lines_without_room_are_counted_and_without_any_room_there_is_no_legend() -> None:
    entries = [LegendEntry(f"class {number} 3%", (255, 0, 0)) for number in range(40)]
    result = result_of(filled(0))
    fitting = fit_to_corner(entries, result, 14, [])
    assert fitting is not None
    assert len(fitting[0]) == 10  # 70 % of 200 pixels
    assert fitting[0][-1] == LegendEntry("and 31 more", None)
    above = fit_to_corner(entries, result, 14, [Box(60, 0, 140, 300)])
    assert above == ([*entries[:2], LegendEntry("and 38 more", None)], Box(0, 0, 50, fitting[1].width))
    assert fit_to_corner(entries, result, 14, [Box(0, 0, 200, 300)]) is None
    assert fit_to_corner([], result, 14, []) is None


@pytest.mark.parametrize("size_hw", [(720, 1280), (128, 128), (30, 40), (1, 1)])
def test_a_strip_beside_the_picture_lists_every_class_and_covers_nothing(size_hw: tuple[int, int]) -> None:
    picture = noise(size_hw)
    labels = np.resize(np.arange(60, dtype=np.uint8), size_hw)
    drawn = with_legend(picture, result_of(labels, MANY))
    assert drawn.dtype == np.uint8
    assert drawn.shape[0] >= size_hw[0]
    np.testing.assert_array_equal(drawn[: size_hw[0], : size_hw[1]], picture)
    strip = drawn[:, size_hw[1] :].reshape(-1, 3)
    seen = np.unique(labels)
    assert all((strip == colour).all(axis=1).sum() >= 64 for colour in class_colours(MANY)[seen])


def test_a_strip_of_no_class_is_dark() -> None:
    drawn = with_legend(noise((100, 100)), result_of(filled(255, (100, 100))))
    assert (drawn[:, 100:] == 32).all()
