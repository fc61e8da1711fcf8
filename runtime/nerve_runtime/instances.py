"""Instances: connected regions of a class, with numbers that follow them from frame to frame."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.errors import UsageError
from nerve_runtime.motion import grey_picture, matches
from nerve_runtime.opencv import cv2
from nerve_runtime.result import FrameResult, Instance, Instances
from nerve_runtime.result.records import seen_labels

LEAST_SHARE = 0.0005  # of the picture; less is a speck at a border
LEAST_TRACED = 0.45  # of the picture, as `Temporal` has it: less was found in the frame before, so this is a cut
LEAST_SHARED = 0.1
"""Share of the smaller of two regions that must have been traced from one to the other for the number to pass on.

Of the smaller, because a thing that falls apart or grows together with another shares no more. Of a thing in the place of
another 0.5 to 7 % were traced by chance (the scenes of the tests); of things that are seen again 28 % and more there, and
in the demo clip 11 % in the worst pair, 44 % and more in all others.
"""

Int32Array = NDArray[np.int32]
UInt8Array = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Before:
    """The frame before: in grey, the numbers of its instances, and these by number."""

    grey: UInt8Array
    numbers: Int32Array
    instances: dict[int, Instance]


class InstanceTracker:
    """Numbers the connected regions of each class in the frames of one video, in order.

    A region has the number of the region of its class that its pixels came from, by dense optical flow; where several
    parts came from one, the part with most of its pixels keeps the number. Where less than `LEAST_SHARED` of a
    region was traced, and after a cut, numbers are new; a frame whose scores were not finite has none and changes none.
    Two things of a class that touch are one instance: NERVE says what a pixel is, not whose.

    State: the frame before, and the next number.

    Args:
        least_share: regions that are smaller, as a share of the picture, are no instances.
    """

    def __init__(self, *, least_share: float = LEAST_SHARE) -> None:
        self._least_share = least_share
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._before: _Before | None = None
        self._next = 1

    def update(self, result: FrameResult) -> Instances:
        """The instances of the next frame.

        Raises:
            UsageError: the result came without its frame.
        """
        if result.rgb is None:
            raise UsageError("this result came without its frame, which instances are followed by; keep them together")
        if not result.valid:  # it says nothing of where things are: the next frame is followed from the one before
            return Instances(np.zeros(result.labels.shape, dtype=np.int32), ())
        grey = grey_picture(result.rgb)
        moved = self._moved_numbers(grey, result.labels.shape)
        numbers, found = np.zeros(result.labels.shape, dtype=np.int32), list[Instance]()
        for label in seen_labels(result):
            found += self._of_class(result, label, moved, numbers)
        self._before = _Before(grey, numbers, {instance.number: instance for instance in found})
        return Instances(numbers, tuple(sorted(found, key=lambda instance: instance.number)))

    def reset(self) -> None:
        """Forget the frame before: all numbers of the next one are new."""
        self._before = None

    def _moved_numbers(self, grey: UInt8Array, shape: Sequence[int]) -> Int32Array | None:
        """The numbers of the frame before where its surfaces are now, int32 (H, W); None after a cut."""
        before = self._before
        if before is None or before.grey.shape != grey.shape or before.numbers.shape != tuple(shape):
            return None
        y, x = np.mgrid[0 : grey.shape[0], 0 : grey.shape[1]].astype(np.float32)
        flow = self._flow.calc(grey, before.grey, None)  # type: ignore[call-overload]  # None: no first guess
        places = np.stack([x, y], axis=2) + flow
        seen = matches(grey, before.grey, places)
        if seen.mean() < LEAST_TRACED:
            return None
        height, width = shape
        scale = np.array([width / grey.shape[1], height / grey.shape[0]], dtype=np.float32)
        moved = cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR) * scale
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        origins = np.rint(np.stack([y + moved[..., 1], x + moved[..., 0]])).astype(np.int64)
        inside = (origins >= 0).all(axis=0) & (origins[0] < height) & (origins[1] < width)
        inside &= cv2.resize(seen.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)
        rows, columns = np.where(inside, origins, 0)
        return np.where(inside, before.numbers[rows, columns], 0).astype(np.int32)

    def _of_class(
        self, result: FrameResult, label: int, moved: Int32Array | None, numbers: Int32Array
    ) -> list[Instance]:
        """The instances of a class, largest first; writes their numbers."""
        mask = (result.labels == label).astype(np.uint8)
        count, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        least = max(1, int(self._least_share * mask.size))
        areas = {part: int(stats[part, cv2.CC_STAT_AREA]) for part in range(1, count)}
        areas = {part: area for part, area in areas.items() if area >= least}
        known = self._known_numbers(parts, areas, label, moved)
        sums = np.bincount(parts.ravel(), weights=result.confidence.ravel(), minlength=count)
        found, table = [], np.zeros(count, dtype=np.int32)
        for part in sorted(areas, key=lambda part: -areas[part]):
            number = known.get(part) or self._new_number()
            table[part] = number
            left, top, width, height, area = (int(value) for value in stats[part])
            confidence = round(float(sums[part]) / area / 255.0, 4)
            found.append(
                Instance(number, label, result.class_names[label], area, (left, top, width, height), confidence)
            )
        np.copyto(numbers, table[parts], where=mask.astype(bool))
        return found

    def _known_numbers(
        self, parts: Int32Array, areas: Mapping[int, int], label: int, moved: Int32Array | None
    ) -> dict[int, int]:
        """Which part goes on with which number: pairs by the pixels that they share, most first, each only once.

        Args:
            parts: of the class, int32 (H, W).
            areas: pixels of each part that is an instance.
            label: of the class.
            moved: as of `_moved_numbers`.
        """
        if moved is None or self._before is None:
            return {}
        both = (parts > 0) & (moved > 0)
        pairs, shared = np.unique(np.stack([parts[both], moved[both]]), axis=1, return_counts=True)
        known: dict[int, int] = {}
        for index in np.argsort(-shared, kind="stable").tolist():
            part, number = int(pairs[0, index]), int(pairs[1, index])
            before = self._before.instances[number]
            if before.label != label or part not in areas or part in known or number in known.values():
                continue
            if shared[index] >= LEAST_SHARED * min(areas[part], before.area):
                known[part] = number
        return known

    def _new_number(self) -> int:
        self._next += 1
        return self._next - 1
