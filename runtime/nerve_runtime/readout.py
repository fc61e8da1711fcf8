"""At which size labels are read out, and how they get to the frame's size."""

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.opencv import cv2

READOUT_ELEMENTS_LIMIT = 2**27  # classes * H * W of float32 scores at frame size: half a gigabyte

UInt8Array = NDArray[np.uint8]


def readout_size_hw(classes: int, size_hw: tuple[int, int], limit_px: int | None = None) -> tuple[int, int]:
    """The frame's size, halved until classes * H * W is within `READOUT_ELEMENTS_LIMIT` and both sides in `limit_px`.

    >>> readout_size_hw(20, (1080, 1920)), readout_size_hw(200, (2160, 3840)), readout_size_hw(2, (500, 3000), 1920)
    ((1080, 1920), (540, 960), (250, 1500))
    """
    height, width = size_hw
    longest = limit_px or max(size_hw)
    while classes * height * width > READOUT_ELEMENTS_LIMIT or max(height, width) > longest:
        height, width = max(1, height // 2), max(1, width // 2)
    return height, width


def enlarged(plane: UInt8Array, size_hw: tuple[int, int]) -> UInt8Array:
    """A coarser plane of labels or confidences, uint8 (H, W), at the frame's size; nothing is blended."""
    return np.asarray(cv2.resize(plane, size_hw[::-1], interpolation=cv2.INTER_NEAREST), dtype=np.uint8)
