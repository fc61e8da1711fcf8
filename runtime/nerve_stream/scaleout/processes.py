"""`--workers N`: the chunks of a job by N processes of this machine, which are started again when they die."""

import logging
import os
import queue
import shutil
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path

from nerve_runtime import NerveError, ResourceError
from nerve_stream.child import Child, MessageError
from nerve_stream.pipeline.messages import receive_message, send_message
from nerve_stream.scaleout.child import Chunk
from nerve_stream.scaleout.job import Job, JobInput, Outcome

TARGET = "nerve_stream.scaleout.child:main"
POLL_S = 0.2
STOP_TIMEOUT_S = 8.0
"""A worker ends within 5 s of SIGTERM, see `run_streams`."""
USELESS_STARTS = 3
"""Workers that died one after the other without an outcome: no input is to blame, they give up after two."""

logger = logging.getLogger("nerve_runtime")


def run_on_processes(
    job: Job, chunks: Sequence[Sequence[JobInput]], workers: int, stop: threading.Event
) -> Generator[Outcome, None, None]:
    """Do the chunks and give each input's outcome as it comes.

    Args:
        job: what to do.
        chunks: of inputs.
        workers: processes.
        stop: ends the job early, within 8 s; inputs that were not done have no outcome then.

    Raises:
        ResourceError: the processes die without doing anything.
        BaseException: a bug met by any thread.
    """
    run = _Run(job, chunks, stop)
    numbers = range(min(workers, len(chunks)))
    threads = [threading.Thread(target=run.supervise, name=f"nerve-job-{n}", daemon=True) for n in numbers]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads) or not run.outcomes.empty():
            if stop.is_set() or run.ending:
                run.end()
            with suppress(queue.Empty):
                yield run.outcomes.get(timeout=POLL_S)
    finally:
        run.end()
        for thread in threads:
            thread.join()
        # Of workers that were killed: copies of inputs behind URLs may be gigabytes.
        for left in Path(tempfile.gettempdir()).glob(f"{job.scratch_prefix}*"):
            shutil.rmtree(left, ignore_errors=True)
    if run.fatal is not None:
        raise run.fatal


class _Run:
    """The chunks that wait, the processes that run, and the outcomes so far."""

    def __init__(self, job: Job, chunks: Sequence[Sequence[JobInput]], stop: threading.Event) -> None:
        self.outcomes: queue.Queue[Outcome] = queue.Queue()
        self.fatal: BaseException | None = None
        self._job, self._stop = job, stop
        self._waiting = deque(chunks)
        self._ending = threading.Event()
        self._children: set[Child] = set()
        self._ended = False
        self._lock = threading.Lock()

    @property
    def ending(self) -> bool:
        """Whether no further input is begun."""
        return self._ending.is_set()

    def supervise(self) -> None:
        """What each thread does: chunk after chunk in a process of its own."""
        child: Child | None = None
        try:
            while not self._ending.is_set() and (chunk := self._next_chunk()):
                child = self._do(list(chunk), child)
        except BaseException as error:  # noqa: BLE001 - handed to the calling thread, which raises it
            self.fatal = self.fatal or error
            self._ending.set()
        finally:
            if child is not None:
                self._close(child)

    def _next_chunk(self) -> Sequence[JobInput] | None:
        with suppress(IndexError):
            return self._waiting.popleft()
        return None

    def _do(self, inputs: list[JobInput], child: Child | None) -> Child | None:
        """Do a chunk, with as many processes one after the other as it takes; the last one goes on."""
        useless = 0
        while inputs and not self._ending.is_set():
            child = child or self._start()
            before = len(inputs)
            try:
                self._exchange(child, inputs)
            except (OSError, MessageError):
                ending = child.ending()
                self._close(child)
                child = None
                useless = useless + 1 if len(inputs) == before else 0
                if not self._ending.is_set():
                    logger.warning("a worker process %s; another takes its place", ending)
                if useless >= USELESS_STARTS:
                    raise ResourceError(
                        f"{useless} worker processes in a row ended before any input was done, the last one {ending}; "
                        "memory may be short: use fewer --workers"
                    ) from None
        return child

    def _exchange(self, child: Child, inputs: list[JobInput]) -> None:
        send_message(child.connection, Chunk(tuple(inputs)))
        while inputs:
            outcome: Outcome = receive_message(child.connection)
            inputs.pop(0)
            self.outcomes.put(outcome)
            if outcome.fatal:
                self._ending.set()

    def _start(self) -> Child:
        child = Child(TARGET)
        with self._lock:
            self._children.add(child)
            too_late = self._ended
        if too_late:
            _terminate(child)
        send_message(child.connection, self._job)
        return child

    def _close(self, child: Child) -> None:
        with self._lock:
            self._children.discard(child)
        if self._ending.is_set():
            child.wait(STOP_TIMEOUT_S)
        with suppress(NerveError):  # a process that cannot be killed; nothing more can be done about it here
            child.close()

    def end(self) -> None:
        """Have every process end its input; what it wrote of it is deleted."""
        self._ending.set()
        with self._lock:
            children, self._ended = ([] if self._ended else list(self._children)), True
        for child in children:
            _terminate(child)


def _terminate(child: Child) -> None:
    with suppress(ProcessLookupError):
        os.kill(child.pid, signal.SIGTERM)
