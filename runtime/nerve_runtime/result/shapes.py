"""Masks as run lengths, boxes, and polygons that fill back to the same pixels."""

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.opencv import cv2

Polygon = NDArray[np.int32]
"""Points (n, 2), x then y, in whole pixels: the centres of the pixels at the border of a region, which are part of it."""


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, list[int]]:
    """COCO's uncompressed run lengths of a mask (H, W): column order, counts alternate, the first counts False.

    >>> run_lengths(np.array([[True, False], [True, True]]))
    {'size': [2, 2], 'counts': [0, 2, 1, 1]}
    """
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """First column, first row, last column and last row of a mask (H, W) that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def outlines(mask: NDArray[np.bool_]) -> list[Polygon]:
    """One polygon for each connected region of a mask (H, W); diagonal neighbours are connected.

    A hole is joined to the border around it by a line there and back within the region, since most formats have no
    holes. `cv2.fillPoly` of each polygon gives the mask again, pixel by pixel.

    >>> outlines(np.array([[False, True, True], [False, True, True]]))[0].tolist()
    [[1, 0], [1, 1], [2, 1], [2, 0]]
    """
    contours, hierarchy = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if hierarchy is None:
        return []
    parents = hierarchy[0, :, 3]
    rings = [np.asarray(contour[:, 0], dtype=np.int32) for contour in contours]
    polygons = []
    for outer in np.flatnonzero(parents < 0):
        polygon = rings[outer]
        # From left to right: the line to the left of a hole meets the border or a hole that was joined before.
        for hole in sorted((rings[index] for index in np.flatnonzero(parents == outer)), key=_leftmost):
            polygon = _joined(polygon, hole, mask)
        polygons.append(_without_points_on_lines(polygon))
    return polygons


def _leftmost(ring: Polygon) -> int:
    return int(ring[:, 0].min())


def _joined(polygon: Polygon, hole: Polygon, mask: NDArray[np.bool_]) -> Polygon:
    """The polygon with a detour from its border to a hole, around it and back."""
    start = int(hole[:, 0].argmin())
    x, y = hole[start].tolist()
    outside = np.flatnonzero(~mask[y, :x])
    border_x = int(outside[-1]) + 1 if len(outside) else 0
    at = int(np.flatnonzero((polygon == (border_x, y)).all(axis=1))[0])
    around = np.concatenate([hole[start:], hole[: start + 1]])
    return np.concatenate([polygon[: at + 1], around, polygon[at:]])


def _without_points_on_lines(polygon: Polygon) -> Polygon:
    """The polygon without points at which it goes straight on."""
    if len(polygon) < 3:
        return polygon
    steps_in = polygon - np.roll(polygon, 1, axis=0)
    steps_out = np.roll(polygon, -1, axis=0) - polygon
    straight = _is_straight_on(steps_in, steps_out)
    return polygon[~straight] if not straight.all() else polygon


def _is_straight_on(steps_in: Polygon, steps_out: Polygon) -> NDArray[np.bool_]:
    crossed = steps_in[:, 0] * steps_out[:, 1] == steps_in[:, 1] * steps_out[:, 0]
    return np.asarray(crossed & ((steps_in * steps_out).sum(axis=1) > 0))
