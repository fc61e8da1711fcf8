import math
from typing import Any

import pytest

from nerve_runtime.errors import UsageError
from nerve_runtime.temporal import EVERY_FRAME, Temporal

CALM: dict[str, Any] = {"same_size": True, "traced": 1.0, "visible": 1.0}


def test_nothing_to_go_on_from_is_a_cut() -> None:
    assert Temporal().decide(None, 0.0, **CALM) == "cut"


def test_another_size_is_another_view() -> None:
    assert Temporal().decide(1, 0.04, **{**CALM, "same_size": False}) == "cut"


def test_a_picture_that_is_not_found_in_the_frame_before_is_a_cut() -> None:
    temporal = Temporal(cut=0.45)
    assert temporal.decide(1, 0.04, **{**CALM, "traced": 0.44}) == "cut"
    assert temporal.decide(1, 0.04, **{**CALM, "traced": 0.46}) == "between"


def test_a_keyframe_is_due_when_too_little_of_it_is_left() -> None:
    temporal = Temporal(change=0.35)
    assert temporal.decide(1, 0.04, **{**CALM, "visible": 0.34}) == "keyframe"
    assert temporal.decide(1, 0.04, **{**CALM, "visible": 0.36}) == "between"


def test_attention_is_never_older_than_stated() -> None:
    temporal = Temporal(keyframe_every=3, longest_s=1.0)
    assert [temporal.decide(age, 0.1 * age, **CALM) for age in (1, 2, 3, 4)] == [
        "between",
        "between",
        *["keyframe"] * 2,
    ]
    assert temporal.decide(1, 0.99, **CALM) == "between"
    assert temporal.decide(1, 1.0, **CALM) == "keyframe"


def test_time_that_runs_backwards_makes_a_keyframe() -> None:
    assert Temporal().decide(1, -0.04, **CALM) == "keyframe"


def test_every_frame_by_itself_watches_nothing_and_keeps_nothing() -> None:
    assert EVERY_FRAME.decide(1, 0.0, **CALM) != "between"
    assert not EVERY_FRAME.watches
    assert EVERY_FRAME.smoothing == 0
    assert Temporal().watches


def test_plain_keyframes_come_by_count_alone() -> None:
    plain = Temporal.plain(4)
    assert [plain.decide(age, 1e6 * age, **{**CALM, "traced": 0.0, "visible": 0.0}) for age in (1, 3, 4)] == [
        "between",
        "between",
        "keyframe",
    ]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"keyframe_every": 0}, "keyframe-every is 0, expected 1 or more frames"),
        ({"longest_s": 0.0}, "longest-s is 0.0, expected above 0 seconds"),
        ({"longest_s": math.nan}, "longest-s is nan, expected above 0 seconds"),
        ({"scores_every": 0}, "scores-every is 0, expected 1 or more frames"),
        ({"smoothing": 1.0}, "smoothing is 1.0, expected 0 to below 1"),
        ({"change": 1.5}, "change is 1.5, expected 0 to 1"),
        ({"cut": -0.1}, "cut is -0.1, expected 0 to 1"),
        ({"between": "guess"}, "between is 'guess', expected one of follow, warm, exact, hold"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Temporal(**setting)
