"""What the value of a label means, and of how many bits it is, wherever labels are made, stored or drawn."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.errors import UsageError

Labels = NDArray[np.uint8 | np.uint16]
"""Labels of pixels: uint8 of vocabularies with up to `CLASSES_LIMIT_8_BIT` classes, uint16 beyond."""
LabelDtype = Literal["uint8", "uint16"]
IGNORE_LABEL = 255
"""No label in 8-bit labels: the frame's scores were not finite. Of any labels, `ignore_label` says it."""
CLASSES_LIMIT_8_BIT = 254
"""Most classes of 8-bit labels, background included: 255 is taken, and one more is kept free."""
CLASSES_LIMIT = 65534
"""Most classes, background included: 16-bit labels have 65535 for no label."""
BACKGROUND_NAME = "background"
"""Name of class 0 where the vocabulary has background words."""


def label_dtype(classes: int) -> np.dtype[Any]:
    """The element type of the labels of so many classes, background included.

    >>> label_dtype(254), label_dtype(255)
    (dtype('uint8'), dtype('uint16'))

    Raises:
        UsageError: there are more than `CLASSES_LIMIT`.
    """
    if classes > CLASSES_LIMIT:
        raise UsageError(f"{classes} classes are more than labels can number, expected at most {CLASSES_LIMIT}")
    return np.dtype(np.uint8 if classes <= CLASSES_LIMIT_8_BIT else np.uint16)


def ignore_label(dtype: np.dtype[Any]) -> int:
    """The value that means no label in labels of a dtype: 255 in uint8, 65535 in uint16.

    Raises:
        UsageError: labels have another dtype.
    """
    if dtype not in (np.uint8, np.uint16):
        raise UsageError(f"labels are {dtype}, expected uint8, or uint16 beyond {CLASSES_LIMIT_8_BIT} classes")
    return int(np.iinfo(dtype).max)


def no_labels(size_hw: tuple[int, int], dtype: np.dtype[Any]) -> tuple[Labels, NDArray[np.uint8]]:
    """Labels and confidence (H, W) of a frame without any: `ignore_label` and 0 everywhere."""
    labels: Labels = np.full(size_hw, ignore_label(dtype), dtype=dtype)
    return labels, np.zeros(size_hw, dtype=np.uint8)


def cast_labels(labels: Labels, dtype: np.dtype[Any]) -> Labels:
    """The same labels as uint8 or uint16; the value of no label stays that of no label. No copy where nothing changes.

    The caller sees to it that the labels of classes fit: 16-bit labels of a vocabulary of at most 254 classes do.
    """
    if labels.dtype == dtype:
        return labels
    cast: Labels = labels.astype(dtype)  # to 8 bit the lower byte of 65535 is 255
    if cast.itemsize > labels.itemsize:
        cast[labels == ignore_label(labels.dtype)] = ignore_label(dtype)
    return cast
