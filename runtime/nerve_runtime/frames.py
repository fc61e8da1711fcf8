"""What a frame is: RGB uint8 in the picture's own size, and how it is brought to another."""

import time
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.errors import UsageError
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


def working_frame(pixels: UInt8Array, size_hw: tuple[int, int], *, bgr: bool) -> UInt8Array:
    """Pixels (H, W, 3), RGB or BGR, as the graphs take them: uint8 (1, h, w, 3), RGB, of that size."""
    resized = resize_frame(pixels, size_hw)
    return np.ascontiguousarray((resized[..., ::-1] if bgr else resized)[None])


def check_pixels(pixels: object, index: int) -> UInt8Array:
    """The pixels of frame `index` as they came, uint8 (H, W, 3).

    Raises:
        UsageError: they are anything else; says what makes a frame of them.
    """
    if not isinstance(pixels, np.ndarray):
        raise UsageError(
            f"frame {index} is a {type(pixels).__name__}, expected a NumPy array uint8 (H, W, 3), RGB; numpy.asarray makes one"
        )
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise UsageError(
            f"frame {index} is {pixels.dtype} {pixels.shape}, expected uint8 (H, W, 3) pixels, RGB; {_remedy(pixels)}"
        )
    return pixels


def _remedy(pixels: NDArray[Any]) -> str:
    """How to make a frame of an array that is not one."""
    if 0 in pixels.shape:
        return "it has no pixels"
    if pixels.ndim == 4:
        return "give the frames of a batch one by one, or as a list to segment_batch"
    if pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 1):
        return "grey becomes RGB by cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB)"
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        return "leave out alpha: frame[..., :3]"
    if pixels.ndim == 3 and pixels.shape[0] == 3:
        return "move the channels last: frame.transpose(1, 2, 0)"
    if np.issubdtype(pixels.dtype, np.floating):
        return "0 to 1 becomes uint8 by (frame * 255).round().astype(numpy.uint8), 0 to 255 without the factor"
    return "convert it to 0 to 255 with astype(numpy.uint8)"
