import json
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from nerve_runtime.errors import ResourceError, UsageError
from nerve_runtime.images import read_image
from nerve_runtime.result import FrameResult, outlines


def filled(polygons: list[NDArray[np.int32]], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """What polygons enclose, by OpenCV, one at a time."""
    mask = np.zeros(size_hw, dtype=np.uint8)
    for polygon in polygons:
        cv2.fillPoly(mask, [polygon], 1)
    return mask.astype(bool)


def street() -> FrameResult:
    """Background, a car of 2 x 4 pixels, a road of 1 x 8 and a pixel without label."""
    labels = np.zeros((48, 64), dtype=np.uint8)
    labels[2:4, 3:7] = 1
    labels[5, :8] = 2
    labels[7, 7] = 255
    confidence = np.full((48, 64), 51, dtype=np.uint8)
    confidence[2, 3:7], confidence[3, 3:7] = 255, 153
    rgb = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return FrameResult(labels, confidence, ("background", "car", "road"), 4, None, {}, True, 0, True, rgb)


@pytest.mark.parametrize("seed", range(200))
def test_polygons_fill_to_the_very_mask(seed: int) -> None:
    random = np.random.default_rng(seed)
    coarse = random.random((random.integers(1, 14), random.integers(1, 14))) < random.uniform(0.2, 0.95)
    side = int(random.integers(1, 4))
    mask = np.kron(coarse, np.ones((side, side), dtype=bool))
    np.testing.assert_array_equal(filled(outlines(mask), mask.shape), mask)


def test_a_region_within_the_hole_of_another_is_a_polygon_of_its_own() -> None:
    mask = np.zeros((9, 9), dtype=bool)
    mask[0:9, 0:9], mask[2:7, 2:7], mask[4, 4] = True, False, True
    assert len(outlines(mask)) == 2
    np.testing.assert_array_equal(filled(outlines(mask), mask.shape), mask)


def test_a_rectangle_has_four_points() -> None:
    mask = np.zeros((9, 9), dtype=bool)
    mask[2:5, 3:8] = True
    assert sorted(map(tuple, outlines(mask)[0].tolist())) == [(3, 2), (3, 4), (7, 2), (7, 4)]


def test_a_region_with_many_holes_costs_about_what_its_pieces_cost() -> None:
    mask = np.random.default_rng(0).random((400, 400)) < 0.97
    pieces = [mask[y : y + 80, x : x + 80] for y in range(0, 400, 80) for x in range(0, 400, 80)]
    outlines(pieces[0])
    begun_s = time.process_time()
    for piece in pieces:
        outlines(piece)
    between_s = time.process_time()
    outlines(mask)
    # Measured 1.2 to 1.6; where each detour copied all points, 9.
    assert time.process_time() - between_s < 5 * (between_s - begun_s)


def test_detours_of_detours_fill_to_the_very_mask() -> None:
    mask = np.random.default_rng(0).random((40, 60)) < 0.8
    np.testing.assert_array_equal(filled(outlines(mask), mask.shape), mask)


def test_an_empty_mask_has_no_polygon() -> None:
    assert outlines(np.zeros((4, 4), dtype=bool)) == []


def test_a_mask_is_found_by_its_name_and_another_name_is_refused() -> None:
    assert street().mask("car").sum() == 8
    with pytest.raises(UsageError, match="no class is named 'bus', the classes are background, car, road"):
        street().mask("bus")


def test_areas_are_shares_of_the_picture_largest_first() -> None:
    areas = street().areas
    assert list(areas) == ["background", "car", "road"]
    assert areas["car"] == 8 / (48 * 64)


def test_polygons_leave_out_the_background() -> None:
    assert set(street().to_polygons()) == {"car", "road"}


def test_coco_annotations_hold_each_class_but_the_background() -> None:
    car, road = street().to_coco(image_id=7)
    assert (car["id"], car["image_id"], car["category_id"], car["bbox"], car["area"]) == (1, 7, 2, [3, 2, 4, 2], 8)
    assert car["score"] == 0.8
    assert sum(road["segmentation"]["counts"]) == 48 * 64
    assert sum(road["segmentation"]["counts"][1::2]) == 8


def test_a_plot_has_the_size_of_the_frame_and_is_another_picture() -> None:
    result = street()
    plot = result.plot()
    assert plot.shape == (48, 64, 3)
    assert plot.dtype == np.uint8
    assert (plot != result.rgb).any()
    np.testing.assert_array_equal(plot, result.plot(result.rgb))


def test_a_plot_without_or_with_a_wrong_frame_is_refused() -> None:
    bare = FrameResult(*(getattr(street(), name) for name in (
        "labels", "confidence", "class_names", "index", "time_s", "timings_ms", "keyframe", "affinity_age", "valid"
    )))  # fmt: skip
    with pytest.raises(UsageError, match="came without its frame"):
        bare.plot()
    with pytest.raises(UsageError, match=r"the frame is uint8 \(4, 4, 3\), expected uint8 \(48, 64, 3\)"):
        bare.plot(np.zeros((4, 4, 3), dtype=np.uint8))


def test_the_suffix_says_what_is_saved(tmp_path: Path) -> None:
    result = street()
    labels = cv2.imread(str(result.save(tmp_path / "seen.labels.png")), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(labels, result.labels)
    np.testing.assert_array_equal(read_image(result.save(tmp_path / "seen.png")), result.plot())
    assert read_image(result.save(tmp_path / "seen.jpg")).shape == (48, 64, 3)
    record = json.loads(result.save(str(tmp_path / "seen.json")).read_text())
    assert [entry["name"] for entry in record["classes"]] == ["background", "car", "road"]
    assert record["classes"][1]["rle"]["size"] == [48, 64]


def test_a_picture_that_is_too_large_for_its_format_is_refused(tmp_path: Path) -> None:
    size_hw = (1, 20_000)
    wide = replace(street(), labels=np.zeros(size_hw, dtype=np.uint8), rgb=np.zeros((*size_hw, 3), dtype=np.uint8))
    with pytest.raises(UsageError, match=r"a .webp file holds no picture of 20000 x 1 pixels; name a .png file"):
        wide.save(tmp_path / "seen.webp")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_suffix_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends in '.gif', expected .png, .jpg, .jpeg, .webp"):
        street().save(tmp_path / "seen.gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write"):
        street().save(tmp_path / "file" / "seen.png")
