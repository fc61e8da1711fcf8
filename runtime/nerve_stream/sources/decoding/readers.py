"""Streams and cameras as a decoder process reads them: frame after frame, each with the moment of its arrival."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import av.error
import av.logging
import numpy as np
from numpy.typing import NDArray

from nerve_runtime import SourceError
from nerve_stream.sources.decoding.inputs import CameraInput, LiveInput, StreamInput
from nerve_stream.sources.pictures import FASTEST_FPS, RgbConverter, Timestamps, declared_fps, picture_stream

# These carry no times; what FFmpeg gives instead is counted at a rate it assumes.
FORMATS_WITHOUT_CLOCK = frozenset({"mpjpeg", "mjpeg", "h264", "hevc", "m4v", "mpegvideo", "obu"})
MILLISECONDS = 1000


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A decoded frame that is not RGB yet.

    Attributes:
        to_rgb: makes it uint8 (H, W, 3).
        index: its number since the source was opened, from 0.
        arrived_ns: when it was decoded, by the monotonic clock.
        time_s: its time by the source's own clock, None if that has none.
    """

    to_rgb: Callable[[], NDArray[np.uint8]]
    index: int
    arrived_ns: int
    time_s: Fraction | None


class LiveReader(ABC):
    """An open live source.

    Attributes:
        fps: frames a second as declared, None if unknown.
        recorded: a file behind a URL: it can be read at any pace and has an end.
    """

    fps: Fraction | None
    recorded: bool = False

    @abstractmethod
    def frames(self) -> Iterator[DecodedFrame]:
        """Frames as they come; ends only where a recording ends.

        Raises:
            SourceError: it broke off.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the connection or the device."""


def open_reader(live_input: LiveInput) -> LiveReader:
    """Open a stream or a camera.

    Raises:
        SourceError: it does not answer or holds no frames.
    """
    return CameraReader(live_input) if isinstance(live_input, CameraInput) else StreamReader(live_input)


class StreamReader(LiveReader):
    """A URL through PyAV."""

    def __init__(self, live_input: StreamInput) -> None:
        self._name, self._read_timeout_s = live_input.name, live_input.read_timeout_s
        av.logging.set_level(None)  # FFmpeg's messages hold whole URLs
        timeout_s = (live_input.open_timeout_s, live_input.read_timeout_s)
        try:
            self._container = av.open(live_input.url, options=live_input.options, timeout=timeout_s)
        except (av.error.FFmpegError, ValueError) as error:
            raise SourceError(f"source {self._name} {_reason(error, live_input.open_timeout_s)}") from error
        self._stream = picture_stream(self._container, f"source {self._name}")
        # Threads that each decode a frame would hold back as many frames as there are threads.
        self._stream.thread_type = "SLICE"
        self.fps = declared_fps(self._stream)
        kinds = set(self._container.format.name.split(","))
        self._has_clock = not kinds & FORMATS_WITHOUT_CLOCK
        has_end = self._container.duration is not None or self._container.size > 0
        # Cameras declare any length for their endless multipart answer.
        self.recorded = live_input.url.startswith(("http://", "https://")) and has_end and "mpjpeg" not in kinds

    def frames(self) -> Iterator[DecodedFrame]:
        """Frames as they come; see LiveReader."""
        index, times, rgb_converter = 0, Timestamps(), RgbConverter()
        packets = self._container.demux(self._stream)
        while True:
            asked_at_s = time.monotonic()
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                raise SourceError(f"source {self._name} {_reason(error, self._read_timeout_s)}") from error
            if packet is None:
                break
            for picture in _decoded(packet):
                arrived_ns = time.monotonic_ns()
                time_s = times.time_s(picture) if self._has_clock else None
                yield DecodedFrame(
                    _converter(rgb_converter, picture, f"frame {index} of {self._name}"), index, arrived_ns, time_s
                )
                index += 1
            # FFmpeg answers a timeout with the last picture that it still held, and would wait once more.
            if time.monotonic() - asked_at_s >= self._read_timeout_s:
                raise SourceError(f"source {self._name} {_no_answer(self._read_timeout_s)}")
        if not self.recorded:
            raise SourceError(f"source {self._name} ended: the other side closed the stream")

    def close(self) -> None:
        """Close the connection; RTSP tells the camera."""
        self._container.close()


def _decoded(packet: Any) -> list[Any]:
    try:
        return list(packet.decode())
    except av.error.FFmpegError:
        return []  # damaged on its way; a live stream mends itself at the next keyframe, and the parent watches the rest


def _converter(rgb_converter: RgbConverter, picture: Any, where: str) -> Callable[[], NDArray[np.uint8]]:
    return lambda: rgb_converter.rgb(picture, where)


def _no_answer(timeout_s: float) -> str:
    return f"does not answer: nothing came for {timeout_s:g} s; check the network and that it is switched on"


def _reason(error: Exception, timeout_s: float) -> str:
    """What went wrong, in words without the URL that FFmpeg's own message holds."""
    if isinstance(error, av.error.ExitError):
        return _no_answer(timeout_s)
    if isinstance(error, av.error.ProtocolNotFoundError):
        return (
            "cannot be opened: this build of FFmpeg does not know its protocol, or a redirect leads to a forbidden one"
        )
    if isinstance(error, av.error.ArgumentError):
        return "is refused: it is a playlist, or of a kind that is not read, or redirects to what may not be read"
    if isinstance(error, av.error.HTTPUnauthorizedError):
        return "wants another user name and password; give them as scheme://user:password@host/path"
    if isinstance(error, av.error.FFmpegError):
        return f"cannot be read: {error.strerror}; check its address and that it is switched on"
    return "cannot be read: its address makes no sense to FFmpeg"


class CameraReader(LiveReader):
    """A camera of this machine through OpenCV."""

    def __init__(self, live_input: CameraInput) -> None:
        from nerve_runtime.opencv import cv2

        self._name, self._cv2 = live_input.name, cv2
        self._capture = cv2.VideoCapture(live_input.number)
        # Without these a frozen camera holds a read for 30 s. Drivers without timeouts ignore them.
        self._capture.set(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(live_input.open_timeout_s * MILLISECONDS))
        self._capture.set(cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(live_input.read_timeout_s * MILLISECONDS))
        if not self._capture.isOpened():
            raise SourceError(f"{self._name} cannot be opened; check that it is plugged in and not in use")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = Fraction(fps).limit_denominator(1001) if 0 < fps <= FASTEST_FPS else None

    def frames(self) -> Iterator[DecodedFrame]:
        """Frames as they come, without end; see LiveReader."""
        index = 0
        while True:
            arrived, bgr = self._capture.read()
            if not arrived:
                raise SourceError(f"{self._name} gives no more frames; check its cable")
            yield DecodedFrame(self._converter(bgr), index, time.monotonic_ns(), None)
            index += 1

    def _converter(self, bgr: Any) -> Callable[[], NDArray[np.uint8]]:
        return lambda: np.ascontiguousarray(self._cv2.cvtColor(bgr, self._cv2.COLOR_BGR2RGB))

    def close(self) -> None:
        """Release the device."""
        self._capture.release()
