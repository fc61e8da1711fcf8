"""A worker in a process of its own, which is ended and started again when it hangs or crashes, while the run goes on."""

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from nerve_runtime import CompatibilityError, Frame, FrameResult, HungError, NerveError, ResourceError
from nerve_stream.backoff import Backoff, RestartBudget
from nerve_stream.child import TERMINATE_TIMEOUT_S, Child, MessageError
from nerve_stream.monitoring.health import WorkerState
from nerve_stream.pipeline.messages import (
    ClassesAnswer,
    ClassesRequest,
    ForgetRequest,
    FrameRequest,
    NotOpened,
    Opened,
    OpenRequest,
    Outcome,
    receive_message,
    send_message,
)
from nerve_stream.pipeline.worker import Classes, FrameLostError, Settle, VideoSegmenter, Worker, hung_error

TARGET = "nerve_stream.pipeline.worker_child:main"
WATCH_S = 0.05
OPEN_TIMEOUT_S = 300.0
"""Reading an engine of some gigabytes from an SD card takes minutes."""
CLOSE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class _Task:
    video: str
    frame: Frame
    settle: Settle
    since_s: float


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a child is ended, which its frames get as their error, and whether another may follow."""

    reason: BaseException
    final: bool


class ProcessWorker(Worker):
    """Segments in a child process, which opens the segmenter itself.

    A child that crashes, or keeps a frame for longer than `hang_limit`, is terminated (and killed 2 s later) and
    another is started when it is gone; the frames in it are lost. After 5 restarts in 60 s the worker has failed.

    Args:
        opener: opens the segmenter, in the child; something that can be pickled, such as `SegmenterOptions(...).open`.
        overlap: encode a frame while the one before is decoded.
        budget: how often a child may be started again.
        backoff: how soon.
        open_timeout_s: a child that takes longer to open the segmenter hangs.

    Raises:
        NerveError: the segmenter cannot be opened; of the same type as in this process.
    """

    ends_hung_frames = True

    def __init__(
        self,
        opener: Callable[[], VideoSegmenter],
        *,
        overlap: bool = True,
        budget: RestartBudget | None = None,
        backoff: Backoff | None = None,
        open_timeout_s: float = OPEN_TIMEOUT_S,
    ) -> None:
        super().__init__()
        self._open_request = OpenRequest(opener, overlap)
        self._budget, self._backoff = budget or RestartBudget(), backoff or Backoff()
        self._open_timeout_s = open_timeout_s
        self._child: Child | None = None
        self._failure: _Failure | None = None
        self._room = self._closing = False
        self._finite = True
        self._tasks: dict[int, _Task] = {}
        self._number = 0
        self._backend = ""
        self._class_names: tuple[str, ...] = ()
        self._naming = threading.Lock()
        self._classes_answer: ClassesAnswer | None = None
        # One thread starts all children: the kernel ends a child with the thread that started it.
        self._supervisor = threading.Thread(target=self._run_guarded, name="nerve-worker", daemon=True)
        self._supervisor.start()
        self._wait_until_opened()

    def _wait_until_opened(self) -> None:
        try:
            while self.state == "opening":
                with self._changed:
                    self._changed.wait(WATCH_S)  # short, so that signals are heard meanwhile
        except BaseException:
            self.close()
            raise
        if self.error is not None:
            self.close()
            raise self.error

    @property
    def ready(self) -> bool:
        """A child answers, and its latest scores were finite."""
        return self.state == "ready" and self._finite

    @property
    def restarts(self) -> int:
        """How often another child was started."""
        return self._budget.total

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label."""
        return self._class_names

    @property
    def pid(self) -> int | None:
        """Number of the child process, None while there is none."""
        child = self._child
        return None if child is None else child.pid

    def describe(self) -> str:
        """What runs the graphs, in words."""
        return self._backend

    def wait_room(self, timeout_s: float) -> bool:
        """Wait until the child would begin a frame at once."""
        with self._changed:
            return self._changed.wait_for(lambda: self._room and self.state == "ready", timeout_s)

    def submit(self, video: str, frame: Frame, settle: Settle) -> None:
        """Send a frame to the child."""
        with self._changed:
            child = self._child
            if child is not None:
                self._number += 1
                number, self._room = self._number, False
                self._tasks[number] = _Task(video, frame, settle, self._awake.awake_s)
        if child is None:
            settle(self.error or self._gone())
            return
        _send(child, FrameRequest(number, video, frame))

    def set_classes(self, classes: Classes, background: tuple[str, ...] | str = ()) -> tuple[str, ...]:
        """Have the child use another class list, and every child after it."""
        with self._naming:
            with self._changed:
                child, self._classes_answer = self._child, None
            if child is None:
                raise self._gone()
            request = ClassesRequest(classes, background)
            _send(child, request)
            with self._changed:
                self._changed.wait_for(lambda: self._classes_answer is not None or self._child is not child)
                answer = self._classes_answer
            if answer is None:
                raise self._gone()
            if isinstance(answer.class_names, Exception):
                raise answer.class_names
            self._class_names = answer.class_names
            self._open_request = replace(self._open_request, classes=request)
            return answer.class_names

    def _gone(self) -> NerveError:
        words = "was closed; make another" if self._closing else "is being started again"
        return FrameLostError(f"the worker process {words}")

    def forget(self, video: str) -> None:
        """Have the child release the state of a video."""
        child = self._child
        if child is not None:
            _send(child, ForgetRequest(video))

    def abort(self) -> None:
        """End the child; the frames in it are lost."""
        self._closing = True

    def close(self) -> None:
        """End the child and wait for it.

        Raises:
            HungError: it cannot be ended.
        """
        self._closing = True
        self._supervisor.join(CLOSE_TIMEOUT_S)
        if self._supervisor.is_alive():
            raise HungError(f"the worker process {self.pid} did not end within {CLOSE_TIMEOUT_S:g} s")

    def _run_guarded(self) -> None:
        try:
            self._supervise()
        except BaseException as error:  # noqa: BLE001 - a bug; whoever waits for the worker raises it
            self._finish("failed", error)

    def _supervise(self) -> None:
        while (failure := self._run_child()) is not None:
            self._settle_all(failure.reason)
            if failure.final or not self._may_start_again():
                self._finish("failed", failure.reason if failure.final else self._crash_loop(failure.reason))
                return
        self._finish("closed", None)

    def _run_child(self) -> _Failure | None:
        """Start a child and end it when it has to be; None when the worker is closed."""
        self._failure, self._room = None, False
        child = Child(TARGET, shows_output=True)
        receiver = threading.Thread(target=self._receive, args=(child,), name="nerve-receiver", daemon=True)
        receiver.start()
        try:
            with self._changed:
                self._child = child
            _send(child, self._open_request)
            failure = self._watch()
        finally:
            with self._changed:
                self._child = None
                self.state = "restarting" if self.state == "ready" else self.state
                self._changed.notify_all()
            child.close(timeout_s=0)
            receiver.join()
        return None if self._closing else failure

    def _watch(self) -> _Failure | None:
        """Wait until the child has to be ended."""
        started_s = self._awake.tick()
        while not self._closing and self._failure is None:
            with self._changed:
                self._changed.wait_for(lambda: self._failure is not None, WATCH_S)
            awake_s = self._awake.tick()
            if self.state != "ready" and awake_s - started_s > self._open_timeout_s:
                return _Failure(self._open_hung(), final=True)
            if (overdue := self._overdue(awake_s)) is not None:
                return overdue
        return self._failure

    def _receive(self, child: Child) -> None:
        """Handle the child's messages until it is gone, in a thread of its own, as a child may hang within a message."""
        try:
            while True:
                self._handle(receive_message(child.connection))
        except (OSError, MessageError):
            death = _death(child)
            failure = _Failure(FrameLostError(f"a frame was lost: {death}", death), final=False)
        except BaseException as error:  # noqa: BLE001 - a bug; whoever waits for the worker raises it
            failure = _Failure(error, final=True)
        self._note_failure(failure)

    def _note_failure(self, failure: _Failure) -> None:
        with self._changed:
            self._failure = self._failure or failure
            self._changed.notify_all()

    def _handle(self, message: object) -> None:
        if isinstance(message, Outcome):
            self._handle_outcome(message)
        elif isinstance(message, NotOpened):
            self._note_failure(_Failure(message.error, final=True))
        else:
            with self._changed:
                if isinstance(message, Opened):
                    self._backend, self._class_names = message.backend, message.class_names
                    self.state, self._finite = "ready", True
                elif isinstance(message, ClassesAnswer):
                    self._classes_answer = message
                else:
                    self._room = True
                self._changed.notify_all()

    def _handle_outcome(self, outcome: Outcome) -> None:
        self._finite = outcome.ready
        with self._changed:
            task = self._tasks.pop(outcome.number, None)
        if task is None:
            return
        if isinstance(outcome.result, FrameResult):
            self._backoff.reset()
            self.hang_limit.add(self._awake.awake_s - task.since_s, keyframe=outcome.result.keyframe)
        task.settle(outcome.result)

    def _overdue(self, awake_s: float) -> _Failure | None:
        with self._changed:
            tasks = list(self._tasks.values())
        oldest = min(tasks, key=lambda task: task.since_s, default=None)
        limit_s = self.hang_limit.seconds
        if oldest is None or awake_s - oldest.since_s <= limit_s:
            return None
        consequence = "the frame is lost and the worker is started again; if it happens often, use a smaller preset"
        return _Failure(hung_error(oldest.frame, oldest.video, limit_s, consequence), final=False)

    def _may_start_again(self) -> bool:
        """Take one restart from the budget and wait for its time."""
        if not self._budget.grant():
            return False
        until_s = time.monotonic() + self._backoff.delay_s()
        while not self._closing and (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(WATCH_S, left_s))
        return True

    def _crash_loop(self, reason: BaseException) -> NerveError:
        cause = reason.cause if isinstance(reason, FrameLostError) and reason.cause is not None else reason
        kind = type(cause) if isinstance(cause, NerveError) else NerveError
        return kind(
            f"{cause}; this happened after {self._budget.restarts} restarts within {self._budget.within_s:g} s, "
            "the worker is not started again"
        )

    def _open_hung(self) -> HungError:
        return HungError(
            f"the worker process did not open its segmenter within {self._open_timeout_s:g} s; embed a long class list "
            "ahead of time with nerve-vocab"
        )

    def _settle_all(self, error: BaseException) -> None:
        with self._changed:
            tasks = list(self._tasks.values())
            self._tasks.clear()
        for task in tasks:
            task.settle(error)

    def _finish(self, state: WorkerState, error: BaseException | None) -> None:
        self._settle_all(error or FrameLostError("the worker was closed"))
        with self._changed:
            self.error, self.state = error, state  # the error first: whoever sees the state reads it
            self._changed.notify_all()


def _send(child: Child, message: object) -> None:
    """Send a message; one to a child that is gone is lost, which whoever receives notices."""
    with suppress(OSError):
        send_message(child.connection, message)


def _death(child: Child) -> NerveError:
    """Why a child ended, once its connection has."""
    code = child.wait(TERMINATE_TIMEOUT_S)
    if code is None:
        return HungError(f"the worker process {child.pid} closed its connection and went on")
    if code == -signal.SIGKILL:
        return ResourceError(
            "the worker process was killed, most likely for want of memory; close other programs, add swap, or use a "
            "smaller preset or frames"
        )
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return CompatibilityError(f"the worker process crashed ({name}); a library is broken or too old for this bundle")
