import threading
from collections.abc import Iterator

from nerve_runtime.frames import Frame
from nerve_runtime.result import FrameResult
from nerve_stream.pipeline import LocalWorker, StreamJob, run_streams
from nerve_stream.pipeline.queues import QUEUE_FRAMES
from tests.data.stream_doubles import DoubleSegmenter, numbered


def test_reading_never_runs_far_ahead() -> None:
    read: list[int] = []
    ahead: list[int] = []

    def counted() -> Iterator[Frame]:
        for frame in numbered(40):
            read.append(frame.index)
            yield frame

    def written(frame: Frame, result: FrameResult) -> None:
        ahead.append(len(read) - result.index)

    with LocalWorker(DoubleSegmenter(decode_s=0.003)) as worker:
        run_streams([StreamJob("source", counted(), written)], worker, stop=threading.Event())
    assert len(ahead) == 40
    assert max(ahead) <= 2 * QUEUE_FRAMES + 4  # the two trays, the worker's three, and the one in hand


def test_the_calling_thread_is_idle_often_enough_for_a_window() -> None:
    calls: list[str] = []
    with LocalWorker(DoubleSegmenter(decode_s=0.05)) as worker:
        run_streams(
            [StreamJob("source", numbered(6), lambda frame, result: None)],
            worker,
            stop=threading.Event(),
            idle=lambda: calls.append(threading.current_thread().name),
        )
    assert len(calls) >= 3
    assert set(calls) == {threading.current_thread().name}
