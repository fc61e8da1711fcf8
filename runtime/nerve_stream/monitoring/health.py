"""The health of a run: frames, ages, drops and reconnects of every source; stages, worker and process."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, get_args

import psutil

from nerve_stream.monitoring.counters import Percentiles, SourceCounters, SourceCounts, merged_percentiles
from nerve_stream.redaction import redacted
from nerve_stream.sources.base import SourceState

SOURCE_STATES: tuple[str, ...] = get_args(SourceState)
WorkerState = Literal["opening", "ready", "restarting", "failed", "closed"]


class ObservedWorker(Protocol):
    """What `Health` reads of a worker."""

    @property
    def ready(self) -> bool:
        """Whether the next frame is expected to succeed."""

    @property
    def state(self) -> WorkerState:
        """What the worker does now."""

    @property
    def restarts(self) -> int:
        """How often it was restarted."""


@dataclass(slots=True)
class ObservedSource:
    """One source of a run, as `Health` reads it.

    Attributes:
        name: without its folder and without credentials.
        frames: the source itself; `state`, `reconnects`, `last_error` and `live` are read where it has them.
        counts: returns its frame counts.
        counters: of its results.
        error: returns the error that ended it, or None.
        ended: returns whether the run is done with it.
        last_failure: returns the error that failed a frame last, or None.
    """

    name: str
    frames: object
    counts: Callable[[], SourceCounts]
    counters: SourceCounters
    error: Callable[[], BaseException | None]
    ended: Callable[[], bool]
    last_failure: Callable[[], BaseException | None]


@dataclass(frozen=True, slots=True)
class SourceHealth:
    """One source at one moment.

    Attributes:
        state: "failed" and "ended" are final.
        live: a camera or a stream, whose frames come at their own pace.
        counts: of its frames; their sum is exact.
        fps: results written a second, over the last 5 seconds.
        age: from a frame's arrival to its result being written, of the last 60 seconds.
        worst_age_ms: the longest of the run.
        since_frame_s: seconds since the source delivered a frame, None if it never did.
        reconnects: how often the source came back after a loss.
        lost_at_source: frames that a live source replaced before they were read; not part of `counts`.
        last_error: the last error of the source or one of its frames, without credentials; None if there was none.
        keyframes: frames whose attention was computed anew.
        invalid: frames whose scores were not finite.
    """

    name: str
    state: SourceState
    live: bool
    counts: SourceCounts
    fps: float
    age: Percentiles
    worst_age_ms: float
    since_frame_s: float | None
    reconnects: int
    lost_at_source: int
    last_error: str | None
    keyframes: int
    invalid: int


@dataclass(frozen=True, slots=True)
class ProcessHealth:
    """Memory, files and threads of this process and its children.

    Attributes:
        rss_bytes: resident memory of this process.
        children_rss_bytes: of all its children together; memory that they share is counted for each.
        open_files: file descriptors open in this process.
        threads: of this process.
        children: child processes, including those that ended and were not waited for.
    """

    rss_bytes: int
    children_rss_bytes: int
    open_files: int
    threads: int
    children: int


@dataclass(frozen=True, slots=True)
class HealthSnapshot:
    """A run at one moment.

    Attributes:
        ready: the worker answers and its numbers are finite.
        worker_state: "closed" while there is none.
        worker_restarts: how often the worker was restarted.
        uptime_s: seconds since health was made.
        sources: in the order of the command line.
        stages: milliseconds by stage over all sources, of the latest runs.
        process: memory, files and threads.
    """

    ready: bool
    worker_state: WorkerState
    worker_restarts: int
    uptime_s: float
    sources: tuple[SourceHealth, ...]
    stages: dict[str, Percentiles]
    process: ProcessHealth

    def as_json(self) -> dict[str, Any]:
        """The snapshot as plain numbers, strings and None for JSON; `dropped` as a sum and by reason."""
        record = asdict(self)
        for source_record, source in zip(record["sources"], self.sources, strict=True):
            counts = source.counts
            source_record["counts"] = {
                "frames_in": counts.frames_in,
                "done": counts.done,
                "in_flight": counts.in_flight,
                "dropped": counts.dropped,
                "dropped_by_reason": counts.dropped_by_reason,
            }
        return {**record, "sources": list(record["sources"])}


class Health:
    """Observes the current run; made once, given to `run_streams`, read from any thread.

    State: the sources and the worker of the latest run, which can be read after its end too.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started_s = clock()
        self._lock = threading.Lock()
        self._sources: Sequence[ObservedSource] = ()
        self._worker: ObservedWorker | None = None
        self._process = psutil.Process()

    def begin(self, sources: Sequence[ObservedSource], worker: ObservedWorker) -> None:
        """Observe another run instead of the last, so that a day of short clips costs no memory."""
        with self._lock:
            self._sources, self._worker = tuple(sources), worker

    def snapshot(self) -> HealthSnapshot:
        """All numbers of this moment; takes a few milliseconds to look up the memory of the children."""
        with self._lock:
            sources, worker = self._sources, self._worker
        return HealthSnapshot(
            ready=worker is not None and worker.ready,
            worker_state=worker.state if worker is not None else "closed",
            worker_restarts=worker.restarts if worker is not None else 0,
            uptime_s=round(self._clock() - self._started_s, 3),
            sources=tuple(_source_health(source) for source in sources),
            stages=merged_percentiles([source.counters.stage_times() for source in sources]),
            process=process_health(self._process),
        )


def _source_health(source: ObservedSource) -> SourceHealth:
    progress = source.counters.progress()
    problems = (source.error(), getattr(source.frames, "last_error", None), source.last_failure())
    latest = next((str(problem) for problem in problems if problem is not None), None)
    return SourceHealth(
        name=redacted(source.name),
        state=_state(source),
        live=_is_live(source.frames),
        counts=source.counts(),
        fps=progress.fps,
        age=progress.age,
        worst_age_ms=progress.worst_age_ms,
        since_frame_s=progress.since_frame_s,
        reconnects=int(getattr(source.frames, "reconnects", 0)),
        lost_at_source=int(getattr(source.frames, "lost", 0)),
        last_error=None if latest is None else redacted(latest),
        keyframes=progress.keyframes,
        invalid=progress.invalid,
    )


def _state(source: ObservedSource) -> SourceState:
    if source.error() is not None:
        return "failed"
    if source.ended():
        return "ended"
    # Frames may still be in flight when the source itself has ended.
    state: SourceState = getattr(source.frames, "state", "streaming")
    return "streaming" if state == "ended" else state


def _is_live(frames: object) -> bool:
    return bool(getattr(frames, "live", False))


def process_health(process: psutil.Process | None = None) -> ProcessHealth:
    """Memory, files and threads of this process, or another, and its children."""
    process = process or psutil.Process()
    children = process.children(recursive=True)
    children_rss_bytes = 0
    for child in children:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # ended meanwhile, or another user's
            children_rss_bytes += child.memory_info().rss
    return ProcessHealth(
        rss_bytes=process.memory_info().rss,
        children_rss_bytes=children_rss_bytes,
        open_files=process.num_fds(),
        threads=process.num_threads(),
        children=len(children),
    )
