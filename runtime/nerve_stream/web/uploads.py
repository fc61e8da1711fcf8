"""Pictures that a viewer hands over, as a source of the run."""

import threading
import time
from collections.abc import Iterator
from fractions import Fraction

from nerve_runtime import Frame, SourceError
from nerve_runtime.images import IMAGE_KINDS, decode_image, looks_like_image
from nerve_stream.sources.base import FrameSource
from nerve_stream.web.view import UInt8Array

UPLOAD_LIMIT_BYTES = 25_000_000
START_BYTES = 12
POLL_S = 0.1


class UploadedPictures(FrameSource):
    """The newest picture that was handed over, once, and again when the words change; ends when it is closed.

    State: the newest picture, and whether it is to be segmented.

    Args:
        name: of the source.
    """

    resting = True
    size_hw = (0, 0)

    def __init__(self, name: str) -> None:
        self.name = name
        self._changed = threading.Condition()
        self._rgb: UInt8Array | None = None
        self._due = self._closed = False
        self._index = 0

    @property
    def holds_picture(self) -> bool:
        """Whether one was handed over."""
        return self._rgb is not None

    def put(self, rgb: UInt8Array) -> None:
        """Hand over a picture, RGB uint8 (H, W, 3); one that was not segmented yet is replaced."""
        with self._changed:
            self.lost += self._due
            self._rgb, self._due = rgb, True
            self._changed.notify_all()

    def again(self) -> None:
        """Have the picture segmented once more, if there is one."""
        with self._changed:
            self._due = self._rgb is not None
            self._changed.notify_all()

    def read_frames(self) -> Iterator[Frame]:
        """Give pictures as they come; see FrameSource."""
        started_s = time.monotonic()
        while (rgb := self._next()) is not None:
            passed_s = Fraction(time.monotonic() - started_s).limit_denominator(1000)
            yield Frame(rgb, self._index, passed_s)
            self._index += 1

    def _next(self) -> UInt8Array | None:
        with self._changed:
            self._changed.wait_for(lambda: self._due or self._closed)
            self._due = False
            return None if self._closed else self._rgb

    def close(self) -> None:
        """End the source."""
        super().close()
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def decoded_upload(content: bytes) -> UInt8Array:
    """The pixels of an uploaded picture, RGB uint8 (H, W, 3); its size is checked before it is decoded.

    Raises:
        SourceError: it is no picture, is damaged, holds several, or has more than 50 megapixels.
    """
    if not looks_like_image(content[:START_BYTES]):
        raise SourceError(f"the file is no picture, expected {IMAGE_KINDS}; videos are named on the command line")
    return decode_image(content, "the picture")
