"""Where frames come from: video files, images, folders of images, cameras; always RGB uint8 in the frame's own size."""

import contextlib
import logging
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import av.error
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray

from nerve_runtime.errors import SourceError, UsageError
from nerve_runtime.image_header import image_size_hw, looks_like_image
from nerve_runtime.opencv import IMAGE_PIXELS_LIMIT, cv2

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
IMAGE_FILE_LIMIT_BYTES = 500_000_000
IMAGES_PER_SECOND = 25  # pictures of a folder carry no time; they are counted as frames of an ordinary video
FASTEST_FPS = 1000  # a header that declares more is not believed
CAMERA_OPEN_TIMEOUT_MS = 3000
CAMERA_READ_TIMEOUT_MS = 2000
# An allow-list: playlists name other files, and a live one makes opening wait for ever; even plain text has a demuxer.
# The last five hold sound only and are opened to say so.
READ_FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,av1,obu,ivf,mjpeg,flv,ogg,asf,mxf,dv,nut,yuv4mpegpipe,"
    "gif,apng,wav,mp3,flac,aac,aiff"
)
SNIFFED_BYTES = 16

UInt8Array = NDArray[np.uint8]
logger = logging.getLogger("nerve_runtime")


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture: `rgb` uint8 (H, W, 3), its number in the source from 0, its presentation time in seconds."""

    rgb: UInt8Array
    index: int
    time_s: Fraction


class FrameSource(ABC):
    """Frames in order, once; closes itself at the end and is a context manager.

    Attributes:
        name: the source in words, without its folder.
        count: number of frames the source declares, None if unknown; never trusted for more than a progress bar.
        fps: frames a second, None if unknown.
        size_hw: size of the first frame in pixels; later ones may differ.
    """

    name: str
    count: int | None = None
    fps: Fraction | None = None
    size_hw: tuple[int, int]
    _started = False

    def __iter__(self) -> Iterator[Frame]:
        """Iterate over the frames.

        Raises:
            UsageError: the source was read or closed already.
            SourceError: the source broke off; raised after the frames that could be read.
        """
        if self._started:
            raise UsageError(f"source {self.name} was read or closed already; open it again")
        self._started = True
        return self._frames_then_close()

    def _frames_then_close(self) -> Iterator[Frame]:
        with contextlib.closing(self):
            yield from self._frames()

    @abstractmethod
    def _frames(self) -> Iterator[Frame]: ...

    def close(self) -> None:
        """Release the file or device; closing twice is fine."""
        self._started = True

    def __enter__(self) -> "FrameSource":
        """Return the source itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the source."""
        self.close()


def open_frames(source: str | Path | int, *, allow_partial: bool = False) -> FrameSource:
    """Open a video file, an image, a folder of images or a camera.

    Args:
        source: a path, or a camera's number.
        allow_partial: go on with a warning when frames are missing or damaged, instead of a SourceError at the end.

    Raises:
        SourceError: it does not exist, holds no pictures, or is larger than 50 megapixels.
    """
    try:
        return _opened(source, allow_partial=allow_partial)
    except OSError as error:
        raise SourceError(
            f"source {source} cannot be read: {error.strerror or error}; check its path and rights"
        ) from error


def _opened(source: str | Path | int, *, allow_partial: bool) -> FrameSource:
    text = str(source)
    if "://" in text:
        scheme = text.partition("://")[0]
        raise SourceError(f"source {scheme}://... is a live stream, which this version cannot read yet; give a file")
    path = Path(source) if not isinstance(source, int) else None
    if path is None or (text.isdecimal() and not path.exists()):
        return _Camera(int(text))
    if not path.exists():
        raise SourceError(
            f"source {path} does not exist; expected a video, an image, a folder of images or a camera number"
        )
    if path.is_dir():
        return _Images(path.name or "folder", _images_of(path), allow_partial=allow_partial)
    if not path.is_file():
        raise SourceError(f"source {path} is a device or pipe, expected a plain file; for a camera give its number")
    if path.stat().st_size == 0:
        raise SourceError(f"source {path} is empty (0 bytes); copy it again")
    with path.open("rb") as stream:
        if looks_like_image(stream.read(SNIFFED_BYTES)):
            return _Images(path.name, [path], allow_partial=False)
    return _VideoFile(path, allow_partial=allow_partial)


def read_image(path: Path) -> UInt8Array:
    """Decode an image file to RGB uint8 (H, W, 3), upright; its size is checked before anything is decoded.

    Raises:
        SourceError: it is no PNG, JPEG, BMP or WebP image, is damaged, or has more than 50 megapixels.
    """
    try:
        if path.stat().st_size > IMAGE_FILE_LIMIT_BYTES:
            raise SourceError(f"image {path} is {path.stat().st_size} bytes, expected at most {IMAGE_FILE_LIMIT_BYTES}")
        content = path.read_bytes()
    except OSError as error:
        raise SourceError(f"image {path} cannot be read: {error.strerror or error}; check its rights") from error
    size_hw = image_size_hw(content)
    if size_hw is None:
        raise SourceError(f"image {path} is no PNG, JPEG, BMP or WebP image, or is cut off in its header")
    _refuse_too_large(f"image {path}", size_hw)
    try:
        bgr = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise SourceError(f"image {path} cannot be decoded: {error.err}") from error
    if bgr is None:
        raise SourceError(f"image {path} cannot be decoded, its data are damaged; copy it again")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def resize_frame(rgb: UInt8Array, size_hw: tuple[int, int]) -> UInt8Array:
    """Stretch a picture (H, W, 3) to `size_hw` pixels: by area where it shrinks, linearly where it grows."""
    height, width = size_hw
    # INTER_AREA is only an average when it shrinks, so an axis that shrinks and one that grows are done in turn.
    shrunk_hw = (min(rgb.shape[0], height), min(rgb.shape[1], width))
    if shrunk_hw != rgb.shape[:2]:
        rgb = np.asarray(cv2.resize(rgb, shrunk_hw[::-1], interpolation=cv2.INTER_AREA), dtype=np.uint8)
    if shrunk_hw != size_hw:
        rgb = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    return rgb


def _refuse_too_large(where: str, size_hw: tuple[int, int]) -> None:
    if size_hw[0] * size_hw[1] > IMAGE_PIXELS_LIMIT:
        raise SourceError(
            f"{where} is {size_hw[1]} x {size_hw[0]} pixels, expected at most {IMAGE_PIXELS_LIMIT} in all; make it smaller"
        )


def _images_of(folder: Path) -> list[Path]:
    paths = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    if not paths:
        raise SourceError(
            f"folder {folder} holds no image, expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return sorted(paths, key=_natural_order)


def _natural_order(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sort key that puts frame_2 before frame_10."""
    parts = re.split(r"(\d+)", path.name.casefold())
    numbered = [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
    return numbered, path.name


class _Images(FrameSource):
    def __init__(self, name: str, paths: list[Path], *, allow_partial: bool) -> None:
        self.name = name
        self.count = len(paths)
        self.fps = Fraction(IMAGES_PER_SECOND)
        self._paths = paths
        self._allow_partial = allow_partial
        self._pictures = self._readable()
        first = next(self._pictures, None)
        if first is None:
            raise SourceError(f"source {name} holds no image that can be decoded, of {len(paths)}")
        self._first = first
        self.size_hw = (first.shape[0], first.shape[1])

    def _readable(self) -> Iterator[UInt8Array]:
        for path in self._paths:
            try:
                rgb = read_image(path)
            except SourceError as error:
                if not self._allow_partial:
                    raise
                logger.warning("skipped: %s", error)
                continue
            yield rgb

    def _frames(self) -> Iterator[Frame]:
        yield Frame(self._first, 0, Fraction(0))
        for index, rgb in enumerate(self._pictures, start=1):
            yield Frame(rgb, index, Fraction(index, IMAGES_PER_SECOND))


class _VideoFile(FrameSource):
    """A video file through PyAV: true timestamps, each frame in its own size, turned upright.

    Not OpenCV: that rescales in silence after a change of size and reports no decoding errors.
    """

    def __init__(self, path: Path, *, allow_partial: bool) -> None:
        self.name = path.name
        self._allow_partial = allow_partial
        self._damaged_packets = self._discarded_packets = self._decoded_frames = 0
        options = {"protocol_whitelist": "file", "format_whitelist": READ_FORMATS}
        try:
            self._container = av.open(f"file:{path}", options=options)
        except av.error.ArgumentError as error:
            raise SourceError(
                f"source {path} is a text, a playlist or another kind that is not read, expected a video"
            ) from error
        except (av.error.FFmpegError, ValueError) as error:
            raise SourceError(f"source {path} is no video that can be read, or is cut off: {error}") from error
        try:
            self._first = self._begun(path)
        except BaseException:
            self._container.close()
            raise
        self.size_hw = (self._first.rgb.shape[0], self._first.rgb.shape[1])

    def _begun(self, path: Path) -> Frame:
        """Find the pictures and decode the first, so that a useless source is refused before any output is made."""
        self._stream = self._picture_stream(path)
        rate = self._stream.average_rate
        self.fps = rate if rate is not None and 0 < rate <= FASTEST_FPS else None
        self.count = self._stream.frames if self._stream.frames > 0 else None
        self._pictures = self._decoded()
        first = next(self._pictures, None)
        if first is None:
            raise SourceError(f"source {path} is damaged: 0 frames decoded of {self.count or 'an unknown number'}")
        return first

    def _picture_stream(self, path: Path) -> Any:
        streams = [
            stream for stream in self._container.streams.video if not stream.disposition & Disposition.attached_pic
        ]
        if not self._container.streams:
            raise SourceError(f"source {path} is no video that can be read, or is cut off: it holds no stream")
        if not streams:
            raise SourceError(f"source {path} holds no moving picture ({len(self._container.streams)} other streams)")
        stream = streams[0]
        _refuse_too_large(f"source {path}", (stream.height, stream.width))
        stream.thread_type = "AUTO"
        return stream

    def _decoded(self) -> Iterator[Frame]:
        time_s = Fraction(0)
        for picture in self._decoded_pictures():
            _refuse_too_large(f"frame {self._decoded_frames} of {self.name}", (picture.height, picture.width))
            if picture.pts is not None and picture.time_base:
                time_s = picture.pts * picture.time_base
            elif self._decoded_frames:
                time_s += 1 / (self.fps or Fraction(IMAGES_PER_SECOND))
            yield Frame(_upright(picture), self._decoded_frames, time_s)
            self._decoded_frames += 1

    def _decoded_pictures(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                self._discarded_packets += packet.is_discard
                pictures = packet.decode()
            except (av.error.InvalidDataError, av.error.ExternalError, av.error.BufferTooSmallError) as error:
                if not self._damaged_packets:
                    logger.warning("source %s is damaged near frame %d: %s", self.name, self._decoded_frames, error)
                self._damaged_packets += 1
                continue
            yield from pictures

    def _frames(self) -> Iterator[Frame]:
        yield self._first
        yield from self._pictures
        self._report_missing()

    def _report_missing(self) -> None:
        # An edit list makes a player drop frames that the header counts; that is no damage.
        missing = max(0, (self.count or 0) - self._decoded_frames - self._discarded_packets)
        if not missing and not self._damaged_packets:
            return
        message = (
            f"source {self.name} is damaged: {self._decoded_frames} frames decoded, {self.count or 'unknown'} declared, "
            f"{self._damaged_packets} packets could not be decoded"
        )
        if not self._allow_partial:
            raise SourceError(f"{message}; use --allow-partial to keep what there is")
        logger.warning(message)

    def close(self) -> None:
        super().close()
        self._container.close()


def _upright(picture: Any) -> UInt8Array:
    """RGB pixels turned as the file's display matrix asks; its angle counts counter-clockwise, as np.rot90's does."""
    rgb = picture.to_ndarray(format="rgb24")
    quarter_turns = round(picture.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(rgb, quarter_turns))


class _Camera(FrameSource):
    def __init__(self, number: int) -> None:
        self.name = f"camera {number}"
        self._capture = cv2.VideoCapture(number)
        # Without these a frozen camera holds a read for 30 s. Drivers without timeouts ignore them.
        self._capture.set(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, CAMERA_OPEN_TIMEOUT_MS)
        self._capture.set(cv2.CAP_PROP_READ_TIMEOUT_MSEC, CAMERA_READ_TIMEOUT_MS)
        if not self._capture.isOpened():
            raise SourceError(f"{self.name} cannot be opened; check that it is plugged in and not in use")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = Fraction(fps).limit_denominator(1001) if 0 < fps <= FASTEST_FPS else None
        try:
            self._first = self._read()
        except SourceError:
            self.close()
            raise
        self.size_hw = self._first.shape[:2]

    def _read(self) -> UInt8Array:
        arrived, bgr = self._capture.read()
        if not arrived:
            raise SourceError(f"{self.name} gives no more frames; check its cable and open it again")
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    def _frames(self) -> Iterator[Frame]:
        started_ns = time.monotonic_ns()
        yield Frame(self._first, 0, Fraction(0))
        index = 0
        while True:
            rgb = self._read()
            index += 1
            yield Frame(rgb, index, Fraction(time.monotonic_ns() - started_ns, 1_000_000_000))

    def close(self) -> None:
        super().close()
        self._capture.release()
