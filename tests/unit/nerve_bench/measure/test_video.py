import math
from pathlib import Path

import numpy as np
import pytest

from nerve_bench.measure.video import GUIDED, VARIANTS, measure_video
from nerve_bench.measure.video_scores import VideoScore, large_things_are_named
from nerve_bench.measure.walk_limit import measure_walks
from nerve_bench.report.plots_video import draw_video
from nerve_bench.world import moving_scene
from nerve_bench.world.clips import MovingFrame
from tests.unit.nerve_bench.conftest import quietly

SEED = 1_500_000


def frame(
    labels: list[list[int]], surfaces: list[list[int]], motion: list[tuple[int, int]], *, cut: bool = False
) -> MovingFrame:
    truth = np.array(labels, np.uint8)
    back = np.array([[[1.0, 0.0, -rows], [0.0, 1.0, -columns]] for rows, columns in motion])
    return MovingFrame(np.zeros((*truth.shape, 3), np.uint8), truth, cut, np.array(surfaces, np.uint8), back)


AT_REST = [(0, 0), (0, 0)]
FIRST = frame([[1, 0, 0, 0]], [[1, 0, 0, 0]], AT_REST, cut=True)
MOVED = frame([[0, 1, 0, 0]], [[0, 1, 0, 0]], [(0, 0), (0, 1)])
"""The body, one pixel of class 1, has moved right by one pixel over a background of class 0."""


def scored(*pairs: tuple[MovingFrame, list[list[int]]]) -> VideoScore:
    score = VideoScore()
    for age, (seen, labels) in enumerate(pairs):
        score.add(seen, np.array(labels, np.uint8), age)
    return score


def test_labels_that_move_with_the_surface_are_consistent_and_do_not_flicker() -> None:
    score = scored((FIRST, [[1, 0, 0, 0]]), (MOVED, [[0, 1, 0, 0]]))
    assert score.consistent.percent() == 100
    assert score.changed.percent() == 0
    assert score.ghosts.percent() == 0
    assert score.changed.of == 2  # the two pixels that show the resting background in both frames


def test_a_label_that_stays_behind_is_a_ghost_and_inconsistent() -> None:
    score = scored((FIRST, [[1, 0, 0, 0]]), (MOVED, [[1, 0, 0, 0]]))
    assert score.ghosts.hits == 2  # class 1 where the body was, class 0 where it is
    assert score.ghosts.percent() == 100
    assert score.consistent.hits == 2  # the two resting pixels
    assert score.consistent.of == 3  # and the body; the uncovered pixel was not seen before
    assert score.changed.percent() == 0


def test_a_label_that_changes_at_rest_flickers_whether_it_is_right_or_wrong() -> None:
    still = frame([[1, 0, 0, 0]], [[1, 0, 0, 0]], AT_REST)
    assert scored((FIRST, [[1, 0, 0, 3]]), (still, [[1, 0, 0, 0]])).changed.percent() == 25


def test_a_frame_is_named_when_each_large_thing_has_its_own_label_more_often_than_another() -> None:
    truth = np.zeros((10, 10), np.uint8)
    truth[:2], truth[2, :4] = 7, 8  # a thing of 20 %, and one too small to count
    labels = np.zeros_like(truth)
    assert not large_things_are_named(truth, labels)
    labels[0], labels[1, :9] = 7, 9
    assert large_things_are_named(truth, labels)
    labels[0, 0] = 9
    labels[1, 9] = 9
    assert not large_things_are_named(truth, labels)
    assert large_things_are_named(np.zeros_like(truth), labels)


def test_ages_and_cuts_are_counted_apart() -> None:
    again = frame([[2, 2, 2, 2]], [[0, 0, 0, 0]], AT_REST, cut=True)
    score = scored((FIRST, [[1, 0, 0, 0]]), (MOVED, [[0, 0, 0, 0]]), (again, [[2, 2, 0, 0]]))
    assert {age: share.percent() for age, share in score.by_age.items()} == {0: 100, 1: 75, 2: 50}
    assert score.cuts == [2]
    assert score.changed.of == 2  # nothing is compared across the cut


def test_recovery_counts_the_frames_until_a_frame_is_as_good_as_cold() -> None:
    after = frame([[2, 2, 2, 2]], [[0, 0, 0, 0]], AT_REST)
    cut = frame([[2, 2, 2, 2]], [[0, 0, 0, 0]], AT_REST, cut=True)
    cold = scored((FIRST, [[1, 0, 0, 0]]), *[(one, [[2, 2, 2, 0]]) for one in (cut, after, after)])
    slow = scored((FIRST, [[1, 0, 0, 0]]), (cut, [[0, 0, 0, 0]]), (after, [[2, 0, 0, 0]]), (after, [[2, 2, 2, 0]]))
    assert slow.recovery_frames(cold) == 2
    assert cold.recovery_frames(cold) == 0
    assert math.isnan(scored((FIRST, [[1, 0, 0, 0]])).recovery_frames(cold))


def test_the_truth_of_the_motion_finds_each_surface_again() -> None:
    """The colour of a pixel is the colour of where it came from, but for noise (5.7) and light, which stays."""
    before, now = list(moving_scene(SEED + 4, 12, size_px=128, cuts=0))[-2:]
    rows, columns = now.came_from()
    inside = (rows >= 0) & (rows < 128) & (columns >= 0) & (columns < 128)
    at = np.clip(rows, 0, 127), np.clip(columns, 0, 127)
    same = inside & (before.surfaces[at] == now.surfaces)
    there = np.indices(now.labels.shape)
    moved = same & (np.maximum(abs(rows - there[0]), abs(columns - there[1])) >= 2)
    difference = np.abs(before.rgb[at].astype(float) - now.rgb).mean(axis=2)
    unmoved = np.abs(before.rgb.astype(float) - now.rgb).mean(axis=2)
    assert moved.sum() > 500
    assert np.median(difference[moved]) < 8
    assert difference[moved].mean() < 0.6 * unmoved[moved].mean()


def test_the_record_of_a_variant_says_what_it_cost_and_was_worth(bundle: Path, tmp_path: Path) -> None:
    header, cold, temporal = measure_video(bundle, [SEED, SEED + 1], 12, ["temporal"], 1, quietly)
    assert header["bench"] == "header"
    assert [cold["variant"], temporal["variant"]] == ["cold", "temporal"]
    assert cold["ratio_to_cold"] == 1
    assert cold["keyframe_percent"] == 100
    assert temporal["keyframe_percent"] < 50
    assert set(temporal["accuracy_by_age"]) == {str(age) for age in range(6)}  # a cut at frame 6
    assert temporal["clips"] == 2
    assert 0 < temporal["stationary_percent"] < 100
    assert (cold["miou_minus_cold"], cold["miou_interval"], cold["flicker_interval"]) == (0, (0, 0), (0, 0))
    assert temporal["miou_minus_cold"] == pytest.approx(temporal["miou"] - cold["miou"], abs=0.011)
    assert temporal["flicker_minus_cold"] == pytest.approx(temporal["flicker"] - cold["flicker"], abs=0.0011)
    for name in ("miou", "flicker"):  # with two clips a draw is one of them twice, or both
        low, high = temporal[f"{name}_interval"]
        assert low <= temporal[f"{name}_minus_cold"] + 0.005
        assert high >= temporal[f"{name}_minus_cold"] - 0.005
        assert low < high
    assert temporal["stage_ms_per_frame"]["attention"] < cold["stage_ms_per_frame"]["attention"]
    picture = tmp_path / "video.png"
    draw_video([cold, temporal], picture)
    assert picture.stat().st_size > 10_000


def test_a_guided_variant_is_compared_with_the_same_one_read_out_bilinearly(bundle: Path) -> None:
    _, *records = measure_video(bundle, [SEED, SEED + 1], 4, ["temporal_guided"], 1, quietly)
    assert [(record["variant"], record["readout"]) for record in records] == [
        ("cold", "bilinear"),
        ("temporal", "bilinear"),
        ("temporal_guided", "guided"),
    ]
    _, plain, guided = records
    assert guided["miou_minus_bilinear"] == pytest.approx(guided["miou"] - plain["miou"], abs=0.011)
    low, high = guided["miou_minus_bilinear_interval"]
    assert low <= guided["miou_minus_bilinear"] + 0.005
    assert high >= guided["miou_minus_bilinear"] - 0.005
    assert "readout_guided" in guided["stage_ms_per_frame"]


def test_the_exact_walk_is_nearer_to_the_limit_than_the_truncated_one(bundle: Path) -> None:
    truncated, warm, exact = measure_walks(bundle, SEED, 3, 1, quietly)
    assert [record["walk"] for record in (truncated, warm, exact)] == ["walk", "walk_warm", "walk_exact"]
    assert exact["worst_error_l1"] < 1e-3 < truncated["error_l1"] < warm["error_l1"]
    assert exact["labels_as_limit_percent"] > 99.9


def test_every_variant_is_another_way() -> None:
    assert len(set(VARIANTS.values())) == len(VARIANTS)
    assert VARIANTS["cold"].keyframe_every == 1
    assert set(GUIDED.values()) <= set(VARIANTS)


@pytest.mark.parametrize("name", ["temporal", "unsmoothed", "shift_only"])
def test_variants_that_follow_say_so(name: str) -> None:
    assert VARIANTS[name].between == "follow"
