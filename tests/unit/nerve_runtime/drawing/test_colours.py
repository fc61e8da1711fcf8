import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerve_runtime.drawing.colours import SIGHTS, class_colours, least_distance
from nerve_runtime.drawing.known_names import KNOWN_NAMES

STREET = ("road", "sky", "building", "tree", "car", "person", "bus", "truck", "bicycle", "pole", "sign", "fence")
SHOWN = tuple(
    "zebra, dog, pizza, car, penguin, strawberry, soccer ball, grass, water, sand, road".split(", ")  # noqa: SIM905
)


def colour_of(name: str) -> list[int]:
    return [int(channel) for channel in class_colours((name,))[0]]


def test_a_class_has_the_colour_of_its_name_in_every_list_and_place() -> None:
    alone = colour_of("zebra")
    assert class_colours(("zebra", "moon", "sky"))[0].tolist() == alone
    assert class_colours(("moon", "zebra"))[1].tolist() == alone
    assert class_colours(("background", "zebra"))[1].tolist() == alone
    assert class_colours(("  ZEBRA ",))[0].tolist() == alone
    # Written down, since colours may not change from one version to the next either.
    assert (alone, colour_of("grass"), colour_of("cookie")) == ([255, 0, 255], [51, 178, 51], [102, 128, 204])
    assert colour_of("moon") == [146, 119, 216]


@given(st.permutations([*SHOWN, "moon", "caf\u00e9", "zebra crossing", "\u7a7a"]), st.integers(1, 15))
def test_order_and_subset_change_no_colour(class_names: list[str], count: int) -> None:
    expected = [colour_of(name) for name in class_names[:count]]
    assert class_colours(class_names[:count])[:count].tolist() == expected


@given(st.lists(st.text(max_size=12), min_size=1, max_size=30, unique=True))
def test_any_name_has_a_colour_that_depends_on_nothing_else(class_names: list[str]) -> None:
    names = [name for name in class_names if name != "background"]
    assert class_colours(names)[: len(names)].tolist() == [colour_of(name) for name in names]


def test_no_two_known_names_share_a_colour() -> None:
    table = class_colours(KNOWN_NAMES)[: len(KNOWN_NAMES)]
    assert len(np.unique(table, axis=0)) == len(KNOWN_NAMES) > 180


def test_colours_of_one_list_look_different_also_without_one_kind_of_cone() -> None:
    linear = (class_colours(STREET)[: len(STREET)] / 255.0) ** 2.2
    for sight, matrix in SIGHTS.items():
        seen = 255 * np.clip(linear @ np.transpose(matrix), 0, 1) ** (1 / 2.2)
        apart = np.linalg.norm(seen[:, None] - seen[None], axis=2) + 1000 * np.eye(len(STREET))
        assert apart.min() > (25 if sight == "normal" else 5), sight


def test_as_many_classes_as_there_are_labels_have_each_a_colour_of_their_own() -> None:
    table = class_colours([f"class {number}" for number in range(254)])
    assert len(np.unique(table[:254], axis=0)) == 254
    assert table[255].tolist() == [128, 128, 128]


def test_the_names_shown_first_are_far_apart_when_blended() -> None:
    distances = least_distance(SHOWN, 0.55)
    assert list(distances) == ["normal", "protan", "deutan", "tritan"]
    assert distances["normal"] > 25
    assert min(distances.values()) > 14


@pytest.mark.parametrize("opacity", [0.3, 0.55, 1.0])
def test_the_least_distance_is_that_of_opencv(opacity: float) -> None:
    blended = opacity * class_colours(SHOWN)[: len(SHOWN)].astype(float) + (1 - opacity) * 128
    linear = ((blended / 255 + 0.055) / 1.055) ** 2.4  # no channel is below the straight part at 0.04
    linear[blended / 255 <= 0.04045] = (blended / 255 / 12.92)[blended / 255 <= 0.04045]
    for sight, matrix in SIGHTS.items():
        seen = np.clip(linear @ matrix.T, 0, 1).astype(np.float32)
        lab = cv2.cvtColor(seen[None], cv2.COLOR_LRGB2LAB)[0]
        apart = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 1000 * np.eye(len(SHOWN))
        # OpenCV reads its cube roots from a table and rounds the white point.
        assert least_distance(SHOWN, opacity)[sight] == pytest.approx(apart.min(), abs=0.3)


def test_the_least_distance_counts_classes_only() -> None:
    assert set(least_distance(("background", "zebra"), 0.55).values()) == {float("inf")}
    assert least_distance((), 0.55)["normal"] == float("inf")
    assert least_distance(("background", *SHOWN), 0.55) == least_distance(SHOWN, 0.55)
    assert set(least_distance(SHOWN, 0.0).values()) == {0.0}
    assert least_distance(("zebra", "Zebra"), 0.55)["normal"] == 0.0
