"""Masks as PNGs whose pixel values are labels: one grey channel, or a palette with the colours of the overlay."""

import re
import shutil
import struct
import tempfile
import zlib
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from nerve_runtime import FrameResult, UsageError
from nerve_runtime.atomic import link_target, refuse_special, resource_errors, write_bytes_whole
from nerve_runtime.opencv import cv2
from nerve_stream.drawing.colours import class_colours
from nerve_stream.sinks.base import Sink, UInt8Array

MASK_PATTERN = re.compile(r"frame_(\d{6,})\.png")
MaskFormat = Literal["labels", "palette"]
PARTIAL_MASKS = ".frame_*.tmp.png"
"""Temporary files of a killed run."""


def mask_name(index: int) -> str:
    """File name of the mask of a frame.

    >>> mask_name(12)
    'frame_000012.png'
    """
    return f"frame_{index:06d}.png"


class MaskFolder(Sink):
    """A folder of PNGs, one a frame: pixel values are labels, 255 is no label.

    Format "labels" has one channel of 8 bit, which every reader gives as it is. Format "palette" adds the colours of the
    overlay: image viewers show them, Pillow and NumPy still read labels, OpenCV gives colours (H, W, 3).

    Masks are written beside the folder and moved into it at the end. With `resume` each is moved at once and stays after
    an error; at the end masks that were neither written nor kept are removed.

    Args:
        path: the folder, made if needed.
        mask_format: "labels" or "palette", see above.
        force: replace the masks that are there.
        resume: continue in a folder that holds masks.
        keep: with `resume`, frame numbers whose masks of an earlier run are still valid.

    Raises:
        UsageError: the format is unknown, the folder is a file, or it holds masks and neither `force` nor `resume` is given.
    """

    kind = "masks"

    def __init__(
        self,
        path: Path,
        mask_format: MaskFormat = "labels",
        *,
        force: bool = False,
        resume: bool = False,
        keep: AbstractSet[int] = frozenset(),
    ) -> None:
        if mask_format not in get_args(MaskFormat):
            raise UsageError(f"mask format is {mask_format!r}, expected {' or '.join(get_args(MaskFormat))}")
        if path.exists() and not path.is_dir():
            raise UsageError(f"masks folder {path} is a file, expected a folder")
        refuse_special(path)
        if masks_in(path) and not (force or resume):
            raise UsageError(f"folder {path} holds masks already; choose another or add --force to replace them")
        self.path = path
        self._format = mask_format
        self._current = set(keep)
        self._temporary: Path | None = None
        with resource_errors(path):
            target = link_target(path)  # masks are moved, which works on one disk only
            if resume:
                target.mkdir(parents=True, exist_ok=True)
                for partial in path.glob(PARTIAL_MASKS):
                    partial.unlink(missing_ok=True)
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            self._temporary = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.", suffix=".tmp", dir=target.parent))

    def write(self, rgb: UInt8Array, result: FrameResult) -> None:
        """Write one mask; the frame itself is not used."""
        if self._format == "palette":
            content = indexed_png(result.labels, class_colours(result.class_names))
        else:
            content = label_png(result.labels)
        self._current.add(result.index)
        if self._temporary is None:
            write_bytes_whole(self.path / mask_name(result.index), content)
            return
        with resource_errors(self.path):
            (self._temporary / mask_name(result.index)).write_bytes(content)

    def commit(self) -> None:
        """Move all masks into the folder, after removing those of the earlier run."""
        with resource_errors(self.path):
            link_target(self.path).mkdir(parents=True, exist_ok=True)
            for index, stale in masks_in(self.path).items():
                if self._temporary is not None or index not in self._current:
                    stale.unlink()
            for mask in self._temporary.iterdir() if self._temporary is not None else ():
                mask.replace(self.path / mask.name)

    def abort(self) -> None:
        """Delete the temporary folder; masks written with `resume` stay for the next run."""
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)


def masks_in(folder: Path) -> dict[int, Path]:
    """The masks in a folder by the number of their frame; none if it does not exist."""
    if not folder.is_dir():
        return {}
    matches = ((MASK_PATTERN.fullmatch(path.name), path) for path in folder.iterdir())
    return {int(match[1]): path for match, path in matches if match}


def label_png(labels: UInt8Array) -> bytes:
    """A PNG of one grey channel whose levels are `labels`, uint8 (H, W)."""
    return cv2.imencode(".png", labels)[1].tobytes()


def indexed_png(labels: UInt8Array, colours: UInt8Array) -> bytes:
    """A PNG with a palette, which OpenCV cannot write: `labels` uint8 (H, W) are the pixels, `colours` uint8 (256, 3).

    Source: PNG specification, chunks IHDR (colour type 3), PLTE, IDAT, IEND.
    """
    height, width = labels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    rows = np.zeros((height, width + 1), dtype=np.uint8)  # each row starts with its filter: 0, none
    rows[:, 1:] = labels
    chunks = (
        (b"IHDR", header),
        (b"PLTE", colours.tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 6)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(name, content) for name, content in chunks)


def _png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
