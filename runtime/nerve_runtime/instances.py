"""Instances: connected regions of a class, with numbers that follow them from frame to frame."""

from collections.abc import Sequence
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

Int32Array = NDArray[np.int32]
UInt8Array = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Before:
    """The frame before: in grey, its instances' numbers, and the label of each number."""

    grey: UInt8Array
    numbers: Int32Array
    labels: dict[int, int]


class InstanceTracker:
    """Numbers the connected regions of each class in the frames of one video, in order.

    A region has the number of the region of its class that its pixels came from, by dense optical flow; where several
    parts came from one, the part with most of its pixels keeps the number. After a cut all numbers are new; a frame
    whose scores were not finite has none and changes none. Two things of a class that touch are one instance: NERVE says
    what a pixel is, not whose.

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
        self._before = _Before(grey, numbers, {instance.number: instance.label for instance in found})
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
        kept = [part for part in range(1, count) if stats[part, cv2.CC_STAT_AREA] >= least]
        known = self._known_numbers(parts, kept, label, moved)
        sums = np.bincount(parts.ravel(), weights=result.confidence.ravel(), minlength=count)
        found, table = [], np.zeros(count, dtype=np.int32)
        for part in sorted(kept, key=lambda part: -int(stats[part, cv2.CC_STAT_AREA])):
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
        self, parts: Int32Array, kept: Sequence[int], label: int, moved: Int32Array | None
    ) -> dict[int, int]:
        """Which part goes on with which number: pairs by the pixels that they share, most first, each only once."""
        if moved is None or self._before is None:
            return {}
        both = (parts > 0) & (moved > 0)
        pairs, shared = np.unique(np.stack([parts[both], moved[both]]), axis=1, return_counts=True)
        known: dict[int, int] = {}
        for index in np.argsort(-shared, kind="stable").tolist():
            part, number = int(pairs[0, index]), int(pairs[1, index])
            of_class = self._before.labels.get(number) == label
            if of_class and part in kept and part not in known and number not in known.values():
                known[part] = number
        return known

    def _new_number(self) -> int:
        self._next += 1
        return self._next - 1
