"""What a run is asked to do, how it is paused, and what it reports."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from nerve_runtime import Frame, FrameResult, NerveError, UsageError
from nerve_stream.monitoring.counters import Percentiles, SourceCounts

FAILURES_IN_A_ROW = 5


@dataclass(frozen=True, slots=True)
class StreamJob:
    """One source and where its results go.

    Attributes:
        name: tells the sources of a run apart, in reports, metrics and logs; no credentials.
        frames: a FrameSource, which is closed at the end, or anything that gives frames in order.
        write: called with each frame and its result, in order, in a thread of this source's own.
        finished: called in that thread, after the last write, when the source gave all its frames and none was lost to
            an error or a stop; the other sources may go on for hours. What it raises ends this source with an error.
        accompanies: it is closed once all sources have ended that do not accompany others.
    """

    name: str
    frames: Iterable[Frame]
    write: Callable[[Frame, FrameResult], None]
    finished: "Callable[[StreamReport], None] | None" = None
    accompanies: bool = False

    @property
    def live(self) -> bool:
        """Whether frames come at their own pace: a FrameSource says so, anything else is taken to wait."""
        return bool(getattr(self.frames, "live", False))


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How a run treats its frames.

    Attributes:
        realtime: the newest frame wins and the others are dropped and counted; a FrameSource that is not live plays as
            fast as it was recorded, anything else has to pace itself. Otherwise no frame is lost, and each source waits
            until its frames are through.
        hang_timeout_s: a frame that is with the worker for longer has failed; None follows what frames take, see
            HangLimit, where `realtime` or where the worker is a process, and otherwise waits for ever.
        failures_in_a_row: so many frames of a source lost to errors that may pass (memory, time, a worker that
            crashed) end the source; any other error ends it at once.

    Raises:
        UsageError: a number is out of its range.
    """

    realtime: bool = False
    hang_timeout_s: float | None = None
    failures_in_a_row: int = FAILURES_IN_A_ROW

    def __post_init__(self) -> None:
        if self.hang_timeout_s is not None and not self.hang_timeout_s > 0:
            raise UsageError(f"hang timeout is {self.hang_timeout_s} s, expected more than 0")
        if self.failures_in_a_row < 1:
            raise UsageError(f"failures in a row is {self.failures_in_a_row}, expected 1 or more")


class StreamControl:
    """Pauses a run and lets it go on, from any thread: sources that can wait do, live ones are read and dropped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._paused = False
        self._listeners: list[Callable[[bool], None]] = []
        self._steppers: list[Callable[[], None]] = []

    @property
    def paused(self) -> bool:
        """Whether frames stand still."""
        return self._paused

    def pause(self) -> None:
        """Let no further frame into the worker; those that are in it are still written."""
        self._set_paused(paused=True)

    def resume(self) -> None:
        """Go on with the newest frame of a live source, and with the next one of any other."""
        self._set_paused(paused=False)

    def step(self) -> None:
        """Let one frame of each source through a pause: the next one of a file, the next to come of a live source."""
        with self._lock:
            for stepper in self._steppers if self._paused else ():
                stepper()

    def listen(
        self, listener: Callable[[bool], None], stepper: Callable[[], None] = lambda: None
    ) -> Callable[[], None]:
        """Call `listener` now and at each change with whether the run is paused; the function returned ends that.

        Args:
            listener: called by whichever thread pauses the run or lets it go on.
            stepper: called at each step.
        """
        with self._lock:
            self._listeners.append(listener)
            self._steppers.append(stepper)
            listener(self._paused)

        def end() -> None:
            with self._lock:
                self._listeners.remove(listener)
                self._steppers.remove(stepper)

        return end

    def _set_paused(self, *, paused: bool) -> None:
        with self._lock:
            self._paused = paused
            for listener in self._listeners:
                listener(paused)


@dataclass(slots=True)
class StreamReport:
    """What a run did with one source.

    Attributes:
        name: of the source.
        frames: results written.
        invalid: of these, how many had scores that are not finite.
        keyframes: of these, how many computed attention anew.
        counts: what became of every frame that came in; nothing is in flight any more.
        seconds: wall time of the run.
        stages: milliseconds of every stage, of its latest runs.
        age: from a frame's arrival to its result being written, of the last minute of the run.
        worst_age_ms: the longest of the run.
        stopped: the run was asked to stop before the source ended.
        error: what ended the source early, or None.
        last_failure: the error of the last frame that was lost to one, or None; the source may have gone on.
    """

    name: str = ""
    frames: int = 0
    invalid: int = 0
    keyframes: int = 0
    counts: SourceCounts = field(default_factory=SourceCounts)
    seconds: float = 0.0
    stages: dict[str, Percentiles] = field(default_factory=dict)
    age: Percentiles = field(default_factory=Percentiles)
    worst_age_ms: float = 0.0
    stopped: bool = False
    error: NerveError | None = None
    last_failure: NerveError | None = None

    @property
    def fps(self) -> float:
        """Frames a second over the whole run, reading and writing included."""
        return self.frames / self.seconds if self.seconds else 0.0
