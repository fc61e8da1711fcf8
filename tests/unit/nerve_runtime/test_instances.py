from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from nerve_runtime import FrameResult, Instances, UsageError
from nerve_runtime.instances import InstanceTracker

SIZE_HW = (120, 160)
TEXTURE = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)


def smooth(coarse: NDArray[np.uint8], times: int) -> NDArray[np.uint8]:
    """Texture that optical flow can trace over some pixels: of finer noise it finds a pixel in a hundred, by chance."""
    return np.asarray(cv2.resize(coarse, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def scene(things: Sequence[tuple[int, int, int, int]], *, texture: int = 0, label: int = 1) -> FrameResult:
    """Textured squares (top, left, side, number of its texture) of one class on a textured ground."""
    height, width = SIZE_HW
    coarse = TEXTURE[texture : texture + 30, texture : texture + 40]
    rgb = smooth(coarse, 4)
    labels = np.zeros(SIZE_HW, dtype=np.uint8)
    for top, left, side, own in things:
        pixels = smooth(TEXTURE[100 * own : 100 * own + 20, 200:220], 12)
        rgb[top : top + side, left : left + side] = pixels[:side, :side][: height - top, : width - left]
        labels[top : top + side, left : left + side] = label
    confidence = np.full(SIZE_HW, 204, dtype=np.uint8)
    return FrameResult(labels, confidence, ("background", "dog", "cat"), 0, None, {}, True, 0, True, rgb)


def numbers_at(instances: Instances, *places: tuple[int, int]) -> list[int]:
    return [int(instances.numbers[place]) for place in places]


def test_two_regions_of_a_class_are_two_instances_with_box_area_and_confidence() -> None:
    found = InstanceTracker().update(scene([(10, 10, 30, 1), (60, 90, 40, 2)]))
    assert [(one.name, one.area, one.box, one.confidence) for one in found.instances] == [
        ("dog", 1600, (90, 60, 40, 40), 0.8),
        ("dog", 900, (10, 10, 30, 30), 0.8),
    ]
    assert found.mask(1).sum() == 1600
    assert (found.numbers > 0).sum() == 2500


def test_numbers_follow_things_that_pass_each_other() -> None:
    tracker = InstanceTracker()
    seen = []
    for step in range(16):
        first, second = (10, 4 + 6 * step), (60, 110 - 6 * step)
        found = tracker.update(scene([(*first, 30, 1), (*second, 30, 2)]))
        seen.append(numbers_at(found, (first[0] + 15, first[1] + 15), (second[0] + 15, second[1] + 15)))
    assert len({tuple(pair) for pair in seen}) == 1
    assert seen[0][0] != seen[0][1]


def test_a_number_is_never_used_again() -> None:
    tracker = InstanceTracker()
    (first,) = tracker.update(scene([(10, 10, 30, 1)])).instances
    assert tracker.update(scene([])).instances == ()
    (second,) = tracker.update(scene([(10, 10, 30, 1)])).instances
    assert second.number > first.number


def test_a_frame_without_scores_has_no_instance_and_the_next_goes_on_with_the_numbers() -> None:
    tracker = InstanceTracker()
    before = tracker.update(scene([(10, 10, 30, 1)]))
    lost = replace(scene([]), labels=np.full(SIZE_HW, 255, dtype=np.uint8), valid=False)
    assert tracker.update(lost).instances == ()
    assert tracker.update(scene([(10, 12, 30, 1)])).instances[0].number == before.instances[0].number


def test_after_a_cut_all_numbers_are_new() -> None:
    tracker = InstanceTracker()
    (before,) = tracker.update(scene([(10, 10, 30, 1)])).instances
    (after,) = tracker.update(scene([(10, 10, 30, 2)], texture=300)).instances
    assert after.number != before.number


def test_a_region_of_another_class_is_another_instance() -> None:
    tracker = InstanceTracker()
    (dog,) = tracker.update(scene([(10, 10, 30, 1)])).instances
    (cat,) = tracker.update(scene([(10, 10, 30, 1)], label=2)).instances
    assert (cat.name, cat.number != dog.number) == ("cat", True)


def test_of_a_region_that_falls_apart_the_larger_part_keeps_the_number() -> None:
    tracker = InstanceTracker()
    whole = scene([(10, 10, 40, 1)])
    (before,) = tracker.update(whole).instances
    labels = whole.labels.copy()
    labels[10:50, 20:23] = 0
    parts = FrameResult(labels, whole.confidence, whole.class_names, 1, None, {}, False, 1, True, whole.rgb)
    found = tracker.update(parts)
    assert numbers_at(found, (30, 40), (30, 15)) == [before.number, before.number + 1]


def test_of_regions_that_grow_together_the_larger_one_gives_the_number() -> None:
    whole = scene([(10, 10, 40, 1)])
    labels = whole.labels.copy()
    labels[10:50, 20:23] = 0
    tracker = InstanceTracker()
    before = tracker.update(replace(whole, labels=labels))
    small, large = numbers_at(before, (30, 15), (30, 40))
    (after,) = tracker.update(replace(whole, index=1)).instances
    assert (after.number, large != small) == (large, True)


@pytest.mark.parametrize("side", [20, 30, 40, 50])
def test_a_thing_in_the_place_of_another_has_a_number_of_its_own(side: int) -> None:
    tracker = InstanceTracker()
    (before,) = tracker.update(scene([(40, 40, side, 1)])).instances
    (after,) = tracker.update(scene([(40, 40, side, 2)])).instances
    assert after.number != before.number


def test_a_number_passes_on_through_a_tenth_of_the_smaller_region_and_not_through_less() -> None:
    whole = scene([(20, 20, 60, 1)])
    for columns, passes in ((7, True), (5, False)):
        tracker = InstanceTracker()
        labels = np.zeros_like(whole.labels)
        labels[20:80, 20:80] = 1
        (before,) = tracker.update(replace(whole, labels=labels)).instances
        moved = np.zeros_like(labels)
        moved[20:80, 80 - columns : 140 - columns] = 1
        (after,) = tracker.update(replace(whole, labels=moved)).instances
        assert (after.number == before.number) is passes


def test_specks_are_no_instances() -> None:
    result = scene([(10, 10, 2, 1), (60, 60, 30, 1)])
    assert [one.area for one in InstanceTracker().update(result).instances] == [900]


def test_a_result_without_its_frame_is_refused() -> None:
    bare = scene([(10, 10, 30, 1)])
    with pytest.raises(UsageError, match="came without its frame"):
        InstanceTracker().update(
            FrameResult(bare.labels, bare.confidence, bare.class_names, 0, None, {}, True, 0, True)
        )


def test_a_change_of_size_begins_anew() -> None:
    tracker = InstanceTracker()
    (before,) = tracker.update(scene([(10, 10, 30, 1)])).instances
    small = scene([(10, 10, 30, 1)])
    assert small.rgb is not None
    cut = FrameResult(
        small.labels[:60].copy(),
        small.confidence[:60].copy(),
        small.class_names,
        0,
        None,
        {},
        True,
        0,
        True,
        small.rgb[:60],
    )
    (after,) = tracker.update(cut).instances
    assert after.number != before.number
