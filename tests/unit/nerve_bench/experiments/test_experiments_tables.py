"""Intervals come from resampled scenes, differences are paired, and figures are those of the accuracy command."""

import numpy as np
import pytest

from nerve_bench.experiments.tables import (
    RESAMPLES,
    Tables,
    confusion_counts,
    curve_record,
    difference_record,
    figure_record,
    mean_interval,
    mean_iou,
    scene_weights,
    verdict,
)
from nerve_bench.measure.accuracy import Confusion

CLASSES = 4


def random_scenes(seed: int, count: int, right: float) -> np.ndarray:
    """Counts of scenes where each pixel is right with some probability."""
    rng = np.random.default_rng(seed)
    scenes = []
    for _ in range(count):
        truth = rng.integers(0, CLASSES, (8, 8)).astype(np.uint8)
        wrong = rng.integers(0, CLASSES, (8, 8)).astype(np.uint8)
        scenes.append(confusion_counts(truth, np.where(rng.random((8, 8)) < right, truth, wrong), CLASSES))
    return np.stack(scenes)


def test_counts_and_figures_are_those_of_the_accuracy_command() -> None:
    rng = np.random.default_rng(0)
    table = Confusion(CLASSES)
    pairs = [rng.integers(0, CLASSES, (2, 5, 7)).astype(np.uint8) for _ in range(3)]
    for truth, found in pairs:
        table.add(truth, found)
    counts = np.stack([confusion_counts(truth, found, CLASSES) for truth, found in pairs])
    np.testing.assert_array_equal(counts.sum(0), table.counts)
    assert Tables({"it": counts}).miou("it") == pytest.approx(table.miou())


def test_a_group_is_the_mean_of_its_classes_and_errors_of_others_still_count() -> None:
    counts = np.array([[3, 1, 0], [0, 4, 0], [2, 0, 6]])
    assert mean_iou(counts, [0, 1]) == pytest.approx(100 * (3 / 6 + 4 / 5) / 2)


def test_a_class_that_is_nowhere_does_not_count() -> None:
    assert mean_iou(np.array([[5, 0], [0, 0]])) == 100


def test_resampling_is_drawing_scenes_with_replacement() -> None:
    weights = scene_weights(7)
    assert weights.shape == (RESAMPLES, 7)
    np.testing.assert_array_equal(weights.sum(1), 7)
    # A scene is left out of a resample with probability (1 - 1/7)^7 = 0.34.
    assert (weights == 0).mean() == pytest.approx((6 / 7) ** 7, abs=0.01)


def test_the_interval_is_that_of_a_loop_over_resamples() -> None:
    counts = random_scenes(1, 9, 0.7)
    figures = []
    for drawn in scene_weights(9).astype(int):
        total = Confusion(CLASSES)
        total.counts += np.repeat(counts, drawn, axis=0).sum(0)
        figures.append(total.miou())
    low, high = Tables({"it": counts}).interval("it")
    assert (low, high) == pytest.approx(tuple(np.percentile(figures, [2.5, 97.5])), abs=1e-3)


def test_a_setting_does_not_differ_from_itself() -> None:
    counts = random_scenes(2, 12, 0.6)
    record = difference_record("parts", "a", "b", Tables({"a": counts, "b": counts.copy()}))
    assert (record["difference"], record["interval"], record["verdict"]) == (0, (0, 0), "no difference shown")


def test_pairing_scenes_narrows_the_interval_of_a_difference() -> None:
    """The second setting is the first, some errors mended in each scene: hard scenes are hard for both."""
    rng = np.random.default_rng(3)
    rates = rng.uniform(0.3, 0.95, 30)
    first = np.concatenate([random_scenes(index, 1, rate) for index, rate in enumerate(rates)])
    errors = first * (1 - np.eye(CLASSES, dtype=np.int32))
    mended = errors // 4
    second = first - mended + np.eye(CLASSES, dtype=np.int32) * mended.sum(2, keepdims=True)
    tables = Tables({"first": first, "second": second})
    difference, (low, high) = tables.difference("second", "first")
    alone = tables.interval("first")
    assert low < difference < high
    assert high - low < (alone[1] - alone[0]) / 2
    assert difference_record("parts", "second", "first", tables)["verdict"] == "better"
    assert difference_record("parts", "first", "second", tables)["verdict"] == "worse"


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((0.1, 2.0), "better"),
        ((-2.0, -0.1), "worse"),
        ((-0.1, 0.1), "no difference shown"),
        ((0.0, 1.0), "no difference shown"),
    ],
)
def test_an_interval_that_holds_0_shows_no_difference(interval: tuple[float, float], expected: str) -> None:
    assert verdict(interval) == expected


def test_the_interval_of_a_mean_holds_it_and_shrinks_with_scenes() -> None:
    few, many = (np.random.default_rng(0).normal(5, 1, count) for count in (20, 320))
    low, high = mean_interval(few)
    assert low < few.mean() < high
    narrow = mean_interval(many)
    # Sixteen times as many scenes: a quarter of the width, within what 20 scenes tell about their deviation.
    assert 2.5 < (high - low) / (narrow[1] - narrow[0]) < 6


def test_a_line_says_what_was_measured_on_how_many_scenes() -> None:
    tables = Tables({"a": random_scenes(4, 5, 0.5), "b": random_scenes(5, 5, 0.6)})
    record = figure_record("parts", "a", tables, world="night")
    assert list(record) == ["bench", "setting", "miou", "interval", "scenes", "world"]
    assert (record["bench"], record["setting"], record["scenes"]) == ("experiment_parts", "a", 5)
    curve = curve_record("steps", "it", "steps", {0: "a", 1: "b"}, tables)
    assert curve["miou_by_steps"] == {"0": round(tables.miou("a"), 3), "1": round(tables.miou("b"), 3)}
    assert curve["interval_by_steps"]["1"] == tables.interval("b")
