"""Where the name of each class is written on the picture: once, inside its region, clear of other text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.drawing.boxes import Box
from nerve_runtime.drawing.text import draw_outlined_text, outlined_size_hw, shortened
from nerve_runtime.labels import Labels
from nerve_runtime.opencv import cv2

UInt8Array = NDArray[np.uint8]
Int64Array = NDArray[np.int64]
Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

LEAST_SHARE = 0.015  # of the frame; a smaller region is hidden by its own name
LEAST_INSIDE = 0.5  # share of a name's box that must lie on its own class
SAMPLES_PER_LINE = 3  # labels are looked at every third of a line's height: every 8 px at 720p
# Of 128 names on 16 drawn scenes whose edges were shaken by 4 px, at 720p, these three moved 0.6 % by more than 24 px and
# all by 1.8 px in the mean; a pull of 0.017 moved 2 % so far.
ROOM = 3  # the best place for a name has room for a box of three times its height and width
# Share of that room given up for a spot that is nearer to the middle of the region by one line's height. The middle moves
# smoothly in video; where there is room, the name stays with it.
PULL_TO_MIDDLE = 0.01
# Places whose room is this much worse share in the mean, so that a spot does not jump between equals.
NEARLY_BEST = 0.01


@dataclass(frozen=True, slots=True)
class PlacedName:
    """A class's name and the box in which it is written."""

    label: int
    text: str
    box: Box


def place_names(
    labels: Labels, areas: Int64Array, class_names: Sequence[str], line_px: int, taken: Sequence[Box] = ()
) -> list[PlacedName]:
    """Find a spot for the name of every class that covers at least 1.5 % of the frame; small regions choose first.

    A box lies inside the frame, at least half of it on its own class, and overlaps no other. A class without such a spot
    is left out. Nothing is remembered between frames: a spot moves as its region does.

    Args:
        labels: uint8 or uint16 (H, W).
        areas: int64 (256,) or (65536,), pixels of each label; 0 for a label that has no name to write. The last, no label,
            does not count.
        class_names: name of each label.
        line_px: height of a line of text in pixels.
        taken: boxes to keep clear of.
    """
    if min(labels.shape) < line_px:
        return []
    step = max(1, line_px // SAMPLES_PER_LINE)
    # The median takes out specks.
    sampled = np.asarray(cv2.medianBlur(np.ascontiguousarray(labels[step // 2 :: step, step // 2 :: step]), 3))
    large = np.flatnonzero(areas[:-1] >= LEAST_SHARE * labels.size)
    placed: list[PlacedName] = []
    for label in large[np.argsort(areas[large], kind="stable")].tolist():
        text = shortened(class_names[label])
        size_hw = outlined_size_hw(text, line_px)
        if size_hw[0] > labels.shape[0] or size_hw[1] > labels.shape[1]:
            continue
        box = _spot(sampled == label, step, labels.shape, size_hw, [*taken, *(name.box for name in placed)])
        if box is not None and np.mean(labels[box.pixels] == label) >= LEAST_INSIDE:
            placed.append(PlacedName(label, text, box))
    return placed


def draw_names(picture: UInt8Array, names: Sequence[PlacedName], line_px: int) -> None:
    """Write the names into the picture, uint8 (H, W, 3), in place."""
    for name in names:
        draw_outlined_text(picture, name.text, (name.box.top, name.box.left), line_px)


def _spot(
    region: BoolArray, step: int, frame_hw: tuple[int, ...], size_hw: tuple[int, int], taken: Sequence[Box]
) -> Box | None:
    """The box of a size where the region, sampled every `step` pixels, has most room; None if all of it is taken."""
    score = np.where(_free(region, step, size_hw, taken), _scores(region, step, size_hw), -np.inf)
    best = divmod(int(score.argmax()), score.shape[1])
    if score[best] == -np.inf:
        return None
    for y, x in (_mean_of_nearly_best(score, best), best):
        top = _start((y + 0.5) * step, size_hw[0], frame_hw[0])
        left = _start((x + 0.5) * step, size_hw[1], frame_hw[1])
        box = Box(top, left, size_hw[0], size_hw[1])
        if not any(box.overlaps(other) for other in taken):
            return box
    return None


def _start(middle: float, length: int, frame_length: int) -> int:
    """Where a stretch about a middle begins, moved into the frame."""
    return min(max(0, round(middle - length / 2)), frame_length - length)


def _scores(region: BoolArray, step: int, size_hw: tuple[int, int]) -> Float32Array:
    """How good each sample is as the middle of a name: share of the room around it that is region, less the pull."""
    mask = region.view(np.uint8) * np.uint8(255)
    # Means over boxes change little with every pixel, which the distance to the nearest edge does not. The larger box tells
    # how far the edges are, the box of the name itself whether it fits where there is little room.
    room, fit = (
        cv2.blur(mask, (n * size_hw[1] // step | 1, n * size_hw[0] // step | 1), borderType=cv2.BORDER_CONSTANT)
        for n in (ROOM, 1)
    )
    moments = cv2.moments(mask, binaryImage=True)
    area = max(1.0, moments["m00"])
    pull_y, pull_x = (
        PULL_TO_MIDDLE * step / size_hw[0] * np.abs(np.arange(length, dtype=np.float32) - np.float32(middle / area))
        for length, middle in zip(region.shape, (moments["m01"], moments["m10"]), strict=True)
    )
    return np.asarray(cv2.add(room, fit, dtype=cv2.CV_32F) * np.float32(0.5 / 255) - pull_y[:, None] - pull_x)


def _free(region: BoolArray, step: int, size_hw: tuple[int, int], taken: Sequence[Box]) -> BoolArray:
    """The samples of a region around which a box touches none that is taken."""
    free = region.copy()
    for box in taken:
        top, left = box.top - size_hw[0] // 2, box.left - size_hw[1] // 2
        bottom, right = top + box.height + size_hw[0], left + box.width + size_hw[1]
        free[max(0, top // step) : -(-bottom // step), max(0, left // step) : -(-right // step)] = False
    return free


def _mean_of_nearly_best(score: Float32Array, best: tuple[int, int]) -> tuple[float, float]:
    """The mean of the samples within a line of the best one, weighed by how nearly they are as good."""
    top, left = max(0, best[0] - SAMPLES_PER_LINE), max(0, best[1] - SAMPLES_PER_LINE)
    around = score[top : best[0] + SAMPLES_PER_LINE + 1, left : best[1] + SAMPLES_PER_LINE + 1]
    weights = np.maximum(around - (score[best] - NEARLY_BEST), 0.0)
    rows, columns = weights.sum(axis=1), weights.sum(axis=0)
    total = rows.sum()
    return top + float(rows @ np.arange(len(rows)) / total), left + float(columns @ np.arange(len(columns)) / total)
