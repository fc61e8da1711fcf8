"""The process of a ProcessWorker: `python -m nerve_stream.pipeline.worker_child READ_FD WRITE_FD`.

It opens the segmenter itself and runs a LocalWorker; frames come and results go through two pipes. It ends when the
pipe it reads is closed, which is also what happens when its parent dies, however that dies.
"""

import ctypes
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable

from nerve_runtime import FrameResult, NerveError
from nerve_stream.pipeline.local_worker import LocalWorker
from nerve_stream.pipeline.messages import (
    ConnectionLostError,
    MessageReader,
    error_header,
    frame_from,
    result_header,
    send_message,
)
from nerve_stream.pipeline.segmenter_options import SegmenterOptions, opener_named
from nerve_stream.pipeline.worker import VideoSegmenter

PR_SET_PDEATHSIG = 1


class _Sender:
    """Writes messages from several threads, one at a time."""

    def __init__(self, write_fd: int) -> None:
        self._write_fd = write_fd
        self._lock = threading.Lock()

    def send(self, header: dict[str, object], result: FrameResult | None = None) -> None:
        pixels = () if result is None else (result.labels, result.confidence)
        try:
            with self._lock:
                send_message(self._write_fd, header, pixels)
        except ConnectionLostError:
            os._exit(0)  # nobody is left to work for


def main(arguments: list[str]) -> int:
    """Serve frames until the parent closes the pipe; the exit code is only seen when something is wrong."""
    read_fd, write_fd = (int(argument) for argument in arguments)
    _exit_with_parent(read_fd)
    sender = _Sender(write_fd)
    reader = MessageReader(read_fd)
    try:
        first = reader.next(None)
        if first is None:
            return 0
        options = SegmenterOptions.from_json(first.header["options"])
        segmenter = opener_named(first.header["opener"])(options)
    except NerveError as error:
        sender.send({"kind": "refused", **error_header(error)})
        return 0
    except ConnectionLostError:
        return 0
    except Exception:  # noqa: BLE001 - the parent raises it
        sender.send({"kind": "bug", "traceback": traceback.format_exc()})
        return 1
    with LocalWorker(segmenter, overlap=bool(first.header["overlap"])) as worker:
        worker.hang_limit.fixed_s = float("inf")  # the parent watches, and ends this process
        sender.send({"kind": "opened", "backend": segmenter.backend, "class_names": segmenter.class_names})
        _serve(reader, sender, worker, segmenter)
    return 0


def _exit_with_parent(read_fd: int) -> None:
    """End with the parent, even in the middle of a graph; leave Ctrl-C, which reaches the whole group, to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        # A graph that never gives the interpreter back would keep the thread below from running.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    threading.Thread(target=_exit_when_closed, args=(read_fd,), name="nerve-parent", daemon=True).start()


def _exit_when_closed(read_fd: int) -> None:
    poll = select.poll()
    poll.register(read_fd, 0)  # only the hang-up
    poll.poll()
    os._exit(0)


def _serve(reader: MessageReader, sender: _Sender, worker: LocalWorker, segmenter: VideoSegmenter) -> None:
    while worker.wait_room(float("inf")):
        sender.send({"kind": "room"})
        try:
            while (message := reader.next(None)) is not None and message.kind == "forget":
                worker.forget(message.header["video"])
        except ConnectionLostError:
            return
        if message is None:
            return
        settle = _outcome_sender(int(message.header["number"]), sender, segmenter)
        worker.submit(message.header["video"], frame_from(message), settle)


def _outcome_sender(
    number: int, sender: _Sender, segmenter: VideoSegmenter
) -> Callable[[FrameResult | BaseException], None]:
    def settle(outcome: FrameResult | BaseException) -> None:
        header: dict[str, object] = {"number": number, "ready": segmenter.ready}
        if isinstance(outcome, FrameResult):
            sender.send({"kind": "result", **header, **result_header(outcome)}, outcome)
        elif isinstance(outcome, NerveError):
            sender.send({"kind": "failed", **header, **error_header(outcome)})
        else:
            text = "".join(traceback.format_exception(outcome))
            sender.send({"kind": "bug", **header, "traceback": text})

    return settle


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
