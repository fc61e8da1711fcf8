"""Several sources through one worker: fair, counted, undisturbed by each other, and over within 5 s of a stop."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from nerve_runtime.errors import HungError, UsageError
from nerve_runtime.frames import Frame
from nerve_stream.monitoring.health import Health, HealthSnapshot
from nerve_stream.pipeline import (
    LocalWorker,
    StreamControl,
    StreamJob,
    StreamOptions,
    local_worker,
    run,
    run_streams,
)
from tests.data.processes import threads_and_files
from tests.data.stream_doubles import DoubleSegmenter, blank, numbered
from tests.data.stream_runs import REALTIME, Camera, Written, cut_off, run_all

ROOT = Path(__file__).resolve().parents[4]
HANG_TIMEOUT_S = 5.0
"""Of frames in tests of files that stand still, which have a limit of their own: no busy machine makes a frame hang."""


def test_files_lose_nothing_and_keep_their_order() -> None:
    reports, written = run_all({"a": numbered(40), "b": numbered(25), "c": numbered(0)})
    assert (written["a"], written["b"], written["c"]) == (list(range(40)), list(range(25)), [])
    assert [(report.name, report.frames, report.counts.dropped, report.stopped) for report in reports] == [
        ("a", 40, 0, False), ("b", 25, 0, False), ("c", 0, 0, False),
    ]  # fmt: skip
    assert [report.keyframes for report in reports] == [1, 1, 0]


def test_in_realtime_the_newest_frame_wins_and_every_drop_is_counted() -> None:
    segmenter = DoubleSegmenter(encode_s=0.01, decode_s=0.01)
    health, law = Health(), list[bool]()

    def look() -> None:
        law.extend(source.counts.conserved for source in health.snapshot().sources)

    frames: dict[str, Iterable[Frame]] = {"a": Camera(100), "b": Camera(100)}
    reports, written = run_all(frames, segmenter=segmenter, options=REALTIME, health=health, idle=look)
    assert len(law) > 4
    assert all(law)
    for report in reports:
        counts = report.counts
        assert (counts.frames_in, counts.in_flight) == (100, 0)
        assert counts.done == len(written[report.name])
        assert counts.superseded == 100 - counts.done > 20
        assert written[report.name] == sorted(written[report.name])
        assert written[report.name][-1] >= 98


def test_without_realtime_nobody_waits_for_a_slow_output_but_its_own_source() -> None:
    quick_is_done, came_first = threading.Event(), list[bool]()
    written = {
        "slow": Written(at={0: lambda: came_first.append(quick_is_done.wait(10))}),
        "quick": Written(at={99: quick_is_done.set}),
    }
    run_all({"slow": numbered(20), "quick": numbered(100)}, written=written)
    assert came_first == [True]
    assert written["slow"] == list(range(20))


def test_files_play_as_fast_as_they_were_recorded_in_realtime() -> None:
    class Noted(Camera):
        def read_frames(self) -> Iterator[Frame]:
            begun_s.append(time.monotonic())
            yield from super().read_frames()

    begun_s: list[float] = []

    def worst_age_ms() -> float:
        reports, _ = run_all({"a": Noted(11, fps=1e5, live=False)}, options=REALTIME)
        assert 0.35 < time.monotonic() - begun_s[-1] < 3
        assert reports[0].counts.frames_in == 11
        return reports[0].worst_age_ms

    # A busy machine can only add to it, so that the best of three counts.
    assert any(worst_age_ms() < 300 for _ in range(3))


def test_a_pause_lets_files_wait_and_live_sources_go_on() -> None:
    control, health, camera = StreamControl(), Health(), Camera(6000)  # half a minute, unless it is closed
    control.pause()
    seen: list[HealthSnapshot] = []

    def look() -> None:
        seen.append(health.snapshot())
        live, file = (source.counts for source in seen[-1].sources)
        if control.paused and live.paused >= 20:
            assert (live.done, file.done, file.frames_in) == (0, 0, 0)
            control.resume()
        if live.done:
            camera.close()

    frames: dict[str, Iterable[Frame]] = {"live": camera, "file": numbered(30)}
    reports, written = run_all(frames, control=control, health=health, idle=look)
    assert written["file"] == list(range(30))
    assert reports[0].counts.paused >= 20
    assert reports[0].counts.done == len(written["live"]) > 0
    assert not control.paused


def test_a_paused_run_goes_on_step_by_step() -> None:
    control = StreamControl()
    control.step()  # nothing is paused, so there is nothing to step through
    control.pause()
    written = Written()
    stepped: list[int] = []

    def step() -> None:
        if len(stepped) == len(written) < 3:
            stepped.append(len(written))
            control.step()
        elif len(written) == 3:
            control.resume()

    run_all({"file": numbered(6)}, control=control, idle=step, written={"file": written})
    assert stepped == [0, 1, 2]
    assert written == list(range(6))


def test_a_source_that_accompanies_others_is_closed_when_they_have_ended() -> None:
    companion = Camera(10**6, live=False)
    companion.resting = True
    written = Written(), Written()
    jobs = [
        StreamJob("file", numbered(20), written[0]),
        StreamJob("companion", companion, written[1], accompanies=True),
    ]
    with LocalWorker(DoubleSegmenter()) as worker:
        reports = run_streams(jobs, worker, stop=threading.Event())
    assert companion.closed.is_set()
    assert written[0] == list(range(20))
    assert [report.error for report in reports] == [None, None]
    assert all(report.counts.conserved and not report.counts.in_flight for report in reports)


def test_a_source_that_rests_does_not_count_as_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "FROZEN_TIMEOUTS", 0.1 / HANG_TIMEOUT_S)

    class Resting(Camera):
        resting = True

        def read_frames(self) -> Iterator[Frame]:
            self.closed.wait(0.5)
            yield blank(0)

    options = StreamOptions(hang_timeout_s=HANG_TIMEOUT_S)
    reports, written = run_all({"a": Resting(1, live=False)}, options=options)
    assert (reports[0].error, written["a"]) == (None, [0])


def test_on_a_stop_what_is_segmented_is_written_and_the_rest_is_counted() -> None:
    stop = threading.Event()
    camera = Camera(10**6)
    reports, written = run_all(
        {"a": camera, "b": numbered(10**9)},
        stop=stop,
        written={"b": Written(each_s=0.005, at={10: stop.set})},
    )
    for report in reports:
        assert report.stopped
        assert report.counts.conserved
        assert report.counts.in_flight == 0
        assert report.frames == len(written[report.name])
    assert written["b"] == list(range(len(written["b"])))
    assert reports[1].counts.stopped > 0


@pytest.mark.parametrize("deaf", [False, True])
def test_a_stop_is_over_within_five_seconds_even_with_a_hung_frame(deaf: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "WORKER_TIMEOUT_S", 0.3)
    monkeypatch.setattr(run, "ABORT_TIMEOUT_S", 0.3)
    monkeypatch.setattr(local_worker, "JOIN_TIMEOUT_S", 0.2)
    stop, segmenter = threading.Event(), DoubleSegmenter(hang_at=3, deaf=deaf)
    worker = LocalWorker(segmenter)
    soon = threading.Timer(0.2, stop.set)  # by then frame 3 hangs
    started_s = time.monotonic()
    reports = run_streams([StreamJob("a", numbered(100), Written(at={2: soon.start}))], worker, stop=stop)
    assert time.monotonic() - started_s < 4
    assert (reports[0].frames, reports[0].counts.in_flight, reports[0].error) == (3, 0, None)
    segmenter.stopped.set()
    worker.close()


def test_a_reader_that_waits_for_a_silent_camera_ends_when_the_camera_is_closed() -> None:
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    started_s = time.monotonic()
    reports, _ = run_all({"a": Camera(5, fps=1e-3)}, stop=stop)
    assert time.monotonic() - started_s < 2
    assert reports[0].stopped


def test_an_output_that_hangs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "WRITE_DEADLINE_S", 0.2)
    monkeypatch.setattr(run, "STOP_DEADLINE_S", 0.3)
    stop, released = threading.Event(), threading.Event()

    def stop_and_hang() -> None:
        stop.set()
        released.wait(10)

    with pytest.raises(HungError, match=r"threads nerve-writer-a did not end within 0\.3 s"):
        run_all({"a": numbered(3)}, stop=stop, written={"a": Written(at={1: stop_and_hang})})
    released.set()


def test_a_file_that_delivers_nothing_fails_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "FROZEN_TIMEOUTS", 1 / HANG_TIMEOUT_S)
    released = threading.Event()

    def frozen() -> Iterator[Frame]:
        yield blank(0)
        released.wait(20)

    options = StreamOptions(hang_timeout_s=HANG_TIMEOUT_S)
    reports, written = run_all({"a": frozen(), "b": Camera(100, live=False)}, options=options)
    released.set()
    assert isinstance(reports[0].error, HungError)
    assert "a delivered no frame for 1 s" in str(reports[0].error)
    assert written["b"] == list(range(100))


def test_a_slow_output_is_no_frozen_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "FROZEN_TIMEOUTS", 0.3 / HANG_TIMEOUT_S)
    options = StreamOptions(hang_timeout_s=HANG_TIMEOUT_S)
    slow = Written(at={0: lambda: time.sleep(0.7)})  # both trays fill up, and the reader waits
    reports, written = run_all({"a": numbered(20)}, options=options, written={"a": slow})
    assert (len(written["a"]), reports[0].error) == (20, None)


def test_names_tell_sources_apart_and_hold_no_credentials() -> None:
    with pytest.raises(UsageError, match="expected one or more with different names"):
        run_all({})
    with LocalWorker(DoubleSegmenter()) as worker, pytest.raises(UsageError, match="sources are a, a, expected"):
        run_streams([StreamJob("a", numbered(1), Written())] * 2, worker, stop=threading.Event())
    names: set[str] = set()
    camera = Camera(6000)

    def look() -> None:
        names.update(thread.name for thread in threading.enumerate())
        camera.close()

    reports, _ = run_all({"rtsp://me:secret@door/1": camera}, idle=look)
    assert reports[0].name == "rtsp://***@door/1"
    assert "nerve-reader-rtsp://***@door/1" in names
    assert not any("secret" in name for name in names)


@pytest.mark.parametrize("wrong", [{"hang_timeout_s": 0}, {"hang_timeout_s": float("nan")}, {"failures_in_a_row": 0}])
def test_options_out_of_their_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        StreamOptions(**wrong)


def test_a_run_leaves_no_thread_and_no_file_behind() -> None:
    run_all({"warm": numbered(3)})
    before = threads_and_files()
    run_all({"a": Camera(20), "b": numbered(20), "c": cut_off(2)})
    assert threads_and_files() <= before


SUSPENDED = """
import json, threading, time
from tests.data.stream_doubles import DoubleSegmenter
from tests.unit.nerve_stream.pipeline.test_run import Camera, Frame, LocalWorker, StreamJob, StreamOptions, run_streams
times = []
def write(frame, result):
    times.append(time.monotonic())
    if len(times) == 5:
        print("begun", flush=True)
worker = LocalWorker(DoubleSegmenter(encode_s=0.01, decode_s=0.01))
options = StreamOptions(realtime=True, hang_timeout_s=1.0)
with worker:
    reports = run_streams([StreamJob("a", Camera(40, fps=1e5, live=False), write)], worker, options, stop=threading.Event())
print(json.dumps({"times": times, "restarts": worker.restarts, "failed": reports[0].counts.failed,
                  "conserved": reports[0].counts.conserved, "frames_in": reports[0].counts.frames_in}))
"""


@pytest.mark.slow
def test_row_48_a_suspended_run_goes_on_without_a_burst_and_without_a_false_alarm() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-c", SUSPENDED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as suspended:
        assert suspended.stdout is not None
        assert suspended.stdout.readline() == "begun\n"
        suspended.send_signal(signal.SIGSTOP)
        time.sleep(2.0)  # twice the hang timeout
        suspended.send_signal(signal.SIGCONT)
        seen = json.loads(suspended.stdout.readline())
    times = seen["times"]
    gaps = [after - before for before, after in pairwise(times)]
    assert max(gaps) > 1.5
    resumed_s = times[gaps.index(max(gaps)) + 1]
    # Twenty-five frames a second: five in 0.2 s, and fifty more had they been made up for.
    assert sum(resumed_s <= one <= resumed_s + 0.2 for one in times) <= 9
    assert (seen["restarts"], seen["failed"], seen["conserved"], seen["frames_in"]) == (0, 0, True, 40)


def test_time_of_a_frame_is_kept() -> None:
    times: list[Fraction | None] = []
    with LocalWorker(DoubleSegmenter()) as worker:
        job = StreamJob("a", numbered(3), lambda frame, result: times.append(result.time_s))
        run_streams([job], worker, stop=threading.Event())
    assert times == [Fraction(0), Fraction(1, 25), Fraction(2, 25)]
