"""H.264 video files of the frames with their labels over them."""

from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from nerve_runtime import FrameResult, UsageError
from nerve_runtime.atomic import move_into_place, refuse_existing, resource_errors, temporary_beside
from nerve_runtime.drawing import DEFAULT_STYLE, OverlayStyle, overlay
from nerve_runtime.opencv import cv2
from nerve_stream.sinks.base import FpsMeter, Sink, UInt8Array
from nerve_stream.sources.images import Picture

CONTAINERS = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov"}
H264_SIDE_PX = 16_384  # the encoder refuses a longer side, whatever the container
VIDEO_CLOCK_HZ = 90_000  # the usual clock of video containers; holds 24, 25, 29.97 and 60 fps without drift
VIDEO_FPS_IF_UNKNOWN = 25
# MP4 and MOV hold the steps between frames in 31 bits, 6.6 hours, and the encoder orders frames over a few steps. A
# camera that was away for a night comes back later than that, and headers declare a frame in eleven days.
LONGEST_STEP_S = 3600
# At 720p on one core 10 ms a frame, drawing not counted; superfast saves 1.5 ms and makes files 2.7 times as large.
VIDEO_OPTIONS = {"crf": "20", "preset": "veryfast"}
# With its macroblock tree libx264 165 encodes the same pictures in several ways: of 2000 encodings of one clip of 3 frames
# the most frequent one came 1133 times; without it all 8000 were equal. Files are 2 to 26 % larger.
REPRODUCIBLE_OPTIONS = {**VIDEO_OPTIONS, "mbtree": "0"}


class OverlayVideo(Sink):
    """H.264 video of the frames with their labels over them, at the source's own times.

    The picture has the size of the first frame, padded to even sides; a frame of another size is fitted into it. The
    status line shows the rate at which frames are written. No step from frame to frame is longer than an hour; of a longer
    gap the rest lies between the frames that follow. Memory does not grow with the video but for the container's index,
    which MP4 and MOV keep until the end: about 100 bytes a frame, 9 MB an hour at 25 fps.

    Args:
        path: ends in .mp4, .mkv or .mov.
        size_hw: of the first frame, (0, 0) if unknown.
        fps: frames a second to declare, None if unknown.
        style: how labels are drawn.
        force: replace an existing file.
        reproducible: the same frames and labels give the same bytes: without the pace, encoded by one thread.

    Raises:
        UsageError: another suffix, the file exists, or H.264 has no pictures of this size.
    """

    kind = "overlay"

    def __init__(
        self,
        path: Path,
        size_hw: tuple[int, int] = (0, 0),
        *,
        fps: Fraction | None,
        style: OverlayStyle = DEFAULT_STYLE,
        force: bool = False,
        reproducible: bool = False,
    ) -> None:
        if path.suffix.lower() not in CONTAINERS:
            raise UsageError(f"overlay {path} ends in {path.suffix!r}, expected one of {', '.join(CONTAINERS)}")
        refuse_size(f"overlay {path}", size_hw)
        refuse_existing(path, force=force)
        self.path = path
        self._fps = max(fps or Fraction(VIDEO_FPS_IF_UNKNOWN), Fraction(1, LONGEST_STEP_S))
        self._style = style
        self._fps_meter = None if reproducible else FpsMeter()
        self._temporary = temporary_beside(path)
        self._container: Any = None
        self._stream: Any = None
        self._last_tick = -1
        self._first_time_s = Fraction(0)

    def write(self, rgb: UInt8Array, result: FrameResult, picture: Picture | None = None) -> None:
        """Draw and encode one frame."""
        drawn = self._drawn(rgb, result)
        time_s = result.time_s if result.time_s is not None else result.index / self._fps
        with resource_errors(self.path):
            if self._container is None:
                self._open(drawn.shape[0], drawn.shape[1], time_s)
            frame = av.VideoFrame.from_ndarray(fit_to_canvas(drawn, (self._stream.height, self._stream.width)), "rgb24")
            tick = round((time_s - self._first_time_s) * VIDEO_CLOCK_HZ)
            # Encoders refuse a time that does not grow, containers one that leaps.
            self._last_tick = min(max(tick, self._last_tick + 1), self._last_tick + LONGEST_STEP_S * VIDEO_CLOCK_HZ)
            frame.pts, frame.time_base = self._last_tick, Fraction(1, VIDEO_CLOCK_HZ)
            self._container.mux(self._stream.encode(frame))

    def _drawn(self, rgb: UInt8Array, result: FrameResult) -> UInt8Array:
        if self._fps_meter is None:
            return overlay(rgb, replace(result, timings_ms={}), self._style)
        return overlay(rgb, result, self._style, fps=self._fps_meter.count_frame())

    def _open(self, height: int, width: int, time_s: Fraction) -> None:
        refuse_size(f"overlay {self.path}", (height, width))
        self._container = av.open(str(self._temporary), "w", format=CONTAINERS[self.path.suffix.lower()])
        options = VIDEO_OPTIONS if self._fps_meter is not None else REPRODUCIBLE_OPTIONS
        self._stream = self._container.add_stream("libx264", rate=self._fps, options=dict(options))
        self._stream.pix_fmt = "yuv420p"
        self._stream.height, self._stream.width = height + height % 2, width + width % 2
        self._stream.codec_context.time_base = Fraction(1, VIDEO_CLOCK_HZ)
        if self._fps_meter is None:  # H.264 that several threads encoded depends on their number
            self._stream.codec_context.thread_count = 1
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
            # A full disk refuses the trailer too; the file is deleted below.
            with suppress(OSError):
                self._container.close()
            self._container = None
        self._temporary.unlink(missing_ok=True)


def refuse_size(where: str, size_hw: tuple[int, int]) -> None:
    """Refuse pictures that the encoder cannot make, before anything is computed for them.

    Args:
        where: the video in words, for the message.
        size_hw: of its pictures in pixels.

    Raises:
        UsageError: a side is longer than H.264 allows.
    """
    if max(size_hw) > H264_SIDE_PX:
        raise UsageError(
            f"{where} would have {size_hw[1]} x {size_hw[0]} pixels, H.264 takes at most {H264_SIDE_PX} a side; "
            "write --masks or --jsonl instead, or make the source smaller"
        )


def fit_to_canvas(picture: UInt8Array, canvas_hw: tuple[int, int]) -> UInt8Array:
    """The picture on a canvas of a fixed size: as it is if it fits to within a pixel, else scaled, with black borders."""
    height, width = picture.shape[:2]
    missing_hw = canvas_hw[0] - height, canvas_hw[1] - width
    if missing_hw == (0, 0):
        return picture
    if not all(0 <= missing <= 1 for missing in missing_hw):
        scale = min(canvas_hw[0] / height, canvas_hw[1] / width)
        size_hw = max(1, int(height * scale)), max(1, int(width * scale))
        picture = np.asarray(cv2.resize(picture, size_hw[::-1], interpolation=cv2.INTER_AREA), dtype=np.uint8)
        missing_hw = canvas_hw[0] - size_hw[0], canvas_hw[1] - size_hw[1]
        return np.pad(picture, ((0, missing_hw[0]), (0, missing_hw[1]), (0, 0)))
    return np.pad(picture, ((0, missing_hw[0]), (0, missing_hw[1]), (0, 0)), mode="edge")
