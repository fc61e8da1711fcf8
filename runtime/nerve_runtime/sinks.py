"""Where results go: overlay video, palette PNG masks, JSON lines. Each appears whole at the end, or not at all."""

import json
import re
import shutil
import struct
import tempfile
import unicodedata
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from nerve_runtime.atomic import move_into_place, refuse_existing, resource_errors, temporary_beside
from nerve_runtime.errors import UsageError
from nerve_runtime.opencv import cv2
from nerve_runtime.overlay import PALETTE_LIMIT, overlay, palette
from nerve_runtime.result import FrameResult

UInt8Array = NDArray[np.uint8]

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov")
VIDEO_CLOCK_HZ = 90_000  # the usual clock of video containers; holds 24, 25, 29.97 and 60 fps without drift
VIDEO_FPS_IF_UNKNOWN = 25
VIDEO_OPTIONS = {"crf": "20", "preset": "veryfast"}
MASK_NAME = "frame_{index:06d}.png"
MASK_PATTERN = re.compile(r"frame_\d{6,}\.png")
SAFE_NAME_CHARACTERS = 100
RESERVED_NAMES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
)


class Sink(ABC):
    """Takes results one by one; `commit` puts the finished file in place, `abort` leaves nothing behind.

    As a context manager it commits at the end of the block and aborts when an error leaves it.
    """

    path: Path
    kind: str

    @abstractmethod
    def write(self, rgb: UInt8Array, result: FrameResult) -> None:
        """Take one frame, uint8 (H, W, 3), and its result.

        Raises:
            ResourceError: there is no space, or the place cannot be written.
        """

    @abstractmethod
    def commit(self) -> None:
        """Finish and rename to the final name."""

    @abstractmethod
    def abort(self) -> None:
        """Delete what was written so far; does nothing after a commit."""

    def __enter__(self) -> "Sink":
        """Return the sink itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit, or abort when an error is under way."""
        try:
            if kind is None:
                self.commit()
        finally:
            self.abort()


class OverlayVideo(Sink):
    """H.264 video of the frames with their labels over them, at the source's own times.

    The picture has the size of the first frame, padded to even sides; a frame of another size is fitted into it.

    Args:
        path: ends in .mp4, .mkv or .mov.
        fps: frames a second to declare, None if unknown.
        opacity: of the colours, 0 to 1.
        force: replace an existing file.

    Raises:
        UsageError: another suffix, an opacity outside 0 to 1, or the file exists.
    """

    kind = "overlay"

    def __init__(self, path: Path, *, fps: Fraction | None, opacity: float = 0.55, force: bool = False) -> None:
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            raise UsageError(f"overlay {path} ends in {path.suffix!r}, expected one of {', '.join(VIDEO_SUFFIXES)}")
        if not 0.0 <= opacity <= 1.0:
            raise UsageError(f"opacity is {opacity}, expected 0 to 1")
        refuse_existing(path, force=force)
        self.path = path
        self._fps = fps or Fraction(VIDEO_FPS_IF_UNKNOWN)
        self._opacity = opacity
        self._temporary = temporary_beside(path)
        self._container: Any = None
        self._stream: Any = None
        self._last_tick = -1
        self._first_time_s = Fraction(0)

    def write(self, rgb: UInt8Array, result: FrameResult) -> None:
        """Draw and encode one frame."""
        picture = overlay(rgb, result, opacity=self._opacity)
        time_s = result.time_s if result.time_s is not None else result.index / self._fps
        with resource_errors(self.path):
            if self._container is None:
                self._open(picture.shape[0], picture.shape[1], time_s)
            frame = av.VideoFrame.from_ndarray(_fitted(picture, (self._stream.height, self._stream.width)), "rgb24")
            tick = round((time_s - self._first_time_s) * VIDEO_CLOCK_HZ)
            self._last_tick = max(tick, self._last_tick + 1)  # encoders refuse a time that does not grow
            frame.pts, frame.time_base = self._last_tick, Fraction(1, VIDEO_CLOCK_HZ)
            self._container.mux(self._stream.encode(frame))

    def _open(self, height: int, width: int, time_s: Fraction) -> None:
        self._container = av.open(str(self._temporary), "w", format=_container_format(self.path))
        self._stream = self._container.add_stream("libx264", rate=self._fps, options=dict(VIDEO_OPTIONS))
        self._stream.pix_fmt = "yuv420p"
        self._stream.height, self._stream.width = height + height % 2, width + width % 2
        self._stream.codec_context.time_base = Fraction(1, VIDEO_CLOCK_HZ)
        self._first_time_s = time_s

    def commit(self) -> None:
        """Finish the video and rename it; a video of no frames is not written."""
        if self._container is None:
            return
        with resource_errors(self.path):
            self._container.mux(self._stream.encode())
            self._container.close()
        self._container = None
        move_into_place(self._temporary, self.path)

    def abort(self) -> None:
        """Delete the temporary file."""
        if self._container is not None:
            # The disk that made the run fail also refuses the trailer; the file is deleted below.
            with suppress(OSError):
                self._container.close()
            self._container = None
        self._temporary.unlink(missing_ok=True)


class MaskFolder(Sink):
    """A folder of palette PNGs, one a frame: pixel values are labels, 255 is no label.

    Raises:
        UsageError: the folder holds masks already and `force` is false, or it is a file.
    """

    kind = "masks"

    def __init__(self, path: Path, *, force: bool = False) -> None:
        if path.exists() and not path.is_dir():
            raise UsageError(f"masks folder {path} is a file, expected a folder")
        if _masks_in(path) and not force:
            raise UsageError(f"folder {path} holds masks already; choose another or add --force to replace them")
        self.path = path
        self._palette = palette(PALETTE_LIMIT)
        with resource_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}.", suffix=".tmp", dir=path.parent))

    def write(self, rgb: UInt8Array, result: FrameResult) -> None:
        """Write one mask; the frame itself is not used."""
        with resource_errors(self.path):
            name = MASK_NAME.format(index=result.index)
            (self._temporary / name).write_bytes(indexed_png(result.labels, self._palette))

    def commit(self) -> None:
        """Move all masks into the folder, after removing those of the run that is replaced."""
        with resource_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            for stale in _masks_in(self.path):
                stale.unlink()
            for mask in self._temporary.iterdir():
                mask.replace(self.path / mask.name)

    def abort(self) -> None:
        """Delete the temporary folder."""
        shutil.rmtree(self._temporary, ignore_errors=True)


class JsonLines(Sink):
    """One JSON object a line and frame: times, sizes, and the area of every class seen.

    Args:
        path: the file.
        rle: add each class's run-length encoding, `{"size": [H, W], "counts": [...]}` in COCO's uncompressed form:
            pixels in column order (down the first column, then the next), counts alternating from "not this class".
        force: replace an existing file.

    Raises:
        UsageError: the file exists and `force` is false.
    """

    kind = "jsonl"

    def __init__(self, path: Path, *, rle: bool = False, force: bool = False) -> None:
        refuse_existing(path, force=force)
        self.path = path
        self._rle = rle
        self._temporary = temporary_beside(path)
        self._stream = self._temporary.open("w", encoding="utf-8", newline="\n")

    def write(self, rgb: UInt8Array, result: FrameResult) -> None:
        """Write one line; the frame itself is not used."""
        line = json.dumps(result_record(result, rle=self._rle), allow_nan=False, ensure_ascii=False)
        with resource_errors(self.path):
            self._stream.write(f"{line}\n")

    def commit(self) -> None:
        """Close the file and rename it."""
        with resource_errors(self.path):
            self._stream.close()
        move_into_place(self._temporary, self.path)

    def abort(self) -> None:
        """Delete the temporary file."""
        # What could not be flushed belongs to the file that is deleted here.
        with suppress(OSError):
            self._stream.close()
        self._temporary.unlink(missing_ok=True)


def result_record(result: FrameResult, *, rle: bool = False) -> dict[str, Any]:
    """A result as plain numbers and words, for JSON; `mean_confidence` is 0 to 1, `share` is of the frame's pixels."""
    height, width = result.labels.shape
    return {
        "index": result.index,
        "time_s": None if result.time_s is None else float(result.time_s),
        "size_hw": [height, width],
        "keyframe": result.keyframe,
        "valid": result.valid,
        "classes": _class_records(result, rle=rle) if result.valid else [],
        "timings_ms": {stage: round(spent_ms, 3) for stage, spent_ms in result.timings_ms.items()},
    }


def _class_records(result: FrameResult, *, rle: bool) -> list[dict[str, Any]]:
    classes = len(result.class_names)
    pixels = np.bincount(result.labels.ravel(), minlength=classes)
    confidence = np.bincount(result.labels.ravel(), weights=result.confidence.ravel(), minlength=classes)
    records = []
    for label, name in enumerate(result.class_names):
        count = int(pixels[label])
        if not count:
            continue
        record: dict[str, Any] = {
            "label": label,
            "name": name,
            "pixels": count,
            "share": round(count / result.labels.size, 6),
            "mean_confidence": round(float(confidence[label]) / count / 255.0, 4),
        }
        if rle:
            record["rle"] = run_lengths(result.labels == label)
        records.append(record)
    return records


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, list[int]]:
    """COCO's uncompressed run lengths of a mask (H, W): column order, counts alternate, the first counts False.

    >>> run_lengths(np.array([[True, False], [True, True]]))
    {'size': [2, 2], 'counts': [0, 2, 1, 1]}
    """
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


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


def safe_name(text: str, taken: Mapping[str, Any] | None = None) -> str:
    """A file name without folder made from any text: letters, digits, `-`, `_` and `.` stay, the rest becomes `_`.

    Args:
        text: such as the name of a source.
        taken: names in use; a number is added to differ from them.
    """
    plain = unicodedata.normalize("NFC", text)
    name = re.sub(r"[^\w.-]+", "_", plain).strip("._")[:SAFE_NAME_CHARACTERS].rstrip("._") or "source"
    if name.partition(".")[0].casefold() in RESERVED_NAMES:
        name = f"_{name}"
    number, unique = 1, name
    while taken is not None and unique in taken:
        number += 1
        unique = f"{name}_{number}"
    return unique


def _masks_in(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if MASK_PATTERN.fullmatch(path.name)] if folder.is_dir() else []


def _container_format(path: Path) -> str:
    return {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov"}[path.suffix.lower()]


def _fitted(picture: UInt8Array, canvas_hw: tuple[int, int]) -> UInt8Array:
    """The picture on a canvas of a fixed size: as it is if it fits to within a pixel, else scaled, with black borders."""
    height, width = picture.shape[:2]
    short_hw = canvas_hw[0] - height, canvas_hw[1] - width
    if not all(0 <= short <= 1 for short in short_hw):
        scale = min(canvas_hw[0] / height, canvas_hw[1] / width)
        size_hw = max(1, int(height * scale)), max(1, int(width * scale))
        picture = np.asarray(cv2.resize(picture, size_hw[::-1], interpolation=cv2.INTER_AREA), dtype=np.uint8)
        short_hw = canvas_hw[0] - size_hw[0], canvas_hw[1] - size_hw[1]
        return np.pad(picture, ((0, short_hw[0]), (0, short_hw[1]), (0, 0)))
    return np.pad(picture, ((0, short_hw[0]), (0, short_hw[1]), (0, 0)), mode="edge")
