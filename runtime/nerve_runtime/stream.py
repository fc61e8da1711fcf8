"""Frames through a segmenter without loss: a reader, an inference and a writer thread with short queues between."""

import logging
import queue
import threading
import time
from array import array
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from nerve_runtime.errors import HungError, NerveError
from nerve_runtime.frames import Frame
from nerve_runtime.result import FrameResult

QUEUE_FRAMES = 4  # enough to hide an uneven source; more would only hold memory
POLL_S = 0.05
JOIN_TIMEOUT_S = 10.0

logger = logging.getLogger("nerve_runtime")


@dataclass(slots=True)
class StreamReport:
    """What a run did.

    Attributes:
        frames: results written.
        invalid: of these, how many had scores that are not finite.
        keyframes: of these, how many computed attention anew.
        seconds: wall time from the first frame asked for to the last one written.
        stage_ms: milliseconds of every run of every stage.
        stopped: the run was asked to stop before the source ended.
    """

    frames: int = 0
    invalid: int = 0
    keyframes: int = 0
    seconds: float = 0.0
    stage_ms: dict[str, "array[float]"] = field(default_factory=dict)
    stopped: bool = False

    @property
    def fps(self) -> float:
        """Frames a second over the whole run, reading and writing included."""
        return self.frames / self.seconds if self.seconds else 0.0

    def count(self, result: FrameResult) -> None:
        """Add one result."""
        self.frames += 1
        self.invalid += not result.valid
        self.keyframes += result.keyframe
        for stage, spent_ms in result.timings_ms.items():
            self.stage_ms.setdefault(stage, array("f")).append(spent_ms)


class _Pipe:
    """A bounded queue whose two ends give up once one of `endings` is set; None marks the end."""

    def __init__(self, *endings: threading.Event) -> None:
        self._items: queue.Queue[tuple[Frame, FrameResult | None] | None] = queue.Queue(QUEUE_FRAMES)
        self._endings = endings

    def _ended(self) -> bool:
        return any(ending.is_set() for ending in self._endings)

    def put(self, item: tuple[Frame, FrameResult | None] | None) -> None:
        while not self._ended():
            with suppress(queue.Full):
                self._items.put(item, timeout=POLL_S)
                return

    def get(self) -> tuple[Frame, FrameResult | None] | None:
        while not self._ended():
            with suppress(queue.Empty):
                return self._items.get(timeout=POLL_S)
        return None


class _Run:
    """The three threads of one run, and the first error any of them met."""

    def __init__(
        self,
        frames: Iterable[Frame],
        segment: Callable[[Frame], FrameResult],
        write: Callable[[Frame, FrameResult], None],
        stop: threading.Event,
    ) -> None:
        self.report = StreamReport()
        self.halt = threading.Event()
        self.done = threading.Event()
        self.error: BaseException | None = None
        self._frames, self._segment, self._write, self._stop = frames, segment, write, stop
        # A stop ends reading at once, but what is segmented is still written.
        self._read, self._segmented = _Pipe(self.halt, stop), _Pipe(self.halt)
        self.threads = [
            threading.Thread(target=self._guarded, args=(work,), name=f"nerve-{name}", daemon=True)
            for name, work in (("reader", self._reader), ("inference", self._inference), ("writer", self._writer))
        ]

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
            if self.error is None:
                self.error = error
            self.halt.set()
            self.done.set()

    def _reader(self) -> None:
        for frame in self._frames:
            if self._stop.is_set() or self.halt.is_set():
                break
            self._read.put((frame, None))
        self._read.put(None)

    def _inference(self) -> None:
        while (item := self._read.get()) is not None:
            try:
                result = self._segment(item[0])
            except NerveError:
                if self._stop.is_set():  # the graph was told to end; that frame is lost, the others are not
                    break
                raise
            self._segmented.put((item[0], result))
        self._segmented.put(None)

    def _writer(self) -> None:
        while (item := self._segmented.get()) is not None:
            frame, result = item
            if result is not None:
                self._write(frame, result)
                self.report.count(result)
        self.done.set()


def run_stream(
    frames: Iterable[Frame],
    segment: Callable[[Frame], FrameResult],
    write: Callable[[Frame, FrameResult], None],
    *,
    stop: threading.Event,
    idle: Callable[[], None] | None = None,
) -> StreamReport:
    """Read, segment and write every frame in order; call from the main thread, which only waits and so hears signals.

    Args:
        frames: read in a thread of its own.
        segment: called in another.
        write: called in a third.
        stop: set it, in a signal handler say, to end early; frames already segmented are written.
        idle: called by the main thread about twenty times a second, for a window.

    Raises:
        HungError: a thread did not end within 10 s of the run's end.
        BaseException: the first error that a thread met.
    """
    run = _Run(frames, segment, write, stop)
    started = time.monotonic()
    for thread in run.threads:
        thread.start()
    while not run.done.wait(POLL_S) and not stop.is_set():
        if idle is not None:
            idle()
    run.done.wait(JOIN_TIMEOUT_S)
    run.halt.set()
    run.report.seconds = time.monotonic() - started
    run.report.stopped = stop.is_set()
    _join(run)
    if run.error is not None:
        raise run.error
    return run.report


def _join(run: _Run) -> None:
    deadline = time.monotonic() + JOIN_TIMEOUT_S
    for thread in run.threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    hung = [thread.name for thread in run.threads if thread.is_alive()]
    if hung and run.error is None:
        raise HungError(
            f"threads {', '.join(hung)} did not end within {JOIN_TIMEOUT_S:.0f} s; the source may be frozen"
        )
