"""What is drawn: hidden classes show the frame itself, confidence has colours of its own, large frames become smaller."""

from dataclasses import replace

import numpy as np
import pytest

from nerve_runtime import IGNORE_LABEL
from nerve_runtime.drawing import OverlayStyle
from nerve_runtime.errors import UsageError
from nerve_stream.web.view import View, drawn, fitted, without_classes
from tests.data.served_page import grey, half_and_half

PLAIN = OverlayStyle(names=False)


def test_a_hidden_class_shows_the_frame_and_the_other_its_colour() -> None:
    picture = drawn(grey(), half_and_half(), View(hidden=frozenset({"b"})), PLAIN)
    assert (picture[:, 40:] == 128).all()
    assert (picture[:, :24] != 128).any(axis=2).all()


def test_hidden_classes_become_background_and_the_others_keep_their_names() -> None:
    result = half_and_half(names=("a", "b", "c"))
    shown = without_classes(result, frozenset({"a", "c"}))
    assert shown.has_background
    seen = {shown.class_names[label] for label in np.unique(shown.labels)}
    assert seen == {"background", "b"}
    assert without_classes(result, frozenset({"nobody"})) is result


def test_hiding_keeps_a_background_that_is_there_and_pixels_without_a_label() -> None:
    result = half_and_half(names=("background", "b"))
    labels = result.labels.copy()
    labels[0] = IGNORE_LABEL
    shown = without_classes(replace(result, labels=labels), frozenset({"b"}))
    assert shown.class_names == ("background", "b")
    assert (shown.labels[0] == IGNORE_LABEL).all()
    assert (shown.labels[1:] == 0).all()


def test_hiding_one_of_254_classes_needs_a_background_and_so_labels_of_16_bit() -> None:
    result = half_and_half(names=tuple(f"class {number}" for number in range(254)))
    shown = without_classes(result, frozenset({"class 0"}))
    assert (shown.labels.dtype, shown.ignore_label) == (np.dtype(np.uint16), 65535)
    assert shown.class_names[shown.labels[0, -1]] == "class 1"


def test_confidence_is_a_heat_map_from_dark_to_bright() -> None:
    picture = drawn(grey(), half_and_half(), View(heat=True, opacity=1.0), PLAIN).astype(int)
    assert picture[0].mean() > picture[-1].mean() + 50
    assert (picture[0] == picture[0, 0]).all()


def test_a_large_frame_becomes_smaller_with_its_labels() -> None:
    rgb, result = fitted(grey((1440, 2560)), half_and_half((1440, 2560)))
    assert rgb.shape == (720, 1280, 3)
    assert result.labels.shape == result.confidence.shape == (720, 1280)
    assert set(np.unique(result.labels)) == {0, 1}


def test_settings_are_changed_one_by_one() -> None:
    view = View("a").changed({"opacity": 1, "hidden": ["b"]}, ("a", "c")).changed({"source": "c"}, ("a", "c"))
    assert view == View("c", 1, frozenset({"b"}))


@pytest.mark.parametrize(
    "changes",
    [
        {"opacity": 1.5}, {"opacity": True}, {"opacity": "1"}, {"opacity": float("nan")}, {"heat": 1}, {"hidden": "b"},
        {"hidden": [1]}, {"source": "elsewhere"}, {"source": ["a"]}, {"colour": 1}, {"hidden": ["b"] * 70000},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"expected source \(one of a\), opacity \(0 to 1\), heat"):
        View("a").changed(changes, ("a",))
