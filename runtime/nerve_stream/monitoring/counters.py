"""Counters and percentiles of a run of any length, in constant memory."""

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nerve_runtime import Frame, FrameResult

DropReason = Literal["superseded", "failed", "stopped", "paused"]
DROP_REASONS: tuple[DropReason, ...] = ("superseded", "failed", "stopped", "paused")

PERCENTILES = (50, 90, 99)
KEPT_RUNS = 4096
"""Latest runs of a stage, or frames of a source, that percentiles are computed over: under 3 minutes at 25 fps."""
AGE_WINDOW_S = 60.0
FPS_WINDOW_S = 5.0
NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SourceCounts:
    """How many frames of one source are done, dropped or in flight, all at the same moment.

    Attributes:
        frames_in: frames that the source delivered.
        done: of these, those whose result was written.
        superseded: dropped because a newer frame came before this one, or its result, was taken (realtime only).
        failed: dropped because segmenting or writing them failed.
        stopped: dropped because the run was ended.
        paused: dropped because a live source went on during a pause.
        in_flight: not yet done or dropped.
    """

    frames_in: int = 0
    done: int = 0
    superseded: int = 0
    failed: int = 0
    stopped: int = 0
    paused: int = 0
    in_flight: int = 0

    @property
    def dropped(self) -> int:
        """Frames that came in and will never be written, for any reason."""
        return sum(self.dropped_by_reason.values())

    @property
    def dropped_by_reason(self) -> dict[DropReason, int]:
        """The same by reason."""
        return {reason: getattr(self, reason) for reason in DROP_REASONS}

    @property
    def conserved(self) -> bool:
        """Whether no frame was lost or counted twice: in == done + dropped + in flight."""
        return self.frames_in == self.done + self.dropped + self.in_flight


class RingBuffer:
    """The latest numbers of a series, float64 (up to `size`,), and how many there were in all."""

    def __init__(self, size: int = KEPT_RUNS) -> None:
        self.total = 0
        # Filled rather than reserved: memory first touched after minutes would look like a leak.
        self._values: FloatArray = np.full(size, np.nan, dtype=np.float64)

    def add(self, value: float) -> None:
        """Add a number; the oldest is overwritten."""
        self._values[self.total % len(self._values)] = value
        self.total += 1

    def latest(self) -> FloatArray:
        """A copy of the numbers, oldest first."""
        size = len(self._values)
        if self.total <= size:
            return self._values[: self.total].copy()
        return np.roll(self._values, -(self.total % size))


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Percentiles of a series in milliseconds; all 0 while nothing was measured.

    Attributes:
        runs: how many values there were in all; the percentiles are those of the latest.
    """

    p50_ms: float = 0.0
    p90_ms: float = 0.0
    p99_ms: float = 0.0
    worst_ms: float = 0.0
    runs: int = 0

    @classmethod
    def of(cls, values_ms: FloatArray, runs: int) -> "Percentiles":
        """The percentiles of float64 (n,) milliseconds, of `runs` values in all."""
        if len(values_ms) == 0:
            return cls(runs=runs)
        low, middle, high = (round(float(value), 3) for value in np.percentile(values_ms, PERCENTILES))
        return cls(low, middle, high, round(float(values_ms.max()), 3), runs)

    def as_record(self) -> dict[str, Any]:
        """Plain numbers by name."""
        return asdict(self)


class StageTimes:
    """Milliseconds of the latest runs of every stage."""

    def __init__(self) -> None:
        self._durations_ms: dict[str, RingBuffer] = {}

    def add(self, timings_ms: dict[str, float]) -> None:
        """Add the stages of one frame."""
        for stage, duration_ms in timings_ms.items():
            self._durations_ms.setdefault(stage, RingBuffer()).add(duration_ms)

    def latest(self) -> dict[str, tuple[FloatArray, int]]:
        """For each stage its latest milliseconds and how often it ran in all."""
        return {stage: (ring.latest(), ring.total) for stage, ring in self._durations_ms.items()}

    def percentiles(self) -> dict[str, Percentiles]:
        """Percentiles by stage."""
        return {stage: Percentiles.of(values_ms, runs) for stage, (values_ms, runs) in self.latest().items()}


def merged_percentiles(all_times: list[dict[str, tuple[FloatArray, int]]]) -> dict[str, Percentiles]:
    """Percentiles by stage over several sources."""
    merged = {}
    for stage in dict.fromkeys(stage for times in all_times for stage in times):
        of_stage = [times[stage] for times in all_times if stage in times]
        values_ms = np.concatenate([values for values, _ in of_stage])
        merged[stage] = Percentiles.of(values_ms, sum(runs for _, runs in of_stage))
    return merged


@dataclass(frozen=True, slots=True)
class SourceProgress:
    """The numbers of `SourceCounters` at one moment.

    Attributes:
        written: results written.
        invalid: of these, how many had scores that are not finite.
        keyframes: of these, how many computed attention anew.
        fps: results written a second, over the last 5 seconds.
        age: time from a frame's arrival to its result being written, of frames written in the last 60 s (at most 4096).
        worst_age_ms: the longest of the whole run.
        since_frame_s: seconds since the source delivered a frame, None if it has not.
    """

    written: int
    invalid: int
    keyframes: int
    fps: float
    age: Percentiles
    worst_age_ms: float
    since_frame_s: float | None


class SourceCounters:
    """Counts the results of one source and measures their ages; thread-safe."""

    def __init__(self, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._written = self._invalid = self._keyframes = 0
        self._stages = StageTimes()
        self._written_ns, self._ages_ms = RingBuffer(), RingBuffer()
        self._worst_age_ms = 0.0
        self._arrived_ns: int | None = None

    def count_frame(self) -> None:
        """Count a frame that the source delivers now."""
        self._arrived_ns = self._clock_ns()

    def count_result(self, frame: Frame, result: FrameResult) -> None:
        """Count a result that was written now."""
        now_ns = self._clock_ns()
        age_ms = (now_ns - frame.arrived_ns) / NS_PER_MS
        with self._lock:
            self._written += 1
            self._invalid += not result.valid
            self._keyframes += result.keyframe
            self._stages.add(result.timings_ms)
            self._written_ns.add(now_ns)
            self._ages_ms.add(age_ms)
            self._worst_age_ms = max(self._worst_age_ms, age_ms)

    def stage_times(self) -> dict[str, tuple[FloatArray, int]]:
        """For each stage its latest milliseconds and how often it ran in all."""
        with self._lock:
            return self._stages.latest()

    def progress(self) -> SourceProgress:
        """All numbers of this moment."""
        now_ns = self._clock_ns()
        arrived_ns = self._arrived_ns
        with self._lock:
            written_ns, ages_ms = self._written_ns.latest(), self._ages_ms.latest()
            counts = (self._written, self._invalid, self._keyframes)
            worst_age_ms = self._worst_age_ms
        recent_ms = ages_ms[written_ns >= now_ns - AGE_WINDOW_S * NS_PER_S]
        since_frame_s = None if arrived_ns is None else round((now_ns - arrived_ns) / NS_PER_S, 3)
        age = Percentiles.of(recent_ms, counts[0])
        return SourceProgress(*counts, _fps(written_ns, now_ns), age, round(worst_age_ms, 3), since_frame_s)


def _fps(written_ns: FloatArray, now_ns: int) -> float:
    """Results a second over the last seconds, as far back as they are kept."""
    recent_ns = written_ns[written_ns > now_ns - FPS_WINDOW_S * NS_PER_S]
    if len(recent_ns) < 2:
        return 0.0
    # From the first frame in the window to now: correct at the start of a run, and falling when no frames come.
    span_s = (now_ns - recent_ns[0]) / NS_PER_S
    return round(float((len(recent_ns) - 1) / span_s), 2) if span_s > 0 else 0.0
