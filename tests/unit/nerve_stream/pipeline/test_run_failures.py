"""Failures within a run of several sources: whose they are, what is kept, and how it ends."""

import threading
from collections.abc import Iterator
from functools import partial

import pytest

from nerve_runtime.errors import BundleError, HungError, ResourceError, SourceError
from nerve_runtime.frames import Frame
from nerve_stream.pipeline import (
    ProcessWorker,
    StreamJob,
    StreamOptions,
    hang_limit,
    run_streams,
)
from tests.data.stream_doubles import DoubleSegmenter, blank, numbered, open_double
from tests.data.stream_runs import Camera, Written, cut_off, run_all

HANG_TIMEOUT_S = 1.5
"""Short beside the minute that a double hangs, long beside what a busy machine adds to the frames that do not."""


def test_a_source_that_fails_leaves_the_others_alone_and_keeps_what_it_gave() -> None:
    reports, written = run_all({"a": cut_off(3), "b": numbered(60)})
    assert isinstance(reports[0].error, SourceError)
    assert reports[1].error is None
    assert (written["a"], written["b"]) == ([0, 1, 2], list(range(60)))


def test_an_output_that_fails_ends_its_own_source_only() -> None:
    def full() -> None:
        raise ResourceError("the disk is full")

    source = Camera(10**6, live=False)
    reports, written = run_all({"a": source, "b": numbered(60)}, written={"a": Written(at={2: full})})
    assert isinstance(reports[0].error, ResourceError)
    assert (written["a"], written["b"]) == ([0, 1], list(range(60)))
    assert reports[0].counts.conserved
    assert (reports[0].counts.in_flight, reports[0].counts.done) == (0, 2)
    assert source.closed.is_set()


def test_when_every_source_fails_each_report_says_what_was_done_and_why_it_ended() -> None:
    reports, written = run_all({"a": cut_off(1), "b": cut_off(2)})
    assert [str(report.error) for report in reports] == ["the cable was pulled"] * 2
    assert [report.counts.done for report in reports] == [1, 2]
    assert (written["a"], written["b"]) == ([0], [0, 1])


def test_a_bug_in_any_thread_is_raised() -> None:
    def bug() -> None:
        raise KeyError("a bug in an output")

    with pytest.raises(KeyError, match="a bug in an output"):
        run_all({"a": numbered(10**6)}, written={"a": Written(at={2: bug})})
    with pytest.raises(ValueError, match="a bug at frame 1"):
        run_all({"a": numbered(10**6)}, segmenter=DoubleSegmenter(bug_at=1))


def test_a_frame_that_ran_out_of_memory_costs_that_frame_only() -> None:
    reports, written = run_all({"a": numbered(20)}, segmenter=DoubleSegmenter(fail_at=4))
    assert written["a"] == [index for index in range(20) if index != 4]
    assert (reports[0].counts.failed, reports[0].error) == (1, None)
    assert isinstance(reports[0].last_failure, ResourceError)


def test_an_error_that_will_not_pass_ends_the_source_at_once() -> None:
    reports, _ = run_all({"a": numbered(20)}, segmenter=DoubleSegmenter(fail_at=4, failure="BundleError"))
    assert isinstance(reports[0].error, BundleError)
    assert "frame 4 failed on purpose" in str(reports[0].error)


def test_five_failures_in_a_row_end_a_source() -> None:
    first_written = threading.Event()

    def eleven() -> Iterator[Frame]:
        yield blank(0)
        first_written.wait(20)  # what is in flight when the source ends would be dropped
        yield from [blank(1)] * 10

    reports, written = run_all(
        {"a": eleven(), "b": (blank(0) for _ in range(30))},
        segmenter=DoubleSegmenter(fail_at=1),
        written={"a": Written(at={0: first_written.set})},
    )
    assert isinstance(reports[0].error, ResourceError)
    assert (written["a"], len(written["b"])) == ([0], 30)
    assert reports[0].counts.failed >= 5


def test_failures_with_good_frames_between_do_not_end_a_source() -> None:
    frames = [blank(index % 2) for index in range(24)]
    reports, written = run_all({"a": frames}, segmenter=DoubleSegmenter(fail_at=1))
    assert (len(written["a"]), reports[0].counts.failed, reports[0].error) == (12, 12, None)


def test_row_30_a_hung_frame_fails_with_code_8_and_an_isolated_run_goes_on() -> None:
    options, written = StreamOptions(hang_timeout_s=HANG_TIMEOUT_S), Written()
    with ProcessWorker(partial(open_double, hang_at=5)) as worker:
        report = run_streams([StreamJob("a", numbered(12), written)], worker, options, stop=threading.Event())[0]
    assert 5 not in written
    assert written[-1] == 11
    assert report.last_failure is not None
    assert report.last_failure.exit_code == 8
    assert report.counts.failed == 12 - len(written)


def test_row_30_an_isolated_run_over_a_file_ends_a_hung_frame_without_being_told_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hang_limit, "LEAST_S", HANG_TIMEOUT_S)
    written = Written()
    with ProcessWorker(partial(open_double, hang_at=5)) as worker:
        report = run_streams([StreamJob("a", numbered(12), written)], worker, stop=threading.Event())[0]
    assert (written[-1], report.counts.failed) == (11, 12 - len(written))
    assert report.counts.failed in (1, 2)


def test_row_30_a_hung_frame_in_this_process_ends_the_run() -> None:
    options = StreamOptions(hang_timeout_s=HANG_TIMEOUT_S)
    with pytest.raises(HungError, match=r"frame 5 of a was not segmented within 1\.5 s; use --isolate"):
        run_all({"a": numbered(12)}, segmenter=DoubleSegmenter(hang_at=5), options=options)


def test_a_frame_of_a_file_is_waited_for_however_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hang_limit, "LEAST_S", 0.01)
    monkeypatch.setattr(hang_limit, "TIMES_THE_SLOWEST", 0)
    reports, written = run_all({"a": numbered(3)}, segmenter=DoubleSegmenter(encode_s=0.2))
    assert (written["a"], reports[0].error) == ([0, 1, 2], None)


def test_a_worker_that_cannot_go_on_ends_the_run_with_its_error() -> None:
    worker = ProcessWorker(partial(open_double, crash_at=2))
    worker._budget.restarts = 0
    with worker, pytest.raises(Exception, match="the worker process crashed") as caught:
        run_streams([StreamJob("a", numbered(10**6), Written())], worker, stop=threading.Event())
    assert getattr(caught.value, "exit_code", None) == 4


def test_a_run_through_another_process_gives_the_same_results() -> None:
    written = Written()
    with ProcessWorker(open_double) as worker:
        reports = run_streams([StreamJob("a", numbered(30), written)], worker, stop=threading.Event())
    assert written == list(range(30))
    assert reports[0].counts.done == 30
