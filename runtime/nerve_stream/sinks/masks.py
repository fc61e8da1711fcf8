"""Masks as PNGs whose pixel values are labels: one grey channel, or a palette with the colours of the overlay."""

import json
import re
import struct
import zlib
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from nerve_runtime import FrameResult, Labels, UsageError, label_dtype
from nerve_runtime.atomic import link_target, refuse_existing, resource_errors, write_bytes_whole
from nerve_runtime.drawing import class_colours
from nerve_runtime.opencv import cv2
from nerve_stream.sinks.base import NewFiles, Sink, UInt8Array, refuse_filled_folder
from nerve_stream.sources.images import Picture

MASK_PATTERN = re.compile(r"frame_(\d{6,})\.png")
MaskFormat = Literal["labels", "palette"]
CLASSES_FILE = "classes.json"
PARTIAL_MASKS = ".*.????????.tmp.*"
"""Temporary files of a killed run."""


def mask_name(index: int, picture: Picture | None = None) -> str:
    """File name of the mask of a frame, which may be an image file of its own.

    >>> mask_name(12)
    'frame_000012.png'
    """
    return f"frame_{index:06d}.png" if picture is None else f"{picture.stem}.png"


class MaskFolder(Sink):
    """A folder of PNGs, one a frame: pixel values are labels; `classes.json` says what they mean.

    PNGs have 8 bit and 255 is no label; beyond 254 classes they have 16 bit and it is 65535.

    A frame that is an image file gives a mask of the file's own name, one of a video `frame_000012.png`.

    Format "labels" has one channel, which every reader gives as it is. Format "palette", for up to 254 classes, adds the
    colours of the overlay: image viewers show them, Pillow and NumPy still read labels, OpenCV gives colours (H, W, 3).

    Masks are written beside the folder and moved into it at the end; masks of video frames that an earlier run left there
    are removed then. With `resume` each is moved at once and stays after an error.

    Args:
        path: the folder, made if needed.
        mask_format: "labels" or "palette", see above.
        force: replace the masks that are there.
        resume: continue in a folder that holds masks.

    Raises:
        UsageError: the format is unknown, the folder is a file, or it holds PNG files and neither `force` nor `resume` is
            given.
    """

    kind = "masks"

    def __init__(
        self, path: Path, mask_format: MaskFormat = "labels", *, force: bool = False, resume: bool = False
    ) -> None:
        refuse_mask_format(mask_format)
        refuse_mask_folder(path, force=force or resume)
        self.path = path
        self._format = mask_format
        self._video_frames: set[int] = set()
        self._class_names: tuple[str, ...] = ()
        self._new = None if resume else NewFiles(path)
        if resume:
            with resource_errors(path):
                link_target(path).mkdir(parents=True, exist_ok=True)
                for partial in path.glob(PARTIAL_MASKS):
                    partial.unlink(missing_ok=True)

    def write(self, rgb: UInt8Array, result: FrameResult, picture: Picture | None = None) -> None:
        """Write one mask; the frame itself is not used."""
        if picture is None:
            self._video_frames.add(result.index)
        self._write_file(mask_name(result.index, picture), mask_png(result, self._format))
        if result.class_names != self._class_names:
            self._class_names = result.class_names
            self._write_file(CLASSES_FILE, classes_json(result.class_names))

    def _write_file(self, name: str, content: bytes) -> None:
        if self._new is None:
            write_bytes_whole(self.path / name, content)
        else:
            self._new.write(name, content)

    def commit(self) -> None:
        """Move all masks into the folder, after removing those of video frames of the earlier run."""
        with resource_errors(self.path):
            for index, stale in masks_in(self.path).items():
                # Pictures may be called frame_000012 too; of those, --resume keeps what an earlier run has finished.
                if self._new is not None or (self._video_frames and index not in self._video_frames):
                    stale.unlink()
        if self._new is not None:
            self._new.move()

    def abort(self) -> None:
        """Delete what was not moved; masks written with `resume` stay for the next run."""
        if self._new is not None:
            self._new.delete()


class MaskFile(Sink):
    """The mask of one picture as one PNG file.

    Args:
        path: ends in .png.
        mask_format: "labels" or "palette", as of `MaskFolder`.
        classes: write `classes.json` beside it, as in a folder of masks.
        force: replace an existing file.

    Raises:
        UsageError: the format is unknown, or the file exists and `force` is false.
    """

    kind = "masks"

    def __init__(
        self, path: Path, mask_format: MaskFormat = "labels", *, classes: bool = False, force: bool = False
    ) -> None:
        refuse_mask_format(mask_format)
        refuse_existing(path, force=force)
        self.path, self._format, self._with_classes = path, mask_format, classes
        self._class_names: tuple[str, ...] = ()
        self._content: bytes | None = None

    def write(self, rgb: UInt8Array, result: FrameResult, picture: Picture | None = None) -> None:
        """Keep the mask until the commit; the frame itself is not used."""
        self._content, self._class_names = mask_png(result, self._format), result.class_names

    def commit(self) -> None:
        """Write the file, or both."""
        if self._content is not None:
            write_bytes_whole(self.path, self._content)
            if self._with_classes:
                write_bytes_whole(self.path.with_name(CLASSES_FILE), classes_json(self._class_names))

    def abort(self) -> None:
        """Nothing was written."""


def refuse_mask_format(mask_format: str) -> None:
    """Refuse a format of masks that there is not.

    Raises:
        UsageError: it is neither "labels" nor "palette".
    """
    if mask_format not in get_args(MaskFormat):
        raise UsageError(f"mask format is {mask_format!r}, expected {' or '.join(get_args(MaskFormat))}")


def refuse_mask_classes(mask_format: MaskFormat, classes: int) -> None:
    """Refuse a format of masks that cannot number so many classes.

    Raises:
        UsageError: the format is "palette" and there are more than 254 classes.
    """
    if mask_format == "palette" and label_dtype(classes) != np.uint8:
        raise UsageError(
            f"masks with a palette have 256 colours at most and there are {classes} classes; leave out "
            "--mask-format palette (mask_format in Python): masks of labels then have 16 bit"
        )


def refuse_mask_folder(path: Path, *, force: bool) -> None:
    """Refuse a folder that masks and their `classes.json` cannot be written to.

    Raises:
        UsageError: `path` is no folder, or it holds PNG files or a `classes.json` and `force` is false.
    """
    refuse_filled_folder("masks", path, force=force)
    refuse_existing(path / CLASSES_FILE, force=force)


def masks_in(folder: Path) -> dict[int, Path]:
    """The masks in a folder by the number of their frame; none if it does not exist."""
    if not folder.is_dir():
        return {}
    matches = ((MASK_PATTERN.fullmatch(path.name), path) for path in folder.iterdir())
    return {int(match[1]): path for match, path in matches if match}


def mask_png(result: FrameResult, mask_format: MaskFormat) -> bytes:
    """The labels of a frame as a PNG of that format.

    Raises:
        UsageError: there are too many classes for a palette.
    """
    refuse_mask_classes(mask_format, len(result.class_names))
    if mask_format == "palette":
        return indexed_png(result.labels, class_colours(result.class_names))
    return label_png(result.labels)


def classes_json(class_names: tuple[str, ...]) -> bytes:
    """What the labels of masks mean: a JSON list of `{"label", "name", "color"}`, the colour as in "#1f77b4"."""
    colours = class_colours(class_names)
    classes = [
        {"label": label, "name": name, "color": f"#{bytes(colours[label]).hex()}"}
        for label, name in enumerate(class_names)
    ]
    return (json.dumps(classes, indent=1, ensure_ascii=False) + "\n").encode()


def label_png(labels: Labels) -> bytes:
    """A PNG of one grey channel whose levels are `labels`, (H, W): of 8 bit for uint8, of 16 bit for uint16."""
    return cv2.imencode(".png", labels)[1].tobytes()


def indexed_png(labels: Labels, colours: UInt8Array) -> bytes:
    """A PNG with a palette, which OpenCV cannot write: `labels` uint8 (H, W) are the pixels, `colours` uint8 (256, 3).

    Raises:
        UsageError: the labels are not uint8.

    Source: PNG specification, chunks IHDR (colour type 3), PLTE, IDAT, IEND.
    """
    if labels.dtype != np.uint8:
        raise UsageError(f"a palette has 256 colours at most, the labels are {labels.dtype}, expected uint8")
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
