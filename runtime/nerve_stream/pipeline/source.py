"""One source of a run: its job, its numbers and what became of it."""

import logging
import threading
import time
from collections.abc import Callable, Iterator

from nerve_runtime import Frame, NerveError
from nerve_stream.monitoring.counters import SourceCounters, merged_percentiles
from nerve_stream.monitoring.health import ObservedSource
from nerve_stream.pipeline.job import StreamJob, StreamReport
from nerve_stream.pipeline.queues import FrameQueues
from nerve_stream.redaction import redacted
from nerve_stream.sources.base import FrameSource

logger = logging.getLogger("nerve_runtime")


class RunningSource:
    """A source while its run goes on.

    Attributes:
        job: what to read and where to write.
        number: of its queues.
        name: the job's, without credentials.
        counters: its results.
        error: what ended it early, or None.
        last_failure: the error of the last frame that was lost to one, or None.
        failures_in_a_row: frames lost to errors since the last good one.
        asked_s: when its next frame was asked for, while that is not there; None otherwise.
        frozen: it delivered no frame in time; its reader thread may never end.
        read_to_end: it gave all its frames.
        dismissed: it was closed because the sources that it accompanies have ended.
    """

    def __init__(self, job: StreamJob, number: int, queues: FrameQueues) -> None:
        self.job = job
        self.number = number
        self.name = redacted(job.name)
        self.counters = SourceCounters()
        self.error: NerveError | None = None
        self.last_failure: NerveError | None = None
        self.failures_in_a_row = 0
        self.asked_s: float | None = None
        self.frozen = False
        self.read_to_end = False
        self.dismissed = False
        self._queues = queues
        self._started_s = time.monotonic()
        self._ended_s: float | None = None

    def asked_frames(self, now_s: Callable[[], float]) -> Iterator[Frame]:
        """The frames of the job; `asked_s` is set while the next one has been asked for and is not there."""
        self.asked_s = now_s()
        for frame in self.job.frames:
            self.asked_s = None
            yield frame
            self.asked_s = now_s()
        self.asked_s = None

    def end(self) -> None:
        """Note that nothing will be written any more."""
        self.asked_s = None
        self._ended_s = time.monotonic()

    def observed(self) -> ObservedSource:
        """The source as health sees it."""
        return ObservedSource(
            name=self.name,
            frames=self.job.frames,
            counts=lambda: self._queues.counts(self.number),
            counters=self.counters,
            error=lambda: self.error,
            ended=lambda: self._queues.finished(self.number),
            last_failure=lambda: self.last_failure,
        )

    def report(self, *, stopped: bool) -> StreamReport:
        """What became of it.

        Args:
            stopped: the run was asked to stop.
        """
        counts, progress = self._queues.counts(self.number), self.counters.progress()
        ended_s = time.monotonic() if self._ended_s is None else self._ended_s
        return StreamReport(
            name=self.name,
            frames=counts.done,
            invalid=progress.invalid,
            keyframes=progress.keyframes,
            counts=counts,
            seconds=ended_s - self._started_s,
            stages=merged_percentiles([self.counters.stage_times()]),
            age=progress.age,
            worst_age_ms=progress.worst_age_ms,
            stopped=stopped and not (self.read_to_end and counts.stopped == 0),
            error=self.error,
            last_failure=self.last_failure,
        )


def closed_soon(frames: object, name: str) -> None:
    """Close a source in a thread of its own, as that may take seconds; a reader that waits for a frame then ends."""
    if isinstance(frames, FrameSource):
        threading.Thread(target=_close, args=(frames, name), name=f"nerve-close-{name}", daemon=True).start()


def _close(frames: FrameSource, name: str) -> None:
    try:
        frames.close()
    except NerveError as error:
        logger.warning("%s: %s", name, redacted(str(error)))
