"""Masks as run lengths, boxes, and polygons that fill back to the same pixels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.opencv import cv2

Polygon = NDArray[np.int32]
"""Points (n, 2), x then y, in whole pixels: the centres of the pixels at the border of a region, which are part of it."""

END = -1


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
    parents = hierarchy[0, :, 3].tolist()
    rings = [np.asarray(contour[:, 0], dtype=np.int32) for contour in contours]
    holes: dict[int, list[Polygon]] = {outer: [] for outer, parent in enumerate(parents) if parent < 0}
    for ring, parent in zip(rings, parents, strict=True):
        if parent >= 0:
            holes[parent].append(ring)
    left_ends = _left_ends(mask)
    return [_without_points_on_lines(_joined(rings[outer], inside, left_ends)) for outer, inside in holes.items()]


def _left_ends(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """For each pixel of a mask (H, W), the column of the first pixel of its run of True in the row."""
    columns = np.arange(mask.shape[1])
    return np.maximum.accumulate(np.where(mask, 0, columns + 1), axis=1)


def _joined(outer: Polygon, holes: Sequence[Polygon], left_ends: NDArray[np.intp]) -> Polygon:
    """The outer border with a detour to each hole, around it and back."""
    if not holes:
        return outer
    chain = _Chain(outer)
    # From left to right: the line to the left of a hole meets the border or a hole that was joined before.
    for hole in sorted(holes, key=lambda ring: int(ring[:, 0].min())):
        start = int(hole[:, 0].argmin())
        x, y = hole[start].tolist()
        chain.insert((int(left_ends[y, x]), y), np.concatenate([hole[start:], hole[: start + 1]]))
    return chain.polygon()


class _Chain:
    """A polygon that grows by detours, as a chain, so that a detour costs its own points and not all of them.

    State: the points in the order in which they came; the next one of each in the chain; and a point at each place, from
    where a detour begins: of several at one place any will do, as a detour comes back to where it began.
    """

    def __init__(self, ring: Polygon) -> None:
        self._points = [(x, y) for x, y in ring.tolist()]
        self._next = [*range(1, len(self._points)), END]
        self._at = {point: index for index, point in enumerate(self._points)}

    def insert(self, place: tuple[int, int], around: Polygon) -> None:
        """Go around and back to the place.

        Args:
            place: a point of the polygon.
            around: points (n, 2), the first and the last the same.
        """
        at, begin = self._at[place], len(self._points)
        self._points += [(x, y) for x, y in around.tolist()] + [place]
        end = len(self._points)
        self._next += [*range(begin + 1, end), self._next[at]]
        self._next[at] = begin
        self._at.update(zip(self._points[begin:end], range(begin, end), strict=True))

    def polygon(self) -> Polygon:
        """The points in order."""
        points, index = [], 0
        while index != END:
            points.append(self._points[index])
            index = self._next[index]
        return np.array(points, dtype=np.int32)


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
