"""What a frame is: RGB uint8 in the picture's own size, and how it is brought to another."""

import time
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.opencv import cv2

UInt8Array = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture: `rgb` uint8 (H, W, 3), its number in the source from 0, its presentation time in seconds.

    `arrived_ns` is when it was decoded, in nanoseconds of the monotonic clock, which all processes of a machine share.
    """

    rgb: UInt8Array
    index: int
    time_s: Fraction
    arrived_ns: int = field(default_factory=time.monotonic_ns)


def resize_frame(rgb: UInt8Array, size_hw: tuple[int, int]) -> UInt8Array:
    """Stretch a picture (H, W, 3) to `size_hw` pixels: by area where it shrinks, linearly where it grows."""
    height, width = size_hw
    # INTER_AREA is only an average when it shrinks, so an axis that shrinks and one that grows are done in turn.
    shrunk_hw = (min(rgb.shape[0], height), min(rgb.shape[1], width))
    if shrunk_hw != rgb.shape[:2]:
        rgb = np.asarray(cv2.resize(rgb, shrunk_hw[::-1], interpolation=cv2.INTER_AREA), dtype=np.uint8)
    if shrunk_hw != size_hw:
        rgb = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    return rgb
