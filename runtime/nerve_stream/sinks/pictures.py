"""Overlays of pictures as pictures: one file, or a folder of files with the pictures' own names."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from nerve_runtime import FrameResult, UsageError
from nerve_runtime.atomic import refuse_existing, write_bytes_whole
from nerve_runtime.drawing import DEFAULT_STYLE, OverlayStyle, overlay, with_legend
from nerve_runtime.opencv import cv2
from nerve_stream.sinks.base import NewFiles, Sink, UInt8Array, refuse_filled_folder
from nerve_stream.sinks.masks import mask_name
from nerve_stream.sources.images import Picture

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class OverlayPicture(Sink):
    """The overlay of one picture as an image file.

    Args:
        path: ends in .png, .jpg, .jpeg or .webp.
        style: how labels are drawn.
        force: replace an existing file.

    Raises:
        UsageError: another suffix, or the file exists.
    """

    kind = "overlay"

    def __init__(self, path: Path, *, style: OverlayStyle = DEFAULT_STYLE, force: bool = False) -> None:
        refuse_overlay_picture(path, force=force)
        self.path, self._style = path, style
        self._content: bytes | None = None

    def write(self, rgb: UInt8Array, result: FrameResult, picture: Picture | None = None) -> None:
        """Draw and keep the picture until the commit."""
        self._content = encoded(drawn_still(rgb, result, self._style), self.path.suffix)

    def commit(self) -> None:
        """Write the file."""
        if self._content is not None:
            write_bytes_whole(self.path, self._content)

    def abort(self) -> None:
        """Nothing was written."""


class OverlayFolder(Sink):
    """A folder of overlays, one PNG a picture, of the picture's own name.

    They are written beside the folder and moved into it at the end.

    Args:
        path: the folder, made if needed.
        style: how labels are drawn.
        force: replace overlays that are there.

    Raises:
        UsageError: the folder is a file, or it holds PNG files and `force` is false.
    """

    kind = "overlay"

    def __init__(self, path: Path, *, style: OverlayStyle = DEFAULT_STYLE, force: bool = False) -> None:
        refuse_filled_folder("overlays", path, force=force)
        self.path, self._style = path, style
        self._new = NewFiles(path)

    def write(self, rgb: UInt8Array, result: FrameResult, picture: Picture | None = None) -> None:
        """Draw and encode one picture."""
        self._new.write(mask_name(result.index, picture), encoded(drawn_still(rgb, result, self._style), ".png"))

    def commit(self) -> None:
        """Move all pictures into the folder."""
        self._new.move()

    def abort(self) -> None:
        """Delete what was not moved."""
        self._new.delete()


def refuse_overlay_picture(path: Path, *, force: bool) -> None:
    """Refuse a file that the overlay of a picture cannot be written to.

    Raises:
        UsageError: its suffix is of no picture, or it exists and `force` is false.
    """
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise UsageError(f"overlay {path} ends in {path.suffix!r}, expected one of {', '.join(PICTURE_SUFFIXES)}")
    refuse_existing(path, force=force)


def drawn_still(rgb: UInt8Array, result: FrameResult, style: OverlayStyle) -> UInt8Array:
    """The overlay of a still picture: without a status line, the legend on a strip beside it; uint8 (H, wider, 3)."""
    drawn = overlay(rgb, result, replace(style, legend=False, status=False))
    return with_legend(drawn, result) if style.legend else drawn


def encoded(rgb: UInt8Array, suffix: str) -> bytes:
    """RGB uint8 (H, W, 3) as the file of an image with that suffix.

    Raises:
        UsageError: this kind of file holds no picture of this size.
    """
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    try:
        done, content = cv2.imencode(suffix.lower(), bgr)
    except cv2.error:
        done = False
    if not done:
        height, width = rgb.shape[:2]
        raise UsageError(f"a {suffix} file holds no picture of {width} x {height} pixels; name a .png file")
    return content.tobytes()
