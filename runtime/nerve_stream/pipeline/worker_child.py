"""What the child of a ProcessWorker runs: it opens the segmenter itself and serves frames with a LocalWorker."""

import ctypes
import math
import os
import signal
import sys
import threading
import traceback
from dataclasses import replace
from functools import partial

from nerve_runtime import FrameResult, NerveError
from nerve_stream.child import Connection
from nerve_stream.pipeline.local_worker import LocalWorker
from nerve_stream.pipeline.messages import (
    ClassesAnswer,
    ClassesRequest,
    FrameRequest,
    NotOpened,
    Opened,
    OpenRequest,
    Outcome,
    Room,
    receive_message,
    send_message,
    without_traceback,
)
from nerve_stream.pipeline.worker import VideoSegmenter

PR_SET_PDEATHSIG = 1


class _Sender:
    """Sends messages from several threads, one at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: object) -> None:
        try:
            with self._lock:
                send_message(self._connection, message)
        except OSError:
            os._exit(0)  # nobody is left to work for


def main(connection: Connection) -> int:
    """Serve frames until the connection ends; the exit code is only seen when something is wrong."""
    _exit_with_parent()
    sender = _Sender(connection)
    try:
        request: OpenRequest = receive_message(connection)
    except OSError:
        return 0
    except Exception as error:  # noqa: BLE001 - the opener's module cannot be imported; the parent raises it
        sender.send(NotOpened(_portable(error)))
        return 1
    try:
        segmenter = request.opener()
        if request.classes is not None:
            segmenter.set_classes(request.classes.classes, request.classes.background)
    except Exception as error:  # noqa: BLE001 - the parent raises it
        sender.send(NotOpened(_portable(error)))
        return 0 if isinstance(error, NerveError) else 1
    with LocalWorker(segmenter, overlap=request.overlap) as worker:
        worker.hang_limit.fixed_s = math.inf  # the parent watches, and ends this process
        sender.send(Opened(segmenter.backend, segmenter.class_names))
        _serve(connection, sender, worker, segmenter)
    return 0


def _exit_with_parent() -> None:
    """End with the parent, also in the middle of a graph that never gives the interpreter back to the watching thread."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _serve(connection: Connection, sender: _Sender, worker: LocalWorker, segmenter: VideoSegmenter) -> None:
    while worker.wait_room(math.inf):
        sender.send(Room())
        try:
            while not isinstance(request := receive_message(connection), FrameRequest):
                if isinstance(request, ClassesRequest):
                    # In a thread of its own: long lists take seconds, and frames go on.
                    threading.Thread(target=_set_classes, args=(sender, worker, request), daemon=True).start()
                else:
                    worker.forget(request.video)
        except OSError:
            return
        worker.submit(request.video, request.frame, partial(_send_outcome, sender, segmenter, request.number))


def _set_classes(sender: _Sender, worker: LocalWorker, request: ClassesRequest) -> None:
    answer: tuple[str, ...] | Exception
    try:
        answer = worker.set_classes(request.classes, request.background)
    except Exception as error:  # noqa: BLE001 - the parent raises it
        answer = _portable(error)
    sender.send(ClassesAnswer(answer))


def _send_outcome(
    sender: _Sender, segmenter: VideoSegmenter, number: int, outcome: FrameResult | BaseException
) -> None:
    # The parent has the frame already.
    result = replace(outcome, rgb=None) if isinstance(outcome, FrameResult) else _portable(outcome)
    sender.send(Outcome(number, segmenter.ready, result))


def _portable(error: BaseException) -> Exception:
    """The error as the parent raises it: one of ours, or a bug with its traceback."""
    if isinstance(error, NerveError):
        return without_traceback(error)
    text = "".join(traceback.format_exception(error))
    return RuntimeError(f"a bug in the worker process:\n{text}")
