"""Several sources through one worker: a reader and a writer thread for each, and one that hands frames to the worker."""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from nerve_runtime import FrameResult, HungError, NerveError, ResourceError, UsageError
from nerve_stream.monitoring.health import Health
from nerve_stream.pipeline.clocks import AwakeClock, Pacer
from nerve_stream.pipeline.hang_limit import LEAST_S
from nerve_stream.pipeline.job import StreamControl, StreamJob, StreamOptions, StreamReport
from nerve_stream.pipeline.queues import FrameQueues, QueuedFrame
from nerve_stream.pipeline.source import RunningSource, closed_soon
from nerve_stream.pipeline.worker import FrameLostError, Worker
from nerve_stream.redaction import redacted
from nerve_stream.sources.base import FrameSource

POLL_S = 0.05
FROZEN_TIMEOUTS = 3
"""Hang timeouts that a file may take to deliver a frame: its disk may have to spin up, or be on a network."""
READER_TIMEOUT_S = 0.2
WORKER_TIMEOUT_S = 1.5
ABORT_TIMEOUT_S = 1.0
WRITE_DEADLINE_S = 4.0
STOP_DEADLINE_S = 4.8
"""Seconds after a stop: when sources whose readers still run are closed; when the worker is aborted, and how long that
may take; when results not yet written are dropped; when every thread has to have ended. SIGTERM to exit may take 5 s."""

logger = logging.getLogger("nerve_runtime")


def run_streams(
    jobs: Sequence[StreamJob],
    worker: Worker,
    options: StreamOptions | None = None,
    *,
    stop: threading.Event,
    control: StreamControl | None = None,
    health: Health | None = None,
    idle: Callable[[], None] | None = None,
) -> list[StreamReport]:
    """Read, segment and write the frames of all sources; call from the main thread, which only waits and so hears signals.

    Sources take turns, so that none gets more than its share while another waits. One that fails or ends leaves the
    others alone; its error is in its report, also when it was the only one, and is not raised. For every source, at any
    moment, frames in == done + dropped + in flight.

    Args:
        jobs: the sources, each with a name of its own.
        worker: segments; it stays open.
        options: how frames are treated.
        stop: set it, in a signal handler say, to end early: reading ends at once, frames in the worker have 1.5 s to
            come out, what is segmented is written, and all is over within 5 s.
        control: pauses the run.
        health: is given the run, for whoever asks about it.
        idle: called by the calling thread about twenty times a second, for a window.

    Returns:
        a report for each job, in order; nothing is in flight any more.

    Raises:
        UsageError: there is no job, or two have the same name.
        NerveError: the worker failed, and so nothing can go on.
        HungError: a thread did not end; the message names it.
        BaseException: a bug met by any thread.
    """
    names = [redacted(job.name) for job in jobs]
    if not jobs or len(set(names)) < len(names):
        raise UsageError(f"sources are {', '.join(names) or 'none'}, expected one or more with different names")
    run = _Run(jobs, worker, options or StreamOptions(), stop)
    if health is not None:
        health.begin([source.observed() for source in run.sources], worker)
    unlisten = (control or StreamControl()).listen(lambda paused: run.queues.set_paused(paused=paused), run.queues.step)
    try:
        run.start()
        run.wait(idle)
    finally:
        unlisten()
        run.end()
    run.raise_fatal()
    return [source.report(stopped=stop.is_set()) for source in run.sources]


class _Run:
    """The threads of one run, and the first thing that went wrong for all."""

    def __init__(
        self, jobs: Sequence[StreamJob], worker: Worker, options: StreamOptions, stop: threading.Event
    ) -> None:
        self.queues = FrameQueues([job.live for job in jobs], realtime=options.realtime)
        self.sources = [RunningSource(job, number, self.queues) for number, job in enumerate(jobs)]
        self._worker, self._options, self._stop = worker, options, stop
        follows = options.realtime or worker.ends_hung_frames
        worker.hang_limit.fixed_s = (
            math.inf if options.hang_timeout_s is None and not follows else options.hang_timeout_s
        )
        self._fatal: BaseException | None = None
        self._ending = threading.Event()
        self._dispatching_over = threading.Event()
        self._awake = AwakeClock()
        self._threads = {"dispatch": self._thread("dispatch", self._dispatch)}
        for source in self.sources:
            self._threads[f"reader-{source.name}"] = self._thread(f"reader-{source.name}", self._read, source)
            self._threads[f"writer-{source.name}"] = self._thread(f"writer-{source.name}", self._write, source)

    def _thread(self, name: str, work: Callable[..., None], *given: object) -> threading.Thread:
        return threading.Thread(target=self._run_guarded, args=(work, *given), name=f"nerve-{name}", daemon=True)

    def _run_guarded(self, work: Callable[..., None], *given: object) -> None:
        try:
            work(*given)
        except BaseException as error:  # noqa: BLE001 - handed to the calling thread, which raises it
            self._fail_run(error)

    def _fail_run(self, error: BaseException) -> None:
        if self._fatal is None:
            self._fatal = error
        self._ending.set()

    def start(self) -> None:
        for thread in self._threads.values():
            thread.start()

    def wait(self, idle: Callable[[], None] | None) -> None:
        """Wait until every source has ended, the run is stopped, or something fails for all."""
        while not self._all_finished() and not self._stop.is_set() and not self._ending.is_set():
            if self._worker.state in ("failed", "closed"):
                self._fail_run(self._worker.error or UsageError("the worker was closed; make another"))
            self._watch_readers()
            self._end_companions()
            if idle is not None:
                idle()

    def _all_finished(self) -> bool:
        """Whether every source has ended and its outputs are finished, which may take a slow disk a while."""
        if not self.queues.wait_until_finished(POLL_S):
            return False
        writers = [self._threads[f"writer-{source.name}"] for source in self.sources]
        for writer in writers:
            writer.join(POLL_S / len(writers))
        return not any(writer.is_alive() for writer in writers)

    def _watch_readers(self) -> None:
        awake_s = self._awake.tick()
        limit_s = FROZEN_TIMEOUTS * (self._options.hang_timeout_s or LEAST_S)
        for source in self.sources:
            asked_s = source.asked_s
            if asked_s is None or source.job.live or source.error is not None or awake_s - asked_s <= limit_s:
                continue
            if getattr(source.job.frames, "resting", False):
                continue
            source.frozen = True
            self._fail(
                source, HungError(f"{source.name} delivered no frame for {limit_s:g} s; its disk or decoder hangs")
            )

    def _end_companions(self) -> None:
        """Close the sources that only accompany others once those have ended."""
        if not all(self.queues.finished(source.number) for source in self.sources if not source.job.accompanies):
            return
        for source in self.sources:
            if source.job.accompanies and not source.dismissed:
                source.dismissed = True
                closed_soon(source.job.frames, source.name)

    def _read(self, source: RunningSource) -> None:
        paced = self._options.realtime and isinstance(source.job.frames, FrameSource) and not source.job.live
        pacer = Pacer() if paced else None
        try:
            for frame in source.asked_frames(lambda: self._awake.awake_s):
                if self._ending.is_set() or self._stop.is_set():
                    break
                if pacer is not None:
                    self._ending.wait(pacer.pause_s(frame.time_s))
                    # It was decoded ahead of its time; it arrives when it is due.
                    frame = replace(frame, arrived_ns=time.monotonic_ns())
                source.counters.count_frame()
                if not self.queues.push(source.number, frame):
                    break
            else:
                source.read_to_end = not self._ending.is_set() and not self._stop.is_set()
        except NerveError as error:
            # What was read before is still segmented and written.
            if not self._ending.is_set() and not self._stop.is_set():
                self._note_failure(source, error)
        self.queues.end_reading(source.number)

    def _dispatch(self) -> None:
        while not self._dispatching_over.is_set() and not self._stop.is_set():
            # Room first: then the newest frame is taken, not one that grew old waiting for room.
            if not self._worker.wait_room(POLL_S):
                continue
            queued = self.queues.pop(POLL_S)
            if queued is not None:
                name = self.sources[queued.source].name
                self._worker.submit(name, queued.frame, partial(self._settled, queued))

    def _settled(self, queued: QueuedFrame, outcome: FrameResult | BaseException) -> None:
        source = self.sources[queued.source]
        if isinstance(outcome, FrameResult):
            source.failures_in_a_row = 0
            self.queues.deliver(queued, outcome)
            return
        if self._ending.is_set() or self._stop.is_set():
            self.queues.drop(queued, "stopped")
            return
        self.queues.drop(queued, "failed")
        if not isinstance(outcome, NerveError):
            self._fail_run(outcome)
            return
        self._frame_failed(source, outcome)

    def _frame_failed(self, source: RunningSource, error: NerveError) -> None:
        source.last_failure = error
        source.failures_in_a_row += 1
        if source.failures_in_a_row == 1:
            logger.warning("%s: %s", source.name, error)
        may_pass = isinstance(error, (ResourceError, HungError, FrameLostError))
        if not may_pass or source.failures_in_a_row >= self._options.failures_in_a_row:
            self._fail(source, error)

    def _write(self, source: RunningSource) -> None:
        try:
            while (queued := self.queues.next_result(source.number)) is not None:
                result = queued.result
                if result is None:
                    raise RuntimeError(
                        f"frame {queued.frame.index} of {source.name} reached the writer without a result"
                    )
                try:
                    source.job.write(queued.frame, result)
                except NerveError as error:
                    self._fail(source, error)
                    continue
                if self.queues.written(queued):
                    source.counters.count_result(queued.frame, result)
        finally:
            self.queues.give_up(source.number, "failed")  # only a bug leaves anything to give up
            source.end()
            self._worker.forget(source.name)
        self._finish(source)

    def _finish(self, source: RunningSource) -> None:
        """Finish the outputs of a source that is complete, while others go on."""
        report = source.report(stopped=self._stop.is_set())
        whole = source.read_to_end and source.error is None and report.counts.failed == report.counts.stopped == 0
        if not whole or source.job.finished is None:
            return
        try:
            source.job.finished(report)
        except NerveError as error:
            self._note_failure(source, error)

    def _fail(self, source: RunningSource, error: NerveError) -> None:
        """End one source with an error and drop its frames in flight."""
        self._note_failure(source, error)
        self.queues.give_up(source.number, "failed")
        closed_soon(source.job.frames, source.name)

    def _note_failure(self, source: RunningSource, error: NerveError) -> None:
        if source.error is None:
            source.error = error
            logger.warning("%s: %s", source.name, error)

    def end(self) -> None:
        """End every thread: reading stops, results that are ready are written, the other frames are dropped."""
        started_s = time.monotonic()
        self._ending.set()
        for source in self.sources:
            self.queues.end_reading(source.number, "stopped")
        self._close_sources(started_s + READER_TIMEOUT_S)
        self._empty_worker(started_s + WORKER_TIMEOUT_S)
        self._dispatching_over.set()
        self.queues.wait_until_finished(max(0.0, started_s + WRITE_DEADLINE_S - time.monotonic()))
        for source in self.sources:
            self.queues.give_up(source.number, "stopped")
        self._join(started_s + STOP_DEADLINE_S)

    def _close_sources(self, deadline_s: float) -> None:
        """Close the sources whose readers still wait for a frame; closing may take 3 s."""
        for source in self.sources:
            reader = self._threads[f"reader-{source.name}"]
            if reader.ident is not None:
                reader.join(max(0.0, deadline_s - time.monotonic()))
            if reader.is_alive():
                closed_soon(source.job.frames, source.name)

    def _empty_worker(self, deadline_s: float) -> None:
        """Wait for the frames in the worker, and abort it when they take too long."""
        while self.queues.at_worker():
            if time.monotonic() >= deadline_s:
                self._worker.abort()
                break
            time.sleep(POLL_S / 10)
        deadline_s = time.monotonic() + ABORT_TIMEOUT_S
        while self.queues.at_worker() and time.monotonic() < deadline_s:
            time.sleep(POLL_S / 10)
        self.queues.give_up_worker("stopped")

    def _join(self, deadline_s: float) -> None:
        # A reader that hung in the middle of the run has failed its source already.
        known = {f"reader-{source.name}" for source in self.sources if source.frozen}
        threads = [thread for name, thread in self._threads.items() if thread.ident is not None and name not in known]
        for thread in threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        hung = [thread.name for thread in threads if thread.is_alive()]
        if hung and self._fatal is None:
            self._fatal = HungError(
                f"threads {', '.join(hung)} did not end within {STOP_DEADLINE_S:g} s; a source or an output may be frozen"
            )

    def raise_fatal(self) -> None:
        if self._fatal is not None:
            raise self._fatal
