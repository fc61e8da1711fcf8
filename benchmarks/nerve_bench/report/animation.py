"""A video and its overlay side by side as a short animation, for a page that shows no videos."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nerve_runtime.atomic import write_bytes_whole
from nerve_runtime.errors import SourceError
from nerve_runtime.opencv import opencv_path

GAP_PX = 6
WEBP_QUALITY = 60
"""Of 100."""


def write_animation(source: Path, overlay: Path, out: Path, *, side_px: int, every: int, fps: float) -> int:
    """Write an animated WebP: each frame of `source` beside the same frame of `overlay`, for ever.

    Args:
        source: a video.
        overlay: the overlay of all its frames, as `nerve-segment` writes it.
        out: the file to write.
        side_px: height of the pictures.
        every: take the first of every so many frames.
        fps: frames a second to play.

    Returns:
        Number of frames written.

    Raises:
        SourceError: a video cannot be read.
    """
    from io import BytesIO

    pairs = zip(_frames(source), _frames(overlay), strict=False)
    pictures = [Image.fromarray(_beside(*pair, side_px)) for number, pair in enumerate(pairs) if number % every == 0]
    if not pictures:
        raise SourceError(f"{source} and {overlay} share no frame that can be read; expected a video and its overlay")
    content = BytesIO()
    options = {"duration": round(1000 / fps), "loop": 0, "quality": WEBP_QUALITY, "method": 6}
    pictures[0].save(content, "WEBP", save_all=True, append_images=pictures[1:], **options)
    write_bytes_whole(out, content.getvalue())
    return len(pictures)


def _frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    capture = cv2.VideoCapture(opencv_path(path))
    try:
        while (read := capture.read())[0]:
            yield np.asarray(read[1][..., ::-1], np.uint8)
    finally:
        capture.release()


def _beside(left: NDArray[np.uint8], right: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    scaled = [
        cv2.resize(
            picture, (round(picture.shape[1] * side_px / picture.shape[0]), side_px), interpolation=cv2.INTER_AREA
        )
        for picture in (left, right)
    ]
    gap = np.full((side_px, GAP_PX, 3), 255, np.uint8)
    return np.concatenate([scaled[0], gap, scaled[1]], axis=1)
