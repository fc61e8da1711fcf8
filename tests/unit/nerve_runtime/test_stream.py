import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nerve_runtime.errors import BundleError, HungError, SourceError
from nerve_runtime.frames import Frame
from nerve_runtime.result import FrameResult
from nerve_runtime.stream import StreamReport, run, run_stream
from nerve_runtime.stream.trays import QUEUE_FRAMES
from tests.data.stream_doubles import labelled, numbered


def marked(frame: Frame) -> FrameResult:
    return labelled(frame, keyframe=frame.index == 0, valid=frame.index != 3)


def nothing(frame: Frame, result: FrameResult) -> None:
    return


def test_every_frame_is_written_once_and_in_order() -> None:
    written: list[tuple[int, int]] = []
    report = run_stream(
        numbered(50),
        marked,
        lambda frame, result: written.append((frame.index, result.index)),
        stop=threading.Event(),
    )
    assert written == [(index, index) for index in range(50)]
    assert (report.frames, report.invalid, report.keyframes, report.stopped) == (50, 1, 1, False)
    assert (report.counts.frames_in, report.counts.done, report.counts.in_flight) == (50, 50, 0)
    assert (report.stages["total"].p50_ms, report.stages["total"].runs) == (2.0, 50)
    assert report.fps > 0
    assert StreamReport().fps == 0


def test_reading_never_runs_far_ahead() -> None:
    read: list[int] = []

    def counted() -> Iterator[Frame]:
        for frame in numbered(40):
            read.append(frame.index)
            yield frame

    ahead: list[int] = []

    def slow(frame: Frame, result: FrameResult) -> None:
        time.sleep(0.003)
        ahead.append(len(read) - result.index)

    run_stream(counted(), marked, slow, stop=threading.Event())
    assert max(ahead) <= 2 * QUEUE_FRAMES + 4


def failing_source() -> Iterator[Frame]:
    yield from numbered(2)
    raise SourceError("cut off")


def failing(*arguments: object) -> Any:
    raise BundleError("broken")


@pytest.mark.parametrize("place", ["reader", "worker", "writer"])
def test_the_error_of_any_thread_is_the_error_of_the_run(place: str) -> None:
    source = failing_source() if place == "reader" else numbered(100)
    segment = failing if place == "worker" else marked
    write: Callable[..., None] = failing if place == "writer" else nothing
    before = threading.active_count()
    with pytest.raises(SourceError if place == "reader" else BundleError):
        run_stream(source, segment, write, stop=threading.Event())
    assert threading.active_count() == before


def test_a_stop_writes_what_is_segmented_and_ends_soon() -> None:
    stop, written = threading.Event(), []

    def write(frame: Frame, result: FrameResult) -> None:
        written.append(result.index)
        if len(written) == 3:
            stop.set()

    started = time.monotonic()
    report = run_stream(numbered(10**9), marked, write, stop=stop)
    assert time.monotonic() - started < 2
    assert report.stopped
    assert written == list(range(report.frames))
    assert 3 <= report.frames < 100
    assert report.counts.conserved


def test_a_graph_that_ends_with_an_error_after_a_stop_is_no_error() -> None:
    stop = threading.Event()

    def segment(frame: Frame) -> FrameResult:
        if frame.index == 2:
            stop.set()
            raise BundleError("told to stop")
        return marked(frame)

    report = run_stream(numbered(10), segment, nothing, stop=stop)
    assert report.stopped
    # Frames after the one that was interrupted may have come out before the run heard of the stop.
    assert report.frames + report.counts.stopped == report.counts.frames_in
    assert report.counts.stopped > 0


def test_the_main_thread_is_idle_often_enough_for_a_window() -> None:
    calls: list[str] = []

    def slow(frame: Frame) -> FrameResult:
        time.sleep(0.05)
        return marked(frame)

    run_stream(
        numbered(6), slow, nothing, stop=threading.Event(), idle=lambda: calls.append(threading.current_thread().name)
    )
    assert len(calls) >= 3
    assert set(calls) == {threading.current_thread().name}


def test_a_source_that_never_answers_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "STOP_DEADLINE_S", 0.2)
    released, stop = threading.Event(), threading.Event()

    def frozen() -> Iterator[Frame]:
        yield from numbered(1)
        released.wait(10)

    threading.Timer(0.2, stop.set).start()
    with pytest.raises(
        HungError, match=r"threads nerve-reader-source did not end within 0\.2 s; a source or an output"
    ):
        run_stream(frozen(), marked, nothing, stop=stop)
    released.set()
