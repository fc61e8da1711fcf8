"""The one place that imports OpenCV, after telling it how large an image may be.

OpenCV reads that limit once, while it is imported; without it a 269 kB PNG of 16000 x 16000 pixels takes 1.5 GB. A user's
setting is kept. `cv2` is imported when it is first asked for: a decoder process needs only the limit.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

IMAGE_PIXELS_LIMIT = 50_000_000  # no picture may exceed it, whatever its header says

__all__ = ["IMAGE_PIXELS_LIMIT", "cv2", "opencv_path"]

if TYPE_CHECKING:
    import cv2
else:  # hidden from the type checker, which would take any other name for one of these

    def __getattr__(name: str) -> Any:
        """Import OpenCV."""
        if name != "cv2":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(IMAGE_PIXELS_LIMIT))
        import cv2

        return cv2


def opencv_path(path: str | Path) -> str:
    r"""A path as OpenCV takes it, in UTF-8: it crashes on a name that Python cannot decode; one of no UTF-8 is not found.

    >>> opencv_path("m\udcc3\udcb6we.png")
    'möwe.png'
    """
    return os.fsencode(path).decode("utf-8", "replace")
