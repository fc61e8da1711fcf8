"""Video files through PyAV: true timestamps, each frame in its own size, turned upright, read from any time on.

Not OpenCV: that rescales in silence after a change of size and reports no decoding errors.
"""

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error

from nerve_runtime import Frame, ResourceError, SourceError
from nerve_stream.redaction import readable
from nerve_stream.sources.base import FrameSource
from nerve_stream.sources.options import Part
from nerve_stream.sources.pictures import (
    READ_FORMATS,
    UNKNOWN_FPS,
    RgbConverter,
    Timestamps,
    declared_fps,
    picture_stream,
)

# Seconds before the wanted time at which a keyframe is looked for, one after the other: containers find keyframes by
# decoding time, and the frame found may be shown after the wanted one. When none helps, the file is read from its start.
SEEK_MARGINS_S = (0, 2, 10, 60)
CLOSE_WAIT_S = 2.0

logger = logging.getLogger("nerve_runtime")


@dataclass(frozen=True, slots=True)
class TimedPicture:
    """A decoded picture and its time by the file's own clock, None where that says nothing."""

    picture: Any
    time_s: Fraction | None


class _Pictures:
    """Decoded pictures of an opened file in order, with the count of what could not be decoded."""

    def __init__(self, path: Path) -> None:
        self.name = readable(path.name)
        self.decoded = self.damaged_packets = self.discarded_packets = 0
        self._path = path
        self._container = _open(path)
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        self.stream = picture_stream(self._container, f"source {self._path}")
        self.stream.thread_type = "AUTO"
        self._pictures = self._decoded_pictures()
        self._times = Timestamps()

    def take(self) -> TimedPicture | None:
        """The next picture, None at the end."""
        picture = next(self._pictures, None)
        return picture and TimedPicture(picture, self._times.time_s(picture))

    def seek(self, time_s: Fraction) -> bool:
        """Go to a keyframe near before a time; false when this container cannot."""
        try:
            self._container.seek(int(time_s / self.stream.time_base), stream=self.stream)
        except av.error.FFmpegError:
            return False
        self._pictures = self._decoded_pictures()
        self._times.begin_again()
        return True

    def begin_again(self) -> None:
        """Open the file anew, at its first picture."""
        self.close()
        self._container = _open(self._path)
        self._begin()

    def close(self) -> None:
        self._container.close()

    def _decoded_pictures(self) -> Iterator[Any]:
        packets = self._without_cut_end(self._container.demux(self.stream))
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                self.discarded_packets += packet.is_discard
                pictures = packet.decode()
            except MemoryError as error:
                raise ResourceError(f"source {self.name} cannot be decoded, memory ran out; close programs") from error
            except av.error.FFmpegError as error:
                if not self.damaged_packets:
                    logger.warning("source %s is damaged near frame %d: %s", self.name, self.decoded, error.strerror)
                self.damaged_packets += 1
                continue
            for picture in pictures:
                self.decoded += 1
                yield picture

    def _without_cut_end(self, packets: Iterator[Any]) -> Iterator[Any]:
        """The packets but for a last one that the end of the file cut off.

        A decoder with a thread for each frame, which meets it while being emptied, would take the two sound pictures
        before it along.
        """
        held: Any = None
        for packet in packets:
            if held is not None and packet.size > 0:
                yield held
            elif held is not None:
                self.damaged_packets += 1
            held = packet if packet.is_corrupt else None
            if held is None:
                yield packet


def _open(path: Path) -> Any:
    options = {"protocol_whitelist": "file", "format_whitelist": READ_FORMATS}
    try:
        return av.open(f"file:{path}", options=options)
    except av.error.ArgumentError as error:
        raise SourceError(
            f"source {path} is a text, a playlist or another kind that is not read, expected a video"
        ) from error
    except (av.error.FFmpegError, ValueError) as error:
        raise SourceError(f"source {path} is no video that can be read, or is cut off: {error}") from error


class VideoFile(FrameSource):
    """A video file, or a part of it.

    `index` counts the frames of the file from its first. After a start or a seek it is what the declared rate gives for
    the time that was found, which is exact for files of constant rate; from there on it counts.
    Interlaced frames are given as they are stored, both fields woven together.

    Raises:
        SourceError: the file is no video or none of it can be decoded.
        UsageError: the part starts behind the last frame.
    """

    def __init__(self, path: Path, part: Part, *, allow_partial: bool) -> None:
        self.name = readable(path.name)
        self._part, self._allow_partial = part, allow_partial
        self._lock = threading.Lock()
        self._closed = self._jumped = False
        self._sought: Fraction | None = None
        self._index = self._wanted = 0
        self._time_s: Fraction | None = None
        self._pictures = _Pictures(path)
        self._pending: TimedPicture | None = None
        self._rgb_converter = RgbConverter()
        try:
            self._first = self._first_frame(path)
        except BaseException:
            self._pictures.close()
            raise
        self.size_hw = (self._first.rgb.shape[0], self._first.rgb.shape[1])

    def _first_frame(self, path: Path) -> Frame:
        """Decode the first wanted picture, so that a useless source is refused before any output is made."""
        stream = self._pictures.stream
        self.fps = declared_fps(stream)
        self._declared = stream.frames if stream.frames > 0 else None
        self.count = self._declared if self._part.whole and self._part.every == 1 else None
        self._pending = self._pictures.take()
        if self._pending is None:
            raise SourceError(f"source {path} is damaged: 0 frames decoded of {self._declared or 'an unknown number'}")
        first_s = self._pending.time_s or Fraction(0)
        self._earliest_s = self._from_s = first_s
        length_s = self._part.length_s
        if self._part.begin_s:
            self._earliest_s = first_s + self._part.begin_s
            self._sought = self._earliest_s
        self._first_s = first_s
        self._end_s = None if length_s is None else self._earliest_s + length_s
        first = self._next_wanted()
        if first is None:
            raise self._part.refuse_beyond(self.name, (self._time_s or first_s) - first_s)
        return first

    def seek(self, time_s: Fraction) -> None:
        """Go on with the first frame at or after a time of the file's own clock; see FrameSource."""
        self._sought = max(Fraction(time_s), self._earliest_s)

    def read_frames(self) -> Iterator[Frame]:
        """Give the frames of the part; see FrameSource."""
        if self._sought is None:
            yield self._first
        while (frame := self._next_wanted()) is not None:
            yield frame
        if not self._closed:
            self._report_missing()

    def _next_wanted(self) -> Frame | None:
        while True:
            with self._lock:  # close() may come from another thread, and FFmpeg would crash if it came in mid-step
                if self._closed:
                    return None
                frame, ended = self._step()
            if frame is not None:
                return frame
            if ended:
                return None

    def _step(self) -> tuple[Frame | None, bool]:
        """Decode one picture: its frame if it is wanted, and whether the part ends here."""
        sought, self._sought = self._sought, None
        if sought is not None:
            self._jump(sought)
        decoded = self._next_decoded()
        if decoded is None:
            return None, self._sought is None
        time_s = self._next_time_s(decoded.time_s)
        index, self._index = self._index, self._index + 1
        if time_s < self._from_s:
            return None, False
        if self._end_s is not None and time_s >= self._end_s:
            return None, self._sought is None
        wanted, self._wanted = self._wanted % self._part.every == 0, self._wanted + 1
        if not wanted:
            return None, False
        return Frame(self._rgb_converter.rgb(decoded.picture, f"frame {index} of {self.name}"), index, time_s), False

    def _next_decoded(self) -> TimedPicture | None:
        decoded, self._pending = self._pending, None
        return decoded if decoded is not None else self._pictures.take()

    def _next_time_s(self, time_s: Fraction | None) -> Fraction:
        if time_s is None:
            step_s = 1 / (self.fps or UNKNOWN_FPS)
            time_s = Fraction(0) if self._time_s is None else self._time_s + step_s
        self._time_s = time_s
        return time_s

    def _jump(self, target_s: Fraction) -> None:
        """Make the next picture one at or before `target_s`; those before it are decoded and left out."""
        self._from_s, self._wanted, self._jumped = target_s, 0, True
        for margin_s in SEEK_MARGINS_S:
            if target_s - margin_s <= self._first_s or not self._pictures.seek(target_s - margin_s):
                break
            found = self._pictures.take()
            if found is not None and found.time_s is not None and found.time_s <= target_s:
                self._pending = found
                self._index = round((found.time_s - self._first_s) * self.fps) if self.fps else self._index
                return
        self._pictures.begin_again()
        self._pending, self._time_s, self._index = None, None, 0

    def _report_missing(self) -> None:
        pictures = self._pictures
        # An edit list makes a player drop frames that the header counts; that is no damage.
        missing = max(0, (self._declared or 0) - pictures.decoded - pictures.discarded_packets)
        if self._jumped or not self._part.whole:
            missing = 0
        if not missing and not pictures.damaged_packets:
            return
        message = (
            f"source {self.name} is damaged: {pictures.decoded} frames decoded, {self._declared or 'unknown'} declared, "
            f"{pictures.damaged_packets} packets could not be decoded"
        )
        if not self._allow_partial:
            raise SourceError(f"{message}; use --allow-partial to keep what there is")
        logger.warning(message)

    def close(self) -> None:
        """Close the file, once the step that another thread may be in has ended."""
        super().close()
        self._closed = True
        # A step that does not end within this time is in another thread, which closes when it comes back.
        if self._lock.acquire(timeout=CLOSE_WAIT_S):
            try:
                self._pictures.close()
            finally:
                self._lock.release()
