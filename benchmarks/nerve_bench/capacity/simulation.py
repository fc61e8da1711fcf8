"""One replica as a queue: frames come, wait, are taken and done, or are dropped. Exact to the event; no clock runs.

Times are seconds from the start. One server takes up to `batch` frames at a time; what a batch takes is asked of a
function, so that closed forms of queueing theory can be put beside it with the services that they are about.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nerve_bench.capacity.arrivals import FloatArray, IntArray

BatchSeconds = Callable[[Sequence[int], float], float]
"""Seconds that the frames of these streams take together, begun at this time."""


class WaitingFrames(Protocol):
    """Frames that wait for the server."""

    def push(self, frame: int, stream: int) -> int | None:
        """Add a frame; returns the frame that is dropped for it, which may be itself, or None."""

    def take(self, most: int) -> list[int]:
        """Remove the next frames for the server, at least one if any waits."""

    def __len__(self) -> int:
        """How many wait."""


class NewestOfEach:
    """The newest frame of each stream waits, streams take turns: the queues of `nerve-segment --realtime`."""

    def __init__(self, streams: int) -> None:
        self._slots: list[int | None] = [None] * streams
        self._waiting = 0
        self._served = streams - 1

    def push(self, frame: int, stream: int) -> int | None:
        """Add a frame; the older one of its stream, if it still waits, is dropped."""
        before, self._slots[stream] = self._slots[stream], frame
        self._waiting += before is None
        return before

    def take(self, most: int) -> list[int]:
        """The next frames, one of a stream, beginning after the stream that was served last."""
        taken: list[int] = []
        streams, first = len(self._slots), self._served + 1
        for step in range(streams):
            number = (first + step) % streams
            frame = self._slots[number]
            if frame is not None:
                self._slots[number], self._served = None, number
                taken.append(frame)
                if len(taken) == most:
                    break
        self._waiting -= len(taken)
        return taken

    def __len__(self) -> int:
        return self._waiting


class BoundedFifo:
    """First in, first out; a frame that finds the queue full is rejected: a Triton server with `max_queue_size`.

    Args:
        bound: how many may wait; `math.inf` for all.
    """

    def __init__(self, bound: float = math.inf) -> None:
        self._bound = bound
        self._frames: deque[int] = deque()

    def push(self, frame: int, stream: int) -> int | None:
        """Add a frame, or give it back where the queue is full."""
        if len(self._frames) >= self._bound:
            return frame
        self._frames.append(frame)
        return None

    def take(self, most: int) -> list[int]:
        """The frames that came first."""
        return [self._frames.popleft() for _ in range(min(most, len(self._frames)))]

    def __len__(self) -> int:
        return len(self._frames)


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """What became of every frame.

    Attributes:
        arrival_s: when each came, float64 (n,).
        began_s: when the server took it, nan where it did not.
        ended_s: when its result was there, nan where it was dropped or is in flight.
        dropped: whether it was dropped, bool (n,).
        frames_in, in_flight: of the moment at which the run was ended; counted by the queue and the server, not inferred.
        busy_s: how long the server worked.
        seconds: the length of the run.
    """

    arrival_s: FloatArray
    began_s: FloatArray
    ended_s: FloatArray
    dropped: NDArray[np.bool_]
    frames_in: int
    in_flight: int
    busy_s: float
    seconds: float

    @property
    def latency_s(self) -> FloatArray:
        """From arrival to result of each frame, nan where there is none."""
        return self.ended_s - self.arrival_s

    @property
    def wait_s(self) -> FloatArray:
        """From arrival to the server of each frame, nan where it was not taken."""
        return self.began_s - self.arrival_s

    @property
    def done(self) -> int:
        """How many frames have a result."""
        return int(np.isfinite(self.ended_s).sum())

    @property
    def conserved(self) -> bool:
        """Whether no frame was lost or counted twice: in == done + dropped + in flight."""
        return self.frames_in == self.done + int(self.dropped.sum()) + self.in_flight


def simulate(
    arrival_s: FloatArray,
    stream: IntArray,
    batch_seconds: BatchSeconds,
    waiting: WaitingFrames,
    *,
    batch: int = 1,
    until_s: float = math.inf,
) -> SimulatedRun:
    """Let frames through one server.

    Args:
        arrival_s: when each comes, float64 (n,), rising.
        stream: whose it is, intp (n,).
        batch_seconds: what frames take; called once for each batch, in the order of service.
        waiting: the empty queue; it decides who is next and who is dropped.
        batch: most frames taken at once.
        until_s: end here, with frames in flight; otherwise when all are done.
    """
    times, streams, frames = arrival_s.tolist(), stream.tolist(), len(arrival_s)
    began_s, ended_s = np.full(frames, np.nan), np.full(frames, np.nan)
    dropped = np.zeros(frames, dtype=np.bool_)
    serving: list[int] = []
    free_s, now_s, busy_s, arrived = math.inf, 0.0, 0.0, 0
    while True:
        arrives_s = times[arrived] if arrived < frames else math.inf
        next_s = min(arrives_s, free_s)
        if math.isinf(next_s) or next_s > until_s:
            break
        now_s = next_s
        if free_s <= arrives_s:
            ended_s[serving] = now_s
            serving, free_s = [], math.inf
        else:
            lost = waiting.push(arrived, streams[arrived])
            if lost is not None:
                dropped[lost] = True
            arrived += 1
        if not serving and len(waiting):
            serving = waiting.take(batch)
            took_s = batch_seconds([streams[frame] for frame in serving], now_s)
            began_s[serving] = now_s
            free_s = now_s + took_s
            busy_s += min(took_s, until_s - now_s)
    return SimulatedRun(
        arrival_s, began_s, ended_s, dropped, arrived, len(waiting) + len(serving), busy_s, min(until_s, now_s)
    )
