"""The queues between the threads of a run, and the only place that counts frames.

Each source has two: frames that wait for the worker, and results that wait for the writer. One lock covers all sources,
so that the counts of a moment agree with each other.
"""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from nerve_runtime import Frame, FrameResult
from nerve_stream.monitoring.counters import DropReason, SourceCounts

QUEUE_FRAMES = 4  # enough to hide an uneven source; more would only hold memory


@dataclass(eq=False, slots=True)
class QueuedFrame:
    """One frame in flight: the number of its source and, once it is segmented, its result."""

    source: int
    frame: Frame
    result: FrameResult | None = None


@dataclass(eq=False, slots=True)
class _SourceQueue:
    """The two queues of a source, its frames in flight and its counts.

    Attributes:
        waiting: frames for the worker.
        at_worker: how many the worker has.
        segmented: results for the writer.
        in_flight: every frame that came in and was neither written nor dropped.
        reading_over: no frame will come any more.
        steps: one frame may go to the worker although the run is paused.
        room: notified when a frame may come in.
        result_waits: notified when the writer may have something to do.
    """

    live: bool
    room: threading.Condition
    result_waits: threading.Condition
    waiting: deque[QueuedFrame] = field(default_factory=deque)
    at_worker: set[QueuedFrame] = field(default_factory=set)
    segmented: deque[QueuedFrame] = field(default_factory=deque)
    in_flight: set[QueuedFrame] = field(default_factory=set)
    reading_over: bool = False
    steps: bool = False
    frames_in: int = 0
    done: int = 0
    dropped: dict[DropReason, int] = field(default_factory=dict)

    def counts(self) -> SourceCounts:
        return SourceCounts(self.frames_in, self.done, in_flight=len(self.in_flight), **self.dropped)

    @property
    def finished(self) -> bool:
        return self.reading_over and not self.in_flight


class FrameQueues:
    """The queues of all sources of a run; every method may be called from any thread.

    Args:
        live: for each source, whether it is live.
        realtime: a queue holds the newest frame only; otherwise up to `QUEUE_FRAMES` wait and none is dropped.
    """

    def __init__(self, live: Sequence[bool], *, realtime: bool) -> None:
        self._lock = threading.Lock()
        self._realtime = realtime
        self._depth = 1 if realtime else QUEUE_FRAMES
        self._frame_waits = threading.Condition(self._lock)
        self._finished = threading.Condition(self._lock)
        self._sources = [
            _SourceQueue(is_live, threading.Condition(self._lock), threading.Condition(self._lock)) for is_live in live
        ]
        self._served = len(live) - 1
        self._paused = False

    def push(self, source: int, frame: Frame) -> bool:
        """Add a frame of a reader, waiting for room unless the newest frame wins; false when no more is wanted."""
        with self._lock:
            queue = self._sources[source]
            while not queue.reading_over and self._must_wait(queue):
                queue.room.wait()
            if queue.reading_over:
                return False
            queued = QueuedFrame(source, frame)
            queue.frames_in += 1
            queue.in_flight.add(queued)
            if self._paused and queue.live and not queue.steps:
                self._drop(queued, "paused")
                return True
            if self._realtime and queue.waiting:
                self._drop(queue.waiting.popleft(), "superseded")
            queue.waiting.append(queued)
            self._frame_waits.notify()
            return True

    def _must_wait(self, source: _SourceQueue) -> bool:
        if self._paused and not source.live:
            return not source.steps or bool(source.waiting)
        return not self._realtime and len(source.waiting) >= self._depth and not (self._paused and source.live)

    def pop(self, timeout_s: float) -> QueuedFrame | None:
        """The next frame for the worker, the sources taking turns; None when none may go within the time."""
        with self._lock:
            queued = self._next_by_turns()
            if queued is None:
                self._frame_waits.wait(timeout_s)
                queued = self._next_by_turns()
            return queued

    def _next_by_turns(self) -> QueuedFrame | None:
        for turn in range(1, len(self._sources) + 1):
            number = (self._served + turn) % len(self._sources)
            source = self._sources[number]
            if self._paused and not source.steps:
                continue
            # Results must find room, or one slow writer would hold the worker up for all.
            full = not self._realtime and len(source.at_worker) + len(source.segmented) >= self._depth
            if source.waiting and not full:
                self._served, source.steps = number, False
                queued = source.waiting.popleft()
                source.at_worker.add(queued)
                source.room.notify()
                return queued
        return None

    def deliver(self, queued: QueuedFrame, result: FrameResult) -> None:
        """Take a result from the worker; one that comes after its frame was given up is forgotten."""
        with self._lock:
            source = self._sources[queued.source]
            if queued not in source.in_flight:
                return
            source.at_worker.discard(queued)
            queued.result = result
            if self._realtime and source.segmented:
                self._drop(source.segmented.popleft(), "superseded")
            source.segmented.append(queued)
            source.result_waits.notify()

    def next_result(self, source: int) -> QueuedFrame | None:
        """The next frame with a result for a writer, waiting for it; None when there will be none."""
        with self._lock:
            queue = self._sources[source]
            while not queue.segmented:
                if queue.finished:
                    return None
                queue.result_waits.wait()
            queued = queue.segmented.popleft()
            self._frame_waits.notify()
            return queued

    def written(self, queued: QueuedFrame) -> bool:
        """Count a frame as done; false when it was given up meanwhile."""
        with self._lock:
            source = self._sources[queued.source]
            if queued not in source.in_flight:
                return False
            source.in_flight.remove(queued)
            source.done += 1
            self._notify_if_finished(source)
            return True

    def drop(self, queued: QueuedFrame, reason: DropReason) -> None:
        """Drop a frame, wherever it is."""
        with self._lock:
            self._drop(queued, reason)

    def end_reading(self, source: int, reason: DropReason | None = None) -> None:
        """Let no more frames in; with a reason, also drop those that wait for the worker."""
        with self._lock:
            self._end_reading(self._sources[source], reason)

    def give_up(self, source: int, reason: DropReason) -> None:
        """Let no more frames in and drop all that are in flight."""
        with self._lock:
            queue = self._sources[source]
            self._end_reading(queue, reason)
            for queued in list(queue.in_flight):
                self._drop(queued, reason)
            queue.segmented.clear()

    def give_up_worker(self, reason: DropReason) -> None:
        """Drop what the worker has, for it will not come out."""
        with self._lock:
            for source in self._sources:
                for queued in list(source.at_worker):
                    self._drop(queued, reason)

    def set_paused(self, *, paused: bool) -> None:
        """Begin or end a pause; waiting frames of live sources would be stale at its end and are dropped."""
        with self._lock:
            self._paused = paused
            for source in self._sources:
                source.steps = False
                while paused and source.live and source.waiting:
                    self._drop(source.waiting.popleft(), "paused")
                source.room.notify_all()
            self._frame_waits.notify_all()

    def step(self) -> None:
        """Let one frame of each source go to the worker although the run is paused."""
        with self._lock:
            for source in self._sources:
                source.steps = True
                source.room.notify_all()
            self._frame_waits.notify_all()

    def finished(self, source: int) -> bool:
        """Whether nothing will come of this source any more."""
        with self._lock:
            return self._sources[source].finished

    def wait_until_finished(self, timeout_s: float) -> bool:
        """Wait until all sources are finished; false when the time is over first."""
        with self._lock:
            return self._finished.wait_for(lambda: all(source.finished for source in self._sources), timeout_s)

    def at_worker(self) -> int:
        """How many frames the worker has."""
        with self._lock:
            return sum(len(source.at_worker) for source in self._sources)

    def reader_waits(self, source: int) -> bool:
        """Whether a frame of this source would have to wait now, so that its reader need not hurry."""
        with self._lock:
            return self._must_wait(self._sources[source])

    def counts(self, source: int) -> SourceCounts:
        """What became of the frames of one source."""
        with self._lock:
            return self._sources[source].counts()

    def all_counts(self) -> list[SourceCounts]:
        """What became of the frames of all sources at one moment."""
        with self._lock:
            return [source.counts() for source in self._sources]

    def _end_reading(self, source: _SourceQueue, reason: DropReason | None) -> None:
        source.reading_over = True
        while reason is not None and source.waiting:
            self._drop(source.waiting.popleft(), reason)
        source.room.notify_all()
        self._notify_if_finished(source)

    def _drop(self, queued: QueuedFrame, reason: DropReason) -> None:
        source = self._sources[queued.source]
        if queued not in source.in_flight:
            return
        source.in_flight.remove(queued)
        source.at_worker.discard(queued)
        source.dropped[reason] = source.dropped.get(reason, 0) + 1
        self._frame_waits.notify()
        self._notify_if_finished(source)

    def _notify_if_finished(self, source: _SourceQueue) -> None:
        if source.finished:
            source.result_waits.notify_all()
            self._finished.notify_all()
