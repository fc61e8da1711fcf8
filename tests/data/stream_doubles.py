"""Frames, and segmenters that label them at once, slowly, never, or not without a crash; also opened in a child process."""

import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from nerve_runtime import errors
from nerve_runtime.frames import Frame
from nerve_runtime.result import FrameResult


def blank(index: int, size_hw: tuple[int, int] = (2, 3)) -> Frame:
    """A frame whose pixels hold its index."""
    return Frame(np.full((*size_hw, 3), index % 256, dtype=np.uint8), index, Fraction(index, 25))


def numbered(count: int) -> Iterator[Frame]:
    """Frames 0 to `count` - 1."""
    return map(blank, range(count))


def labelled(frame: Frame, *, keyframe: bool = False, valid: bool = True, total_ms: float = 2.0) -> FrameResult:
    """A result whose labels are the frame's first channel and whose confidence is its inverse."""
    plane = frame.rgb[..., 0]
    timings_ms = {"walk": total_ms / 2, "total": total_ms}
    return FrameResult(plane, 255 - plane, ("a", "b"), frame.index, frame.time_s, timings_ms, keyframe, 0, valid)


class DoubleVideo:
    """State of one video: only whether a frame came before."""

    def __init__(self, segmenter: "DoubleSegmenter") -> None:
        self._segmenter = segmenter
        self._seen = False

    def encode(self, frame: Frame) -> Frame:
        self._segmenter.spend(self._segmenter.encode_s)
        self._segmenter.misbehave(frame)
        return frame

    def decode(self, encoded: Frame) -> FrameResult:
        self._segmenter.spend(self._segmenter.decode_s)
        keyframe, self._seen = not self._seen, True
        return labelled(encoded, keyframe=keyframe, valid=self._segmenter.ready)


class DoubleSegmenter:
    """Labels frames by their own pixels; what goes wrong is named by the index of the frame it goes wrong at.

    Args:
        encode_s: seconds that encoding takes.
        decode_s: seconds that decoding takes.
        crash_at: the process kills itself with SIGSEGV.
        hang_at: never comes back, unless it is told to stop.
        deaf: does not hear that it is to stop, nor SIGTERM.
        fail_at: raises the error called `failure`.
        bug_at: raises a ValueError.
        not_ready_from: frames from here on come out invalid.
    """

    backend = "a double"
    class_names: tuple[str, ...] = ("a", "b")

    def __init__(
        self,
        *,
        encode_s: float = 0.0,
        decode_s: float = 0.0,
        crash_at: int = -1,
        hang_at: int = -1,
        deaf: bool = False,
        fail_at: int = -1,
        failure: str = "ResourceError",
        bug_at: int = -1,
        not_ready_from: int = -1,
    ) -> None:
        self.encode_s, self.decode_s = encode_s, decode_s
        self.ready = True
        self.closed = 0
        self.videos = 0
        self.stopped = threading.Event()
        self._crash_at, self._hang_at, self._deaf = crash_at, hang_at, deaf
        self._fail_at, self._failure, self._bug_at = fail_at, failure, bug_at
        self._not_ready_from = not_ready_from

    def new_video(self) -> DoubleVideo:
        self.videos += 1
        return DoubleVideo(self)

    def set_classes(self, classes: str | tuple[str, ...], background: tuple[str, ...] | str = ()) -> None:
        """Two classes are taken, the word `unknown` is refused, `crash` ends the process."""
        names = tuple(name.strip() for name in (classes.split(";") if isinstance(classes, str) else classes))
        if "unknown" in names:
            raise errors.UsageError("the word 'unknown' is unknown; use another")
        if "crash" in names:
            os.kill(os.getpid(), signal.SIGKILL)
        self.class_names = names

    def stop(self) -> None:
        if not self._deaf:
            self.stopped.set()

    def close(self) -> None:
        self.closed += 1

    def spend(self, seconds: float) -> None:
        if seconds:
            time.sleep(seconds)

    def misbehave(self, frame: Frame) -> None:
        if frame.index == self._crash_at:
            os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(10)
        if frame.index == self._hang_at:
            self.stopped.wait(60)
            raise errors.BundleError("told to stop")
        if frame.index == self._fail_at:
            raise getattr(errors, self._failure)(f"frame {frame.index} failed on purpose")
        if frame.index == self._bug_at:
            raise ValueError(f"a bug at frame {frame.index}")
        if 0 <= self._not_ready_from <= frame.index:
            self.ready = False


def open_double(
    *,
    refuse: str | None = None,
    die: int | None = None,
    stall_s: float = 0.0,
    hold_the_interpreter: bool = False,
    **faults: Any,
) -> DoubleSegmenter:
    """Open a double of these faults in a worker process, or do what else is asked.

    Args:
        refuse: name of the error that is raised.
        die: exit code that the process ends with.
        stall_s: seconds that opening takes.
        hold_the_interpreter: be in a call that never gives the interpreter back.
        **faults: of DoubleSegmenter.
    """
    if refuse is not None:
        raise getattr(errors, refuse)("this bundle is refused on purpose")
    if die is not None:
        os._exit(die)
    time.sleep(stall_s)
    if faults.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if hold_the_interpreter:
        ctypes.PyDLL(None).sleep(60)
    return DoubleSegmenter(**faults)
