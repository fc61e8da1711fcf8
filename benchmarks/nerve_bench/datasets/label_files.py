"""Pictures and label maps as arrays: label maps are PNG whose pixels are numbers, with a palette or without."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.errors import SourceError
from nerve_runtime.opencv import cv2, opencv_path

NUMBERED_MODES = ("P", "L", "1")
"""Modes of Pillow in which a pixel is one number: palette index, grey level, bit."""


def read_label_file(path: Path) -> NDArray[np.uint8]:
    """The numbers in a label map, uint8 (H, W): indices of a palette as they are, never its colours.

    Raises:
        SourceError: the file cannot be read, or its pixels are colours.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            mode = image.mode
            numbers = np.asarray(image) if mode in NUMBERED_MODES else None
    except (OSError, SyntaxError) as error:
        raise SourceError(f"cannot read the label map {path} ({error}); unpack the data set again") from error
    if numbers is None:
        raise SourceError(
            f"the label map {path} has pixels of mode {mode}, expected one number a pixel (8-bit grey or palette); "
            "it was saved as colours: take the original file"
        )
    return numbers.astype(np.uint8)


def read_picture(path: Path) -> NDArray[np.uint8]:
    """A picture, uint8 (H, W, 3), RGB, as stored: a note of the camera to turn it is not followed, for labels are not turned.

    Raises:
        SourceError: the file cannot be read.
    """
    bgr = cv2.imread(opencv_path(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if bgr is None:
        raise SourceError(f"cannot read the picture {path}; unpack the data set again")
    return np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)
