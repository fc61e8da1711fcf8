"""Numbers of a run: exact counts, ages by their percentiles, and memory that does not grow with the frames."""

import json
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from nerve_runtime.errors import NerveError, SourceError
from nerve_runtime.frames import Frame
from nerve_stream.cli.summary import percentiles_ms, summary_line, summary_record
from nerve_stream.monitoring.counters import (
    KEPT_RUNS,
    Percentiles,
    RingBuffer,
    SourceCounters,
    SourceCounts,
    merged_percentiles,
)
from nerve_stream.monitoring.health import Health, ObservedSource, WorkerState, process_health
from nerve_stream.pipeline import LocalWorker, StreamJob, StreamReport, run_streams
from tests.data.stream_doubles import DoubleSegmenter, labelled, numbered

NS_PER_MS = 1_000_000


class FakeClock:
    def __init__(self) -> None:
        self.now_ns = 5_000 * NS_PER_MS

    def __call__(self) -> int:
        return self.now_ns


class FakeWorker:
    ready = True
    state: WorkerState = "ready"
    restarts = 2


class FakeCamera:
    live = True
    state = "reconnecting"
    reconnects = 3
    lost = 7
    last_error: str | None = "no answer from rtsp://me:secret@door/1"


def observed(**changes: Any) -> ObservedSource:
    facts: dict[str, Any] = {
        "name": "door",
        "frames": FakeCamera(),
        "counts": lambda: SourceCounts(10, 6, superseded=2, failed=1, in_flight=1),
        "counters": SourceCounters(),
        "error": lambda: None,
        "ended": lambda: False,
        "last_failure": lambda: None,
    }
    return ObservedSource(**{**facts, **changes})


def aged(clock: FakeClock, age_ms: float) -> Frame:
    rgb = np.zeros((1, 1, 3), dtype=np.uint8)
    return Frame(rgb, 0, Fraction(0), int(clock.now_ns - age_ms * NS_PER_MS))


def test_counts_add_up_or_say_so() -> None:
    counts = SourceCounts(10, 6, superseded=1, failed=1, stopped=0, paused=1, in_flight=1)
    assert (counts.dropped, counts.conserved) == (3, True)
    assert counts.dropped_by_reason == {"superseded": 1, "failed": 1, "stopped": 0, "paused": 1}
    assert not SourceCounts(10, 6, superseded=1).conserved


def test_a_ring_keeps_the_latest_in_order_and_counts_all() -> None:
    ring = RingBuffer(4)
    for value in range(10):
        ring.add(value)
    assert (ring.latest().tolist(), ring.total) == ([6, 7, 8, 9], 10)
    ring = RingBuffer(4)
    ring.add(1)
    assert ring.latest().tolist() == [1]


def test_percentiles_are_those_of_numpy() -> None:
    values = np.arange(1, 201, dtype=np.float64)
    expected = [float(np.percentile(values, rank)) for rank in (50, 90, 99)]
    spread = Percentiles.of(values, 999)
    assert [spread.p50_ms, spread.p90_ms, spread.p99_ms] == pytest.approx(expected, abs=1e-3)
    assert (spread.worst_ms, spread.runs) == (200, 999)
    assert Percentiles.of(values[:0], 0) == Percentiles()
    merged = merged_percentiles([{"walk": (values[:100], 100)}, {"walk": (values[100:], 100), "mix": (values[:1], 1)}])
    assert merged["walk"] == Percentiles.of(values, 200)
    assert merged["mix"].runs == 1


def test_ages_of_the_last_minute_and_the_worst_of_all_are_known() -> None:
    clock = FakeClock()
    counters = SourceCounters(clock)
    counters.count_frame()
    counters.count_result(aged(clock, 900), labelled(aged(clock, 900), keyframe=True))
    clock.now_ns += 61_000 * NS_PER_MS
    for age_ms in (10, 20, 30):
        clock.now_ns += 40 * NS_PER_MS
        counters.count_result(aged(clock, age_ms), labelled(aged(clock, age_ms), valid=False))
    progress = counters.progress()
    assert (progress.written, progress.keyframes, progress.invalid) == (4, 1, 3)
    assert (progress.age.p50_ms, progress.age.worst_ms, progress.worst_age_ms) == (20, 30, 900)
    assert progress.since_frame_s == pytest.approx(61.12)
    assert progress.fps == 25
    clock.now_ns += 10_000 * NS_PER_MS
    assert counters.progress().fps == 0
    assert SourceCounters(clock).progress().since_frame_s is None


def test_a_long_run_costs_no_more_memory_than_a_short_one() -> None:
    clock = FakeClock()
    counters = SourceCounters(clock)

    def size_bytes() -> int:
        return sum(
            sys.getsizeof(ring._values)
            for ring in (counters._written_ns, counters._ages_ms, *counters._stages._durations_ms.values())
        )

    counters.count_result(aged(clock, 1), labelled(aged(clock, 1)))
    before = size_bytes()
    for _ in range(KEPT_RUNS + 100):
        counters.count_result(aged(clock, 1), labelled(aged(clock, 1)))
    assert size_bytes() == before
    assert counters.stage_times()["total"][1] == KEPT_RUNS + 101


def test_a_snapshot_says_how_source_worker_and_process_are() -> None:
    health = Health()
    health.begin([observed()], FakeWorker())
    own = psutil.Process()
    threads_before = own.num_threads()
    snapshot = health.snapshot()
    assert (snapshot.ready, snapshot.worker_state, snapshot.worker_restarts) == (True, "ready", 2)
    source = snapshot.sources[0]
    assert (source.name, source.state, source.live, source.reconnects) == ("door", "reconnecting", True, 3)
    assert (source.counts.frames_in, source.lost_at_source) == (10, 7)
    assert source.last_error == "no answer from rtsp://***@door/1"
    # Threads of earlier tests may still be ending.
    assert own.num_threads() <= snapshot.process.threads <= threads_before
    assert snapshot.process.rss_bytes == pytest.approx(own.memory_info().rss, rel=0.2)
    assert snapshot.uptime_s >= 0


def test_a_source_that_failed_or_ended_stays_so() -> None:
    health = Health()
    failed = observed(error=lambda: SourceError("gone for good"))
    ended = observed(frames=object(), ended=lambda: True)
    waiting = observed(frames=iter(()), last_failure=lambda: NerveError("too late"))
    health.begin([failed, ended, waiting], FakeWorker())
    sources = health.snapshot().sources
    assert [source.state for source in sources] == ["failed", "ended", "streaming"]
    assert [source.last_error for source in sources] == ["gone for good", None, "too late"]
    assert not sources[1].live


def test_before_a_run_nothing_is_ready() -> None:
    snapshot = Health().snapshot()
    assert (snapshot.ready, snapshot.worker_state, snapshot.sources, snapshot.stages) == (False, "closed", (), {})


def test_children_are_counted_with_their_memory() -> None:
    import subprocess

    before = process_health()
    words = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()  # it is up, with all of its memory
        held = process_health()
        child.communicate(b"\n")
    assert held.children == before.children + 1
    assert held.children_rss_bytes > before.children_rss_bytes + 1_000_000


def test_json_holds_plain_values_only_and_the_sum_of_what_was_dropped() -> None:
    health = Health()
    health.begin([observed()], FakeWorker())
    record = json.loads(json.dumps(health.snapshot().as_json(), allow_nan=False))
    assert record["sources"][0]["counts"] == {
        "frames_in": 10, "done": 6, "in_flight": 1, "dropped": 3,
        "dropped_by_reason": {"superseded": 2, "failed": 1, "stopped": 0, "paused": 0},
    }  # fmt: skip
    assert "secret" not in json.dumps(record)


def reported(health: Health) -> StreamReport:
    def frames() -> Iterator[Frame]:
        yield from numbered(12)

    with LocalWorker(DoubleSegmenter()) as worker:
        job = StreamJob("clip", frames(), lambda frame, result: None)
        return run_streams([job], worker, stop=threading.Event(), health=health)[0]


def test_health_of_a_run_agrees_with_its_report() -> None:
    health = Health()
    report = reported(health)
    snapshot = health.snapshot()
    source = snapshot.sources[0]
    assert source.counts == report.counts
    assert (source.keyframes, source.state, source.live) == (report.keyframes, "ended", False)
    assert snapshot.stages == report.stages
    assert (snapshot.ready, snapshot.worker_state) == (False, "closed")


def test_a_summary_orders_the_stages_and_tells_what_was_dropped() -> None:
    report = StreamReport(
        name="clip",
        frames=3,
        seconds=1.5,
        counts=SourceCounts(5, 3, superseded=2),
        stages={name: Percentiles(1, 2, 3, 4, 7) for name in ("total", "novel", "walk", "resize")},
    )
    assert list(percentiles_ms(report)) == ["resize", "walk", "novel", "total"]
    assert percentiles_ms(report)["walk"] == {"p50_ms": 1, "p90_ms": 2, "p99_ms": 3, "runs": 7}
    record = summary_record("clip", "a double", "guided", report)
    assert record["readout"] == "guided"
    assert (record["fps"], record["frames_in"], record["dropped"]["superseded"]) == (2.0, 5, 2)
    assert "2 dropped (2 superseded)" in summary_line("clip", "bilinear", report)
    assert summary_line("clip", "guided", report).endswith(", guided read-out")
    assert "read-out" not in summary_line("clip", "bilinear", report)


def test_status_file_of_a_run_is_json(tmp_path: Path) -> None:
    from nerve_stream.monitoring.status import write_status

    health = Health()
    reported(health)
    write_status(tmp_path / "status.json", health.snapshot())
    assert json.loads((tmp_path / "status.json").read_text())["sources"][0]["counts"]["done"] == 12
