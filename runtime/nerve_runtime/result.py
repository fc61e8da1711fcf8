"""What comes out of the segmenter for one frame."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

IGNORE_LABEL = 255


@dataclass(frozen=True, slots=True)
class FrameResult:
    """Labels of one frame, in the frame's own size.

    Attributes:
        labels: uint8 (H, W); value i means `class_names[i]`, 255 means no label (the frame came out NaN).
        confidence: uint8 (H, W); the winning class's probability, 0 to 255 for 0 to 1.
        class_names: name of each label; the first is "background" when the vocabulary has background words.
        index: number of the frame in its source, from 0.
        time_s: presentation time in seconds, None when the caller gave a bare array.
        timings_ms: milliseconds spent in each stage that ran, in order, and in `total`.
        keyframe: true when the attention was computed for this very frame.
        valid: false when the scores were not finite; then every label is 255 and every confidence 0.

    Labels are read out at the frame's size as long as k * H * W stays within `READOUT_ELEMENTS_LIMIT`
    (2**27, half a gigabyte of float32), k being the number of classes that can win anywhere in the frame; above that
    they are read out at a size halved until it fits and enlarged
    by nearest neighbour.
    """

    labels: NDArray[np.uint8]
    confidence: NDArray[np.uint8]
    class_names: tuple[str, ...]
    index: int
    time_s: Fraction | None
    timings_ms: dict[str, float]
    keyframe: bool
    valid: bool
