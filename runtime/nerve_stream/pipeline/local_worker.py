"""A worker in this process: one thread encodes a frame while another decodes the one before."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nerve_runtime import Frame, FrameResult, HungError, UsageError
from nerve_stream.pipeline.worker import (
    Classes,
    FrameLostError,
    SegmentedVideo,
    Settle,
    VideoSegmenter,
    Worker,
    hung_error,
)

WATCH_S = 0.05
STOP_TIMEOUT_S = 2.0
"""A graph that is told to stop ends after the node that runs; one that takes longer than this never will."""
JOIN_TIMEOUT_S = 2.0


@dataclass(eq=False, slots=True)
class _Task:
    """A frame in the worker since `since_s`; once it is encoded, with the state of its video and the encoded frame."""

    video: str
    frame: Frame
    settle: Settle
    since_s: float
    state: SegmentedVideo | None = None
    encoded: Any = None


class LocalWorker(Worker):
    """Segments in threads of this process; a frame that hangs ends the worker, as a native call cannot be cancelled.

    State: a `Video` for each video, and up to three frames: one being encoded, one encoded, one being decoded.

    Args:
        segmenter: in use until the worker is closed, and then the caller's to close.
        overlap: encode a frame while the one before is decoded; off, one thread does both, which is easier to debug.
    """

    restarts = 0

    def __init__(self, segmenter: VideoSegmenter, *, overlap: bool = True) -> None:
        super().__init__()
        self._segmenter = segmenter
        self._overlap = overlap
        self._videos: dict[str, SegmentedVideo] = {}
        self.state = "ready"
        self._submitted: _Task | None = None
        self._encoding: _Task | None = None
        self._encoded: _Task | None = None
        self._decoding: _Task | None = None
        self._tasks: set[_Task] = set()
        self._aborted = False
        self._naming = threading.Lock()
        self._closed = threading.Event()
        loops = {"encoder": self._encode_loop, "watchdog": self._watch_loop}
        if overlap:
            loops["decoder"] = self._decode_loop
        self._threads = [
            threading.Thread(target=self._run_guarded, args=(loop,), name=f"nerve-{name}", daemon=True)
            for name, loop in loops.items()
        ]
        for thread in self._threads:
            thread.start()

    @property
    def ready(self) -> bool:
        """It answers, and the segmenter is ready."""
        return self.state == "ready" and self._segmenter.ready

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label."""
        return self._segmenter.class_names

    def describe(self) -> str:
        """What runs the graphs, in words."""
        return self._segmenter.backend

    def wait_room(self, timeout_s: float) -> bool:
        """Wait until no frame is being encoded or waits to be decoded; then a frame could be begun at once."""
        with self._changed:
            # Frames that queue between the halves would only age: two service times are the most a frame may take.
            return self._changed.wait_for(self._has_room, None if math.isinf(timeout_s) else timeout_s)

    def _has_room(self) -> bool:
        idle = self._submitted is None and self._encoding is None and self._encoded is None
        return idle and self.state == "ready" and not self._aborted

    def submit(self, video: str, frame: Frame, settle: Settle) -> None:
        """Begin a frame."""
        with self._changed:
            if self.state in ("failed", "closed") or self._aborted:
                refused: BaseException = self.error or UsageError("the worker was closed; make another")
            else:
                self._submitted = _Task(video, frame, settle, self._awake.awake_s)
                self._tasks.add(self._submitted)
                self._changed.notify_all()
                return
        settle(refused)

    def set_classes(self, classes: Classes, background: tuple[str, ...] | str = ()) -> tuple[str, ...]:
        """Use another class list; words are embedded in the calling thread, frames are not held up."""
        with self._naming:
            self._segmenter.set_classes(classes, background)
            return self._segmenter.class_names

    def forget(self, video: str) -> None:
        """Release the state of a video that is over."""
        with self._changed:
            self._videos.pop(video, None)

    def abort(self) -> None:
        """End the frames under way with errors soon."""
        with self._changed:
            self._aborted = True
            self._changed.notify_all()
        self._segmenter.stop()

    def close(self) -> None:
        """End the threads.

        Raises:
            HungError: a thread did not end.
        """
        with self._changed:
            busy = self._encoding is not None or self._decoding is not None
            self.state = "closed" if self.state != "failed" else "failed"
            self._aborted = True
            self._changed.notify_all()
        self._closed.set()
        if busy:
            self._segmenter.stop()
        deadline_s = time.monotonic() + JOIN_TIMEOUT_S
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        self._settle_all(FrameLostError("the worker was closed"))
        hung = [thread.name for thread in self._threads if thread.is_alive()]
        if hung:
            raise HungError(f"threads {', '.join(hung)} did not end within {JOIN_TIMEOUT_S:g} s of closing the worker")

    def _run_guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:  # noqa: BLE001 - a bug; whoever waits for the worker raises it
            self._fail(error)

    def _has_ended(self) -> bool:
        return self.state in ("failed", "closed")

    def _encode_loop(self) -> None:
        while (task := self._take_task("_submitted", "_encoding")) is not None:
            outcome: FrameResult | BaseException | None = None
            try:
                task.state = self._video(task.video)
                task.encoded = task.state.encode(task.frame)
                if not self._overlap:
                    outcome = task.state.decode(task.encoded)
            except BaseException as error:  # noqa: BLE001 - given to whoever submitted the frame
                outcome = error
            self._finish_task("_encoding", "_encoded" if outcome is None else None)
            if outcome is not None:
                self._settle(task, outcome)

    def _decode_loop(self) -> None:
        while (task := self._take_task("_encoded", "_decoding")) is not None:
            outcome: FrameResult | BaseException
            # The state that encoded it, even if the video was forgotten meanwhile.
            state = task.state or self._video(task.video)
            try:
                outcome = state.decode(task.encoded)
            except BaseException as error:  # noqa: BLE001 - given to whoever submitted the frame
                outcome = error
            task.encoded = None
            self._finish_task("_decoding", None)
            self._settle(task, outcome)

    def _take_task(self, waiting: str, running: str) -> _Task | None:
        """Move the task from `waiting` to `running`; None when the worker has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_ended() or getattr(self, waiting) is not None)
            if self._has_ended():
                return None
            task: _Task = getattr(self, waiting)
            setattr(self, waiting, None)
            setattr(self, running, task)
            self._changed.notify_all()
            return task

    def _finish_task(self, running: str, following: str | None) -> None:
        with self._changed:
            task = getattr(self, running)
            setattr(self, running, None)
            # A task that was settled meanwhile goes no further.
            if following is not None and task in self._tasks:
                setattr(self, following, task)
            self._changed.notify_all()

    def _video(self, name: str) -> SegmentedVideo:
        with self._changed:
            if name not in self._videos:
                self._videos[name] = self._segmenter.new_video()
            return self._videos[name]

    def _settle(self, task: _Task, outcome: FrameResult | BaseException) -> None:
        with self._changed:
            if task not in self._tasks:
                return
            self._tasks.discard(task)
        if isinstance(outcome, FrameResult):
            self.hang_limit.add(self._awake.awake_s - task.since_s, keyframe=outcome.keyframe)
        task.settle(outcome)

    def _settle_all(self, error: BaseException) -> None:
        with self._changed:
            tasks = list(self._tasks)
            self._submitted = self._encoded = None
        for task in tasks:
            self._settle(task, error)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self.state == "closed":
                return
            self.error, self.state = error, "failed"  # the error first: whoever sees the state reads it
            self._changed.notify_all()
        self._settle_all(error)

    def _watch_loop(self) -> None:
        while not self._has_ended():
            self._closed.wait(WATCH_S)
            awake_s, limit_s = self._awake.tick(), self.hang_limit.seconds
            with self._changed:
                late = [task for task in self._tasks if awake_s - task.since_s > limit_s]
            if late and not self._aborted:
                oldest = min(late, key=lambda task: task.since_s)
                consequence = "use --isolate to have hung graphs ended and started again, or a smaller preset"
                self._end_hung(hung_error(oldest.frame, oldest.video, limit_s, consequence))

    def _end_hung(self, reason: HungError) -> None:
        with self._changed:
            self._aborted = True
        self._settle_all(reason)
        self._segmenter.stop()
        with self._changed:
            ended = self._changed.wait_for(lambda: self._encoding is None and self._decoding is None, STOP_TIMEOUT_S)
        self._fail(
            reason if ended else HungError(f"{reason}; it did not end {STOP_TIMEOUT_S:g} s after it was told to stop")
        )
