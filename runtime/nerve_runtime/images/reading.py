"""The pixels of an image file."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from nerve_runtime.errors import SourceError
from nerve_runtime.frames import Frame, UInt8Array
from nerve_runtime.images.header import IMAGE_KINDS, image_size_hw, picture_count, refuse_too_large
from nerve_runtime.opencv import cv2

IMAGE_FILE_LIMIT_BYTES = 500_000_000
Picture = str | Path | Frame | UInt8Array
"""A picture by itself: an image file, or its pixels."""


def read_pictures(pictures: Picture | Sequence[Picture]) -> Iterator[Frame | UInt8Array]:
    """The pixels of one or several pictures: those of files are read when they are asked for, others come as they are.

    Raises:
        SourceError: a file is no image, or is damaged; see `read_image`.
    """
    several = [pictures] if isinstance(pictures, (str, Path, Frame, np.ndarray)) else pictures
    for picture in several:
        yield read_image(Path(picture)) if isinstance(picture, (str, Path)) else picture


def read_image(path: Path) -> UInt8Array:
    """Decode an image file to RGB uint8 (H, W, 3), upright; its size is checked before anything is decoded.

    Samples of 16 bit are divided by 256, grey becomes three equal channels, transparency is dropped.

    Raises:
        SourceError: it is no PNG, JPEG, BMP, WebP or TIFF image, is damaged, holds several pictures, or has more than
            50 megapixels.
    """
    try:
        if path.stat().st_size > IMAGE_FILE_LIMIT_BYTES:
            raise SourceError(f"image {path} is {path.stat().st_size} bytes, expected at most {IMAGE_FILE_LIMIT_BYTES}")
        content = path.read_bytes()
    except OSError as error:
        raise SourceError(
            f"image {path} cannot be read: {error.strerror or error}; check the path and its rights"
        ) from error
    return decode_image(content, f"image {path}")


def decode_image(content: bytes, where: str) -> UInt8Array:
    """Decode an image in memory, as `read_image` does.

    Args:
        content: the bytes of its file.
        where: the image in words, for messages.

    Raises:
        SourceError: as `read_image`.
    """
    size_hw = image_size_hw(content)
    if size_hw is None:
        raise SourceError(f"{where} is no {IMAGE_KINDS} image, or is cut off in its header")
    refuse_too_large(where, size_hw)
    buffer = np.frombuffer(content, dtype=np.uint8)
    try:
        bgr = cv2.imdecode(buffer, cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise SourceError(f"{where} cannot be decoded: {error.err}") from error
    if bgr is None:
        raise SourceError(
            f"{where} cannot be decoded: its data are damaged, or its samples are not of 8 or 16 bit; "
            "copy it again, or convert it"
        )
    pictures = picture_count(content)
    if pictures > 1:
        raise SourceError(
            f"{where} holds {pictures} pictures, expected one; save each as a file, or all as a video or animated PNG"
        )
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)
