"""Where the name of each class is written on the picture: once, inside its region, clear of other text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nerve_runtime import IGNORE_LABEL
from nerve_runtime.opencv import cv2
from nerve_stream.drawing.boxes import Box
from nerve_stream.drawing.text import draw_outlined_text, outlined_size_hw, shortened

UInt8Array = NDArray[np.uint8]
Int64Array = NDArray[np.int64]
Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

LEAST_SHARE = 0.015  # of the frame; a smaller region is hidden by its own name
LEAST_INSIDE = 0.5  # share of a name's box that must lie on its own class
SAMPLES_PER_LINE = 4  # labels are looked at every quarter of a line's height: every 6 px at 720p
# A spot is sought on a grid whose cells are a third of the text box high and wide. There the box is a square, and the
# distance to the edge of the region says how well it fits.
CELLS_PER_BOX = 3
ENOUGH_CELLS = 3.0  # a box fits whole 2 cells from the edge; beyond 3 the middle of the region counts for more
PULL_TO_MIDDLE = 0.05  # clearance given up per cell nearer to the region's middle, which moves smoothly in video
NEARLY_BEST = (
    0.5  # cells this much worse than the best share in the mean, so that the spot does not jump between equals
)
NEIGHBOUR_CELLS = 4


@dataclass(frozen=True, slots=True)
class PlacedName:
    """A class's name and the box in which it is written."""

    label: int
    text: str
    box: Box


def place_names(
    labels: UInt8Array, areas: Int64Array, class_names: Sequence[str], line_px: int, taken: Sequence[Box] = ()
) -> list[PlacedName]:
    """Find a spot for the name of every class that covers at least 1.5 % of the frame; small regions choose first.

    A box lies inside the frame, at least half of it on its own class, and overlaps no other. A class without such a spot
    is left out. Nothing is remembered between frames: a spot moves as its region does.

    Args:
        labels: uint8 (H, W); 255 is no label.
        areas: int64 (256,), pixels of each label; 0 for a label that has no name to write.
        class_names: name of each label.
        line_px: height of a line of text in pixels.
        taken: boxes to keep clear of.
    """
    step = max(1, line_px // SAMPLES_PER_LINE)
    # The median takes out specks, which would each look like an edge.
    sampled = np.asarray(cv2.medianBlur(np.ascontiguousarray(labels[step // 2 :: step, step // 2 :: step]), 3))
    large = np.flatnonzero(areas[:IGNORE_LABEL] >= LEAST_SHARE * labels.size)
    placed: list[PlacedName] = []
    for label in large[np.argsort(areas[large], kind="stable")].tolist():
        text = shortened(class_names[label])
        size_hw = outlined_size_hw(text, line_px)
        if size_hw[0] > labels.shape[0] or size_hw[1] > labels.shape[1]:
            continue
        box = _spot(sampled == label, labels.shape, size_hw, [*taken, *(name.box for name in placed)])
        if (
            box is not None
            and cv2.countNonZero(cv2.inRange(labels[box.pixels], label, label)) >= LEAST_INSIDE * box.area
        ):
            placed.append(PlacedName(label, text, box))
    return placed


def draw_names(picture: UInt8Array, names: Sequence[PlacedName], line_px: int) -> None:
    """Write the names into the picture, uint8 (H, W, 3), in place."""
    for name in names:
        draw_outlined_text(picture, name.text, (name.box.top, name.box.left), line_px)


def _spot(region: BoolArray, frame_hw: tuple[int, ...], size_hw: tuple[int, int], taken: Sequence[Box]) -> Box | None:
    """The box of a size in the roomiest place of a region, None if there is no place that is not taken."""
    cell_hw = size_hw[0] / CELLS_PER_BOX, size_hw[1] / CELLS_PER_BOX
    grid_hw = max(1, round(frame_hw[0] / cell_hw[0])), max(1, round(frame_hw[1] / cell_hw[1]))
    cell_hw = frame_hw[0] / grid_hw[0], frame_hw[1] / grid_hw[1]
    cells = np.asarray(cv2.resize(region.view(np.uint8) * 255, grid_hw[::-1]) > 127)
    score = _scores(cells)
    score[~_free(cells, size_hw, cell_hw, taken)] = -np.inf
    best = divmod(int(score.argmax()), score.shape[1])
    if score[best] == -np.inf:
        return None
    for y, x in (_mean_of_nearly_best(score, best), best):
        top = _start(y * cell_hw[0] + cell_hw[0] / 2, size_hw[0], frame_hw[0])
        left = _start(x * cell_hw[1] + cell_hw[1] / 2, size_hw[1], frame_hw[1])
        box = Box(top, left, size_hw[0], size_hw[1])
        if not any(box.overlaps(other) for other in taken):
            return box
    return None


def _start(middle: float, length: int, frame_length: int) -> int:
    """Where a stretch about a middle begins, moved into the frame."""
    return min(max(0, round(middle - length / 2)), frame_length - length)


def _scores(cells: BoolArray) -> Float32Array:
    """How good each cell is as the middle of a name, in cells: room around it, less a pull to the region's middle."""
    # Beyond the edge of the frame there is no region; without the border OpenCV would take it for endless.
    framed = cv2.copyMakeBorder(cells.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    room = cv2.distanceTransform(framed, cv2.DIST_C, 3)[1:-1, 1:-1]
    moments = cv2.moments(cells.view(np.uint8), binaryImage=True)
    if not moments["m00"]:
        return np.full(cells.shape, -np.inf, dtype=np.float32)
    middle_yx = moments["m01"] / moments["m00"], moments["m10"] / moments["m00"]
    pull_y, pull_x = (
        PULL_TO_MIDDLE * np.abs(np.arange(length) - middle).astype(np.float32)
        for length, middle in zip(cells.shape, middle_yx, strict=True)
    )
    return np.asarray(np.minimum(room, ENOUGH_CELLS) - pull_y[:, None] - pull_x)


def _free(cells: BoolArray, size_hw: tuple[int, int], cell_hw: tuple[float, float], taken: Sequence[Box]) -> BoolArray:
    """The cells of a region around which a box touches none that is taken."""
    free = cells.copy()
    half_hw = size_hw[0] / 2, size_hw[1] / 2
    for box in taken:
        top, left = int((box.top - half_hw[0]) / cell_hw[0]), int((box.left - half_hw[1]) / cell_hw[1])
        bottom = math.ceil((box.top + box.height + half_hw[0]) / cell_hw[0])
        right = math.ceil((box.left + box.width + half_hw[1]) / cell_hw[1])
        free[max(0, top) : bottom, max(0, left) : right] = False
    return free


def _mean_of_nearly_best(score: Float32Array, best: tuple[int, int]) -> tuple[float, float]:
    """The mean of the cells about the best one, weighed by how nearly they are as good."""
    top, left = max(0, best[0] - NEIGHBOUR_CELLS), max(0, best[1] - NEIGHBOUR_CELLS)
    around = score[top : best[0] + NEIGHBOUR_CELLS + 1, left : best[1] + NEIGHBOUR_CELLS + 1]
    weights = np.maximum(around - (score[best] - NEARLY_BEST), 0.0)
    rows, columns = weights.sum(axis=1), weights.sum(axis=0)
    total = rows.sum()
    return top + float(rows @ np.arange(len(rows)) / total), left + float(columns @ np.arange(len(columns)) / total)
