"""One source through one function, without loss."""

import math
import threading
from collections.abc import Callable, Iterable

from nerve_runtime.frames import Frame
from nerve_runtime.result import FrameResult
from nerve_runtime.stream.job import StreamJob, StreamOptions, StreamReport
from nerve_runtime.stream.local_worker import LocalWorker
from nerve_runtime.stream.run import run_streams


class WholeFrames:
    """A segmenter of one function, which does all in the second half of a frame."""

    ready = True
    backend = "a function"
    class_names: tuple[str, ...] = ()

    def __init__(self, segment: Callable[[Frame], FrameResult]) -> None:
        self._segment = segment

    def new_video(self) -> "WholeFrames":
        """Nothing is kept between frames."""
        return self

    def look(self, frame: Frame) -> Frame:
        """The frame itself."""
        return frame

    def label(self, looked: Frame) -> FrameResult:
        """What the function makes of it."""
        return self._segment(looked)

    def stop(self) -> None:
        """A function cannot be stopped; whoever has a way to do so uses it when a run is to end."""

    def close(self) -> None:
        """Nothing to release."""


def run_stream(
    frames: Iterable[Frame],
    segment: Callable[[Frame], FrameResult],
    write: Callable[[Frame, FrameResult], None],
    *,
    stop: threading.Event,
    idle: Callable[[], None] | None = None,
) -> StreamReport:
    """Read, segment and write every frame of one source in order; the first error ends the run.

    Args:
        frames: read in a thread of its own.
        segment: called in another; it may take as long as it likes.
        write: called in a third.
        stop: set it, in a signal handler say, to end early; frames already segmented are written.
        idle: called by the calling thread about twenty times a second, for a window.

    Raises:
        HungError: a thread did not end within 5 s of the run's end.
        BaseException: the first error that a thread met.
    """
    options = StreamOptions(hang_timeout_s=math.inf, failures_in_a_row=1)
    with LocalWorker(WholeFrames(segment)) as worker:
        return run_streams([StreamJob("source", frames, write)], worker, options, stop=stop, idle=idle)[0]
