"""Rows 30 to 32 of the fault table as a user of `nerve-segment` meets them, and what else ends a run before its end."""

import json
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nerve_runtime.errors import ResourceError
from nerve_stream.backoff import FIRST_DELAY_S, GROWTH, JITTER, Backoff
from nerve_stream.cli import run as cli_run
from nerve_stream.pipeline import LocalWorker, ProcessWorker, StreamJob, StreamReport, run_streams
from tests.data import failing_segmenters
from tests.data.clips import damage_middle, write_clip
from tests.data.failing_segmenters import SLOW_S, STARTS, starts_s
from tests.data.media import make_video
from tests.data.processes import own_children
from tests.data.running_command import (
    error_of,
    everything_below,
    frames_of_video,
    json_lines,
    outputs_in,
    segment,
    stop_once,
    summary_of,
)
from tests.data.stream_doubles import DoubleSegmenter, numbered
from tests.load import Control

H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def worker_opens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Makes the command's isolated worker open another segmenter; `options` are those of ProcessWorker."""
    monkeypatch.setenv(STARTS, str(tmp_path / "starts"))

    def opens(name: str, **options: Any) -> None:
        opener = getattr(failing_segmenters, name)
        monkeypatch.setattr(cli_run, "ProcessWorker", lambda _: ProcessWorker(opener, **options))

    return opens


def test_row_30_a_hung_frame_is_lost_and_counted_and_the_others_are_written(
    bundle: Path, tmp_path: Path, worker_opens: Callable[..., None]
) -> None:
    worker_opens("hangs_at_the_fourth_frame")
    clip, status = write_clip(tmp_path / "clip.mp4", 12), tmp_path / "status.json"
    words = ("--isolate", "--hang-timeout", 1.5, "--jsonl", tmp_path / "l.jsonl", "--status-json", status, "--json")
    ended = segment(bundle, clip, *words)
    assert ended.exit_code == 8, ended.output  # a file is only done when all of it is
    written = [line["index"] for line in json_lines(tmp_path / "l.jsonl")]
    summary = summary_of(ended)
    assert 3 not in written
    assert written[-1] == 11
    assert summary["dropped"]["failed"] == 12 - len(written) <= 2
    assert "frame 3 of clip was not segmented within 1.5 s" in error_of(ended)
    final = json.loads(status.read_text())
    assert (final["worker_restarts"], len(starts_s()), final["sources"][0]["state"]) == (1, 2, "ended")
    assert own_children() == []


@pytest.mark.slow
def test_a_frame_that_takes_longer_than_the_least_limit_is_waited_for_by_one_segmenter(
    bundle: Path, tmp_path: Path, worker_opens: Callable[..., None]
) -> None:
    worker_opens("takes_11_s_for_the_first_frame")
    ended = segment(bundle, write_clip(tmp_path / "clip.mp4", 3), "--isolate", "--jsonl", tmp_path / "l.jsonl")
    assert ended.exit_code == 0, ended.output
    assert [line["index"] for line in json_lines(tmp_path / "l.jsonl")] == [0, 1, 2]
    assert len(starts_s()) == 1


def test_row_30_a_source_whose_every_frame_hangs_ends_with_exit_code_8(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nerve_runtime.backends import fake

    slow = partial(fake.FakeBackend, faults=fake.Faults(seconds_per_run=60.0))
    clip = write_clip(tmp_path / "clip.mp4", 12)
    assert segment(bundle, clip, "--limit", 1).exit_code == 0  # words are embedded, and kept in the cache
    monkeypatch.setattr(fake, "FakeBackend", slow)
    started_s = time.monotonic()
    ended = segment(bundle, clip, "--hang-timeout", 0.2, *outputs_in(tmp_path / "out"))
    assert (ended.exit_code, everything_below(tmp_path / "out")) == (8, []), ended.output
    assert "was not segmented within 0.2 s" in error_of(ended)
    assert time.monotonic() - started_s < 15


@pytest.mark.slow
def test_row_31_a_file_plays_at_its_pace_in_realtime_and_what_is_too_much_is_dropped_and_counted(
    bundle: Path, tmp_path: Path, worker_opens: Callable[..., None]
) -> None:
    worker_opens("is_slow")
    clip = make_video(tmp_path / "clip.mp4", *H264, rate=25, seconds=2)
    with Control(SLOW_S) as control:
        ended = segment(bundle, clip, "--realtime", "--isolate", "--jsonl", tmp_path / "l.jsonl", "--json")
    assert ended.exit_code == 0, ended.output
    summary, written = summary_of(ended), json_lines(tmp_path / "l.jsonl")
    assert summary["frames_in"] == 50 == summary["frames"] + sum(summary["dropped"].values())
    assert summary["frames"] == len(written) < 25
    assert summary["dropped"]["superseded"] == 50 - len(written)
    assert 1.9 < summary["seconds"] < 6
    assert written[-1]["index"] >= 48
    # Two service times, what handing over takes, and what a busy machine adds.
    assert summary["age_p99_ms"] < 2000 * SLOW_S + 150 + control.late_p99_ms


def test_row_31_without_realtime_no_frame_is_lost_however_slow_the_graphs_are(
    bundle: Path, tmp_path: Path, worker_opens: Callable[..., None]
) -> None:
    worker_opens("is_slow")
    clip = make_video(tmp_path / "clip.mp4", *H264, rate=100, seconds=0.08)
    ended = segment(bundle, clip, "--isolate", "--jsonl", tmp_path / "l.jsonl", "--json")
    assert [line["index"] for line in json_lines(tmp_path / "l.jsonl")] == list(range(8))
    assert (summary_of(ended)["frames_in"], sum(summary_of(ended)["dropped"].values())) == (8, 0)


def tenth_of_the_usual() -> Backoff:
    """The delays of a worker, in a tenth of the time."""
    usual = Backoff()
    return Backoff(first_s=usual.first_s / 10, longest_s=usual.longest_s / 10)


@pytest.mark.slow
def test_row_32_a_worker_that_crashes_at_the_start_has_failed_after_five_restarts(
    bundle: Path, tmp_path: Path, worker_opens: Callable[..., None]
) -> None:
    worker_opens("dies_at_the_start", backoff=tenth_of_the_usual())
    ended = segment(bundle, write_clip(tmp_path / "clip.mp4", 3), "--isolate", *outputs_in(tmp_path / "out"))
    assert (ended.exit_code, everything_below(tmp_path / "out")) == (4, []), ended.output
    assert "after 5 restarts within 60 s, the worker is not started again" in error_of(ended)
    pauses_s = np.diff(starts_s())
    assert len(pauses_s) == 5
    # Each start has to wait twice as long as the one before: no spin.
    assert (pauses_s >= [(1 - JITTER) * FIRST_DELAY_S / 10 * GROWTH**number for number in range(5)]).all()
    assert own_children() == []


@pytest.mark.slow
def test_row_32_a_worker_that_crashes_with_every_frame_fails_the_source_with_its_exit_code(
    bundle: Path, tmp_path: Path, worker_opens: Callable[..., None]
) -> None:
    worker_opens("dies_at_every_frame", backoff=tenth_of_the_usual())
    ended = segment(bundle, write_clip(tmp_path / "clip.mp4", 20), "--isolate", *outputs_in(tmp_path / "out"))
    assert (ended.exit_code, everything_below(tmp_path / "out")) == (4, []), ended.output
    assert "the worker process crashed (SIGSEGV)" in error_of(ended)
    assert 2 <= len(starts_s()) <= 6
    assert own_children() == []


def test_a_batch_of_files_that_all_fail_does_not_keep_the_next_ones_from_being_done(
    bundle: Path, tmp_path: Path
) -> None:
    bad = [write_clip(tmp_path / f"bad{number}.mp4", 30, codec="mpeg4") for number in range(cli_run.FILES_AT_ONCE)]
    for clip in bad:
        damage_middle(clip)
    ended = segment(bundle, *bad, write_clip(tmp_path / "good.mp4", 5), *outputs_in(tmp_path / "out"))
    assert ended.exit_code == 5, ended.output
    assert ended.stderr.count(" frames decoded, 30 declared") == len(bad)
    assert len(json_lines(tmp_path / "out" / "l.good.jsonl")) == frames_of_video(tmp_path / "out" / "o.good.mp4") == 5
    assert not [name for name in everything_below(tmp_path / "out") if "bad" in name]


def test_outputs_that_cannot_be_finished_fail_their_own_source_only() -> None:
    def full(report: StreamReport) -> None:
        raise ResourceError("the disk is full")

    reports: list[StreamReport] = []
    jobs = [
        StreamJob("full", numbered(3), lambda frame, result: None, full),
        StreamJob("fine", numbered(5), lambda frame, result: None, reports.append),
    ]
    with LocalWorker(DoubleSegmenter()) as worker:
        failed, fine = run_streams(jobs, worker, stop=threading.Event())
    assert (str(failed.error), fine.error) == ("the disk is full", None)
    assert [(report.name, report.frames) for report in reports] == [("fine", 5)]


def test_what_is_not_complete_is_not_called_finished() -> None:
    reports: list[StreamReport] = []
    jobs = [
        StreamJob("lost a frame", numbered(9), lambda frame, result: None, reports.append),
        StreamJob("whole", numbered(3), lambda frame, result: None, reports.append),
    ]
    with LocalWorker(DoubleSegmenter(fail_at=4)) as worker:
        run_streams(jobs, worker, stop=threading.Event())
    assert [report.name for report in reports] == ["whole"]


def test_a_signal_while_the_graphs_are_opened_ends_the_command_within_5_s(
    bundle: Path, tmp_path: Path, worker_opens: Callable[..., None]
) -> None:
    worker_opens("never_opens")
    stopping = stop_once(lambda: Path(os.environ[STARTS]).exists())
    started_s = time.monotonic()
    ended = segment(bundle, write_clip(tmp_path / "clip.mp4", 3), "--isolate", *outputs_in(tmp_path / "out"))
    assert (ended.exit_code, everything_below(tmp_path / "out")) == (143, [])
    assert time.monotonic() - started_s < 8  # the start of a process is in it
    stopping.join()
    assert own_children() == []
