"""How two tensors are compared, and what a report says of many comparisons."""

import json

import numpy as np
import pytest

from nerve_export.graphs.stages import Tolerance
from nerve_export.parity.frames import chain_frames, parity_frames
from nerve_export.parity.measures import ParityReport, Tap, compared, compared_inner
from nerve_runtime.errors import UsageError

TIGHT = Tolerance(cosine=0.9999, max_abs=1e-3)


def tap(stage: str, tensor: str, *, passed: bool, frame: int = 0, max_abs: float = 0.1) -> Tap:
    return Tap(stage, tensor, frame, 0.9, max_abs, None, passed=passed)


def test_numbers_that_are_not_finite_fail_and_are_counted() -> None:
    expected = np.ones(4, np.float32)
    for broken in (np.nan, np.inf, -np.inf):
        found = np.array([1, 1, broken, broken], np.float32)
        result = compared("walk", "label_scores", 0, expected, found, TIGHT)
        assert not result.passed
        assert result.not_finite == 2


def test_a_report_with_broken_numbers_is_valid_json() -> None:
    result = compared("walk", "label_scores", 0, np.ones(2), np.array([1, np.nan]), TIGHT)
    text = json.dumps(ParityReport("here", (result,)).as_json(), allow_nan=False)
    assert json.loads(text)["taps"][0]["max_abs"] is None


def test_another_shape_fails() -> None:
    assert not compared("walk", "label_scores", 0, np.ones((2, 3)), np.ones((3, 2)), TIGHT).passed


def test_one_wrong_element_among_many_fails_by_its_distance() -> None:
    expected = np.ones(100_000, np.float32)
    found = expected.copy()
    found[7] += 0.01
    result = compared("walk", "label_scores", 0, expected, found, TIGHT)
    assert result.cosine is not None
    assert result.cosine > TIGHT.cosine
    assert result.p99_abs == 0
    assert not result.passed


def test_the_figures_are_those_of_the_definitions() -> None:
    expected, found = np.array([3.0, 4.0]), np.array([3.0, 4.5])
    result = compared("walk", "label_scores", 0, expected, found, TIGHT)
    assert result.max_abs == 0.5
    assert result.cosine == pytest.approx((9 + 18) / (5 * np.hypot(3, 4.5)))
    assert result.p99_abs == pytest.approx(0.495)


def test_confidence_may_differ_by_one_level_and_labels_not_at_all() -> None:
    expected = np.zeros(200, np.uint8)
    found = expected + np.uint8(1)
    assert compared("readout", "confidence", 0, expected, found, TIGHT).passed
    assert not compared("readout", "confidence", 0, expected, found + np.uint8(1), TIGHT).passed
    assert compared("frame", "confidence", 0, expected, found + np.uint8(1), TIGHT, slack=2).passed
    assert not compared("readout", "labels", 0, expected, found, TIGHT).passed
    assert not compared("frame", "labels", 0, expected, found, TIGHT, slack=2).passed


def test_labels_of_16_bit_are_compared_as_labels_and_no_label_is_no_label() -> None:
    expected = np.zeros(200, np.uint8)
    expected[:2] = 255
    found = expected.astype(np.uint16)
    assert not compared("readout", "labels", 0, expected, found, TIGHT).passed, "255 is a class of 16-bit labels"
    found[:2] = 65535
    result = compared("readout", "labels", 0, expected, found, TIGHT)
    assert (result.passed, result.agreement, result.cosine) == (True, 1.0, None)
    found[2:4] = 256
    assert not compared("readout", "labels", 0, expected, found, TIGHT).passed


def test_levels_do_not_wrap_around() -> None:
    expected, found = np.full(10, 255, np.uint8), np.zeros(10, np.uint8)
    result = compared("readout", "confidence", 0, expected, found, TIGHT)
    assert result.max_abs == 255
    assert not result.passed


def test_one_label_in_two_hundred_may_differ_and_two_may_not() -> None:
    expected = np.zeros(200, np.uint8)
    one, two = expected.copy(), expected.copy()
    one[:1], two[:2] = 1, 1
    assert compared("frame", "labels", 0, expected, one, TIGHT).passed
    assert not compared("frame", "labels", 0, expected, two, TIGHT).passed


def test_pixels_that_the_reference_all_but_draws_on_do_not_count() -> None:
    expected, found = np.zeros(100, np.uint8), np.zeros(100, np.uint8)
    found[:10] = 1
    undecided = np.arange(100) < 10
    result = compared("chain", "labels_cold", 0, expected, found, TIGHT, undecided)
    assert result.passed
    assert result.undecided == pytest.approx(0.1)
    assert not compared("chain", "labels_cold", 0, expected, found, TIGHT, ~undecided).passed


def test_an_inner_tensor_may_have_merged_axes_but_no_exchanged_ones() -> None:
    features = np.random.default_rng(0).normal(size=(3, 4, 8))
    assert compared_inner("scores", "features", 0, features, features.reshape(12, 8), TIGHT).passed
    assert compared_inner("scores", "features", 0, features, features[None], TIGHT).passed
    assert not compared_inner("scores", "features", 0, features, features.transpose(1, 0, 2), TIGHT).passed
    assert not compared_inner("scores", "features", 0, features, features.reshape(8, 12), TIGHT).passed


def test_an_inner_tensors_difference_is_relative_to_its_largest_value() -> None:
    queries = np.full((4, 8), 100.0)
    assert compared_inner("attention", "q0", 0, queries, queries + 0.09, TIGHT).passed
    assert not compared_inner("attention", "q0", 0, queries, queries + 0.11, TIGHT).passed
    assert compared("attention", "q0", 0, queries, queries + 0.09, TIGHT).passed is False


def test_the_first_broken_tap_is_the_first_in_the_method_not_in_the_list() -> None:
    taps = (
        tap("chain", "labels_cold", passed=False),
        tap("walk", "label_scores", passed=False),
        tap("attention", "q1", passed=False),
        tap("attention", "k0", passed=False),
        tap("scores", "seed_scores", passed=False),
        tap("attention", "latent", passed=True),
    )
    first = ParityReport("here", taps).first_broken()
    assert first is not None
    assert (first.stage, first.tensor) == ("attention", "k0")


def test_of_one_tensor_the_earlier_stage_and_frame_come_first() -> None:
    taps = (
        tap("walk_warm", "label_scores", passed=True, frame=0),
        tap("walk", "label_scores", passed=True, frame=10),
        tap("walk", "label_scores", passed=True, frame=9),
    )
    order = [(one.stage, one.frame) for one in ParityReport("here", taps).in_method_order()]
    assert order == [("walk", 9), ("walk", 10), ("walk_warm", 0)]


def test_where_nothing_broke_the_worst_tap_has_the_largest_difference_of_an_output() -> None:
    taps = (
        tap("attention", "q0", passed=True, max_abs=5),
        tap("walk", "label_scores", passed=True, max_abs=1e-6),
        tap("mix", "affinity", passed=True, max_abs=1e-4),
    )
    assert ParityReport("here", taps).worst().tensor == "affinity"


def test_parity_frames_are_fixed_and_no_two_are_the_same() -> None:
    first, again = parity_frames((64, 96)), parity_frames((64, 96))
    assert {frame.shape for frame in first} == {(64, 96, 3)}
    np.testing.assert_array_equal(np.stack(first), np.stack(again))
    assert len({frame.tobytes() for frame in first}) == len(first)


def test_the_short_video_begins_with_the_first_frame_and_stays_near_it() -> None:
    (alone,) = parity_frames((64, 64), 1)
    keyframe, warm = chain_frames((64, 64), 1)
    np.testing.assert_array_equal(keyframe, alone)
    assert 0 < np.abs(keyframe.astype(int) - warm).mean() < 20


def test_no_frames_at_all_are_refused() -> None:
    with pytest.raises(UsageError, match=r"--frames is 0, expected 1 or more"):
        chain_frames((64, 64), 0)
