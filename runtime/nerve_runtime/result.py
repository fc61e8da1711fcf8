"""The result of one frame."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.errors import CompatibilityError
from nerve_runtime.labels import BACKGROUND_NAME, Labels, ignore_label


@dataclass(frozen=True, slots=True)
class FrameResult:
    """Labels of one frame, in the frame's own size.

    Attributes:
        labels: uint8 (H, W) where there are at most 254 classes, background included, uint16 beyond, whatever the bundle
            could; value i means `class_names[i]`, `ignore_label` no label (the frame came out NaN).
        confidence: uint8 (H, W); the winning class's probability, 0 to 255 for 0 to 1.
        class_names: name of each label; the first is "background" when the vocabulary has background words.
        index: number of the frame in its source, from 0.
        time_s: presentation time in seconds, None when the caller gave a bare array.
        timings_ms: milliseconds spent in each stage that ran, in order, and in `total`. On a GPU a stage is only begun,
            and what is left of all of them is waited for in the read-out.
        keyframe: true when the attention was computed for this very frame.
        affinity_age: frames between the keyframe whose attention was used and this one; 0 on a keyframe.
        valid: false when the scores were not finite; then every label is `ignore_label` and every confidence 0.

    Labels are read out at the frame's size as long as k * H * W stays within `READOUT_ELEMENTS_LIMIT`
    (2**27, half a gigabyte of float32), k being the number of classes that can win anywhere in the frame; above that
    they are read out at a size halved until it fits and enlarged
    by nearest neighbour.
    """

    labels: Labels
    confidence: NDArray[np.uint8]
    class_names: tuple[str, ...]
    index: int
    time_s: Fraction | None
    timings_ms: dict[str, float]
    keyframe: bool
    affinity_age: int
    valid: bool

    @property
    def ignore_label(self) -> int:
        """The value in `labels` that means no label: 255, or 65535 where they are uint16."""
        return ignore_label(self.labels.dtype)

    @property
    def has_background(self) -> bool:
        """Whether label 0 is the background class, which is all that is none of the others."""
        return bool(self.class_names) and self.class_names[0] == BACKGROUND_NAME

    def to_detections(self, *, background: bool = False) -> Any:
        """The result as `supervision.Detections`, one detection for each class seen, in the order of the labels.

        `xyxy` float32 (n, 4) is the box around all pixels of the class, its last column and row counted in as
        supervision's own `mask_to_xyxy` does; `mask` bool (n, H, W); `class_id` int (n,) is the label; `confidence`
        float32 (n,) is the mean over the class's pixels, 0 to 1; `data["class_name"]` holds the names. Pixels without a
        label are in none.

        Args:
            background: give the background class too.

        Raises:
            CompatibilityError: supervision is not installed.
        """
        try:
            from supervision import Detections
        except ImportError as error:
            raise CompatibilityError(
                "to_detections needs the package supervision, which is not installed; run: pip install supervision"
            ) from error
        seen = [int(label) for label in np.unique(self.labels) if label != self.ignore_label]
        if self.has_background and not background:
            seen = [label for label in seen if label != 0]
        masks = self.labels[None] == np.array(seen, dtype=self.labels.dtype)[:, None, None]
        confidence = [float(self.confidence[mask].mean()) / 255.0 for mask in masks]
        return Detections(
            xyxy=np.array([_box(mask) for mask in masks], dtype=np.float32).reshape(-1, 4),
            mask=masks,
            class_id=np.array(seen, dtype=int),
            confidence=np.array(confidence, dtype=np.float32),
            data={"class_name": np.array([self.class_names[label] for label in seen], dtype=str)},
        )


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """First column, first row, last column and last row of a mask (H, W) that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])
