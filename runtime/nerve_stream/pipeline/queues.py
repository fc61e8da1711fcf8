"""Where frames wait between threads, and the only place that counts them.

Each source has a lane: frames wait in its first tray for the worker, results in its second for the writer. One lock
covers all lanes, so that the counts of a moment agree with each other.
"""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from nerve_runtime import Frame, FrameResult
from nerve_stream.monitoring.counters import DropReason, SourceCounts

QUEUE_FRAMES = 4  # enough to hide an uneven source; more would only hold memory


@dataclass(eq=False, slots=True)
class Ticket:
    """One frame on its way: where it belongs and, once it is segmented, its result."""

    lane: int
    frame: Frame
    result: FrameResult | None = None


@dataclass(eq=False, slots=True)
class _Lane:
    """The two trays of a source, its frames in flight and its counts.

    Attributes:
        waiting: frames for the worker.
        at_worker: how many the worker has.
        segmented: results for the writer.
        in_flight: every frame that came in and was neither written nor dropped.
        reading_over: no frame will come any more.
        room: told when a frame may come in.
        result_waits: told when the writer may have something to do.
    """

    live: bool
    room: threading.Condition
    result_waits: threading.Condition
    waiting: deque[Ticket] = field(default_factory=deque)
    at_worker: set[Ticket] = field(default_factory=set)
    segmented: deque[Ticket] = field(default_factory=deque)
    in_flight: set[Ticket] = field(default_factory=set)
    reading_over: bool = False
    frames_in: int = 0
    done: int = 0
    dropped: dict[DropReason, int] = field(default_factory=dict)

    def counts(self) -> SourceCounts:
        return SourceCounts(self.frames_in, self.done, in_flight=len(self.in_flight), **self.dropped)

    @property
    def through(self) -> bool:
        return self.reading_over and not self.in_flight


class Trays:
    """All lanes of a run; every method may be called from any thread.

    Args:
        live: for each source, whether it is live.
        realtime: a tray holds the newest frame only; otherwise up to `QUEUE_FRAMES` wait and none is dropped.
    """

    def __init__(self, live: Sequence[bool], *, realtime: bool) -> None:
        self._lock = threading.Lock()
        self._realtime = realtime
        self._depth = 1 if realtime else QUEUE_FRAMES
        self._frame_waits = threading.Condition(self._lock)
        self._through = threading.Condition(self._lock)
        self._lanes = [_Lane(one, threading.Condition(self._lock), threading.Condition(self._lock)) for one in live]
        self._served = len(live) - 1
        self._paused = False

    def put(self, lane: int, frame: Frame) -> bool:
        """Take a frame from a reader, waiting for room unless the newest frame wins; false when no more is wanted."""
        with self._lock:
            own = self._lanes[lane]
            while not own.reading_over and self._must_wait(own):
                own.room.wait()
            if own.reading_over:
                return False
            ticket = Ticket(lane, frame)
            own.frames_in += 1
            own.in_flight.add(ticket)
            if self._paused and own.live:
                self._drop(ticket, "paused")
                return True
            if self._realtime and own.waiting:
                self._drop(own.waiting.popleft(), "superseded")
            own.waiting.append(ticket)
            self._frame_waits.notify()
            return True

    def _must_wait(self, lane: _Lane) -> bool:
        if self._paused and not lane.live:
            return True
        return not self._realtime and len(lane.waiting) >= self._depth and not (self._paused and lane.live)

    def take(self, timeout_s: float) -> Ticket | None:
        """The next frame for the worker, the sources taking turns; None when none may go within the time."""
        with self._lock:
            ticket = self._next_in_turn()
            if ticket is None:
                self._frame_waits.wait(timeout_s)
                ticket = self._next_in_turn()
            return ticket

    def _next_in_turn(self) -> Ticket | None:
        if self._paused:
            return None
        for step in range(1, len(self._lanes) + 1):
            number = (self._served + step) % len(self._lanes)
            lane = self._lanes[number]
            # Results must find room, or one slow writer would hold the worker up for all.
            full = not self._realtime and len(lane.at_worker) + len(lane.segmented) >= self._depth
            if lane.waiting and not full:
                self._served = number
                ticket = lane.waiting.popleft()
                lane.at_worker.add(ticket)
                lane.room.notify()
                return ticket
        return None

    def deliver(self, ticket: Ticket, result: FrameResult) -> None:
        """Take a result from the worker; one that comes after its frame was given up is forgotten."""
        with self._lock:
            lane = self._lanes[ticket.lane]
            if ticket not in lane.in_flight:
                return
            lane.at_worker.discard(ticket)
            ticket.result = result
            if self._realtime and lane.segmented:
                self._drop(lane.segmented.popleft(), "superseded")
            lane.segmented.append(ticket)
            lane.result_waits.notify()

    def next_result(self, lane: int) -> Ticket | None:
        """The next ticket with a result for a writer, waiting for it; None when there will be none."""
        with self._lock:
            own = self._lanes[lane]
            while not own.segmented:
                if own.through:
                    return None
                own.result_waits.wait()
            ticket = own.segmented.popleft()
            self._frame_waits.notify()
            return ticket

    def written(self, ticket: Ticket) -> bool:
        """Count a ticket as done; false when it was given up meanwhile."""
        with self._lock:
            lane = self._lanes[ticket.lane]
            if ticket not in lane.in_flight:
                return False
            lane.in_flight.remove(ticket)
            lane.done += 1
            self._tell_if_through(lane)
            return True

    def drop(self, ticket: Ticket, reason: DropReason) -> None:
        """Give a ticket up, wherever it is."""
        with self._lock:
            self._drop(ticket, reason)

    def end_reading(self, lane: int, reason: DropReason | None = None) -> None:
        """Let no more frames in; with a reason, also drop those that wait for the worker."""
        with self._lock:
            self._end_reading(self._lanes[lane], reason)

    def give_up(self, lane: int, reason: DropReason) -> None:
        """Let no more frames in and drop all that are in flight."""
        with self._lock:
            own = self._lanes[lane]
            self._end_reading(own, reason)
            for ticket in list(own.in_flight):
                self._drop(ticket, reason)
            own.segmented.clear()

    def give_up_worker(self, reason: DropReason) -> None:
        """Drop what the worker has, for it will not come out."""
        with self._lock:
            for lane in self._lanes:
                for ticket in list(lane.at_worker):
                    self._drop(ticket, reason)

    def turn(self, *, paused: bool) -> None:
        """Begin or end a pause; waiting frames of live sources would be stale at its end and are dropped."""
        with self._lock:
            self._paused = paused
            for lane in self._lanes:
                while paused and lane.live and lane.waiting:
                    self._drop(lane.waiting.popleft(), "paused")
                lane.room.notify_all()
            self._frame_waits.notify_all()

    def through(self, lane: int) -> bool:
        """Whether nothing will come of this lane any more."""
        with self._lock:
            return self._lanes[lane].through

    def wait_until_through(self, timeout_s: float) -> bool:
        """Wait until all lanes are; false when the time is over first."""
        with self._lock:
            return self._through.wait_for(lambda: all(lane.through for lane in self._lanes), timeout_s)

    def at_worker(self) -> int:
        """How many frames the worker has."""
        with self._lock:
            return sum(len(lane.at_worker) for lane in self._lanes)

    def reader_waits(self, lane: int) -> bool:
        """Whether a frame of this source would have to wait now, so that its reader need not hurry."""
        with self._lock:
            return self._must_wait(self._lanes[lane])

    def counts(self, lane: int) -> SourceCounts:
        """What became of the frames of one source."""
        with self._lock:
            return self._lanes[lane].counts()

    def all_counts(self) -> list[SourceCounts]:
        """What became of the frames of all sources at one moment."""
        with self._lock:
            return [lane.counts() for lane in self._lanes]

    def _end_reading(self, lane: _Lane, reason: DropReason | None) -> None:
        lane.reading_over = True
        while reason is not None and lane.waiting:
            self._drop(lane.waiting.popleft(), reason)
        lane.room.notify_all()
        self._tell_if_through(lane)

    def _drop(self, ticket: Ticket, reason: DropReason) -> None:
        lane = self._lanes[ticket.lane]
        if ticket not in lane.in_flight:
            return
        lane.in_flight.remove(ticket)
        lane.at_worker.discard(ticket)
        lane.dropped[reason] = lane.dropped.get(reason, 0) + 1
        self._frame_waits.notify()
        self._tell_if_through(lane)

    def _tell_if_through(self, lane: _Lane) -> None:
        if lane.through:
            lane.result_waits.notify_all()
            self._through.notify_all()
