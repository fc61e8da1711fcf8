"""Runs paced sources through one worker and prints one JSON line of how they fared; see `python -m tests.load --help`.

Without `--bundle` the segmenter is a double whose service time is 20 ms, so that what is measured is the streaming.
"""

import argparse
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from nerve_runtime.frames import Frame
from nerve_runtime.result import FrameResult
from nerve_stream.monitoring.counters import SourceCounts
from nerve_stream.monitoring.health import Health, process_health
from nerve_stream.pipeline import LocalWorker, StreamJob, StreamOptions, StreamReport, run_streams
from nerve_stream.pipeline.worker import VideoSegmenter
from tests.data.stream_doubles import DoubleSegmenter

SERVICE_S = 0.020
SAMPLE_S = 0.05
WARM_SHARE = 0.2
THREAD_EXIT_S = 1.0
MEBIBYTE = 2**20
P99_AGE_LIMIT_MS = 150.0
FAIRNESS_LIMIT = 1.2
MEMORY_LIMIT_BYTES = 5 * MEBIBYTE
SCHEDULING_MS = 60.0
"""What handing a frame over may add to two service times; what a busy machine adds is measured in the same run."""


def paced(fps: float, size_hw: tuple[int, int], until_s: float, seed: int) -> Iterator[Frame]:
    """Frames at a steady rate, as a camera gives them: what is late is not made up for. Until a monotonic time."""
    rng = random.Random(seed)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    due_s = time.monotonic() + rng.random() / fps  # cameras are not in step
    index = 0
    while due_s < until_s:
        time.sleep(max(0.0, due_s - time.monotonic()))
        yield Frame(pixels.copy(), index, Fraction(index) / Fraction(fps))
        index += 1
        due_s = max(due_s + 1 / fps, time.monotonic())


@dataclass
class FrameCounts:
    """Frames given to the run and results written by it, counted outside of it."""

    delivered: Counter[str] = field(default_factory=Counter)
    written: Counter[str] = field(default_factory=Counter)

    def counted(self, name: str, frames: Iterator[Frame]) -> Iterator[Frame]:
        """The frames, each counted before it is given."""
        for frame in frames:
            self.delivered[name] += 1
            yield frame

    def writer(self, name: str) -> Callable[[Frame, FrameResult], None]:
        """A sink that only counts."""

        def write(frame: Frame, result: FrameResult) -> None:
            self.written[name] += 1

        return write


@dataclass
class Samples:
    """Counts and memory, sampled twenty times a second while a run goes on."""

    health: Health
    warm_at_s: float
    broken: int = 0
    taken: int = 0
    warm_bytes: int = 0
    counts: list[SourceCounts] = field(default_factory=list)
    _next_s: float = 0.0

    def sample(self) -> None:
        """Check the law of conservation, and note the memory once the run is warm."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + SAMPLE_S
        self.counts = [source.counts for source in self.health.snapshot().sources]
        self.taken += 1
        self.broken += sum(not counts.conserved for counts in self.counts)
        if not self.warm_bytes and now_s >= self.warm_at_s:
            self.warm_bytes = process_health().rss_bytes


CONTROL = """
import select, sys, time
half_s, late_s = float(sys.argv[1]) / 2, [0.0]
while True:
    started_s = time.monotonic()
    for _ in range(4):
        if select.select([sys.stdin], [], [], half_s)[0]:
            print(sorted(late_s)[int(0.99 * len(late_s))])
            sys.exit()
    late_s.append(time.monotonic() - started_s - 4 * half_s)
"""


class Control:
    """Times four halves of a service, as a frame meets them, in a process that has nothing to do with the run.

    What they take longer than two service times is what the machine did to whoever waited meanwhile.

    Attributes:
        late_p99_ms: the 99th percentile of that, once it is over.
    """

    late_p99_ms = 0.0

    def __init__(self, service_s: float) -> None:
        words = [sys.executable, "-c", CONTROL, str(service_s)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> "Control":
        return self

    def __exit__(self, *_: object) -> None:
        printed = self._process.communicate()[0]
        self.late_p99_ms = 1000 * float(printed)


def opened_segmenter(arguments: argparse.Namespace) -> VideoSegmenter:
    """The double, or the bundle's."""
    if arguments.bundle is None:
        return DoubleSegmenter(encode_s=arguments.service_ms / 2000, decode_s=arguments.service_ms / 2000)
    from nerve_runtime.segmenter import Segmenter

    return Segmenter.open(arguments.bundle, classes=["ladybug", "grass", "sky", "road"])


def run_load(arguments: argparse.Namespace) -> dict[str, Any]:
    """One run, as a record with `ok` and `problems`."""
    frame_counts, health = FrameCounts(), Health()
    names = [f"camera {number}" for number in range(arguments.sources)]
    segmenter = opened_segmenter(arguments)
    before, cpu_before = process_health(), psutil.Process().cpu_times()
    started_s = time.monotonic()
    samples = Samples(health, started_s + WARM_SHARE * arguments.seconds)
    jobs = []
    for number, name in enumerate(names):
        frames = paced(arguments.fps, tuple(arguments.size), started_s + arguments.seconds, number)
        jobs.append(StreamJob(name, frame_counts.counted(name, frames), frame_counts.writer(name)))
    with LocalWorker(segmenter) as worker, Control(arguments.service_ms / 1000) as control:
        options, stop = StreamOptions(realtime=True), threading.Event()
        reports = run_streams(jobs, worker, options, stop=stop, health=health, idle=samples.sample)
    end, cpu = process_health(), psutil.Process().cpu_times()
    segmenter.close()
    threads = threads_left(before.threads)
    record = {
        "load": "bundle" if arguments.bundle else "double",
        "sources": arguments.sources,
        "fps_in": arguments.fps,
        "service_ms": None if arguments.bundle else arguments.service_ms,
        "seconds": round(time.monotonic() - started_s, 2),
        **totals(reports),
        "control_late_p99_ms": round(control.late_p99_ms, 1),
        "samples": samples.taken,
        "conserved": samples.broken == 0 and exact(frame_counts, reports),
        "rss_warm_mib": round(samples.warm_bytes / MEBIBYTE, 2),
        "rss_end_mib": round(end.rss_bytes / MEBIBYTE, 2),
        "open_files": [before.open_files, end.open_files],
        "threads": [before.threads, threads],
        "cpu_s": round(cpu.user + cpu.system - cpu_before.user - cpu_before.system, 2),
    }
    problems = found_problems(record, arguments)
    return {**record, "ok": not problems, "problems": problems}


def threads_left(at_most: int) -> int:
    """Threads of this process once there are at most so many; what is there after a second stays.

    The system counts a thread for a moment longer than `Thread.join` waits.
    """
    deadline_s = time.monotonic() + THREAD_EXIT_S
    while (threads := psutil.Process().num_threads()) > at_most and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return threads


def totals(reports: list[StreamReport]) -> dict[str, Any]:
    """Sums and worst cases over all sources."""
    done = [report.counts.done for report in reports]
    return {
        "frames_in": sum(report.counts.frames_in for report in reports),
        "done": sum(done),
        "dropped": sum(report.counts.dropped for report in reports),
        "in_flight": sum(report.counts.in_flight for report in reports),
        "done_by_source": done,
        "fairness": round(max(done) / max(1, min(done)), 3),
        "age_p50_ms": round(float(np.median([report.age.p50_ms for report in reports])), 1),
        "age_p99_ms": round(max(report.age.p99_ms for report in reports), 1),
        "age_worst_ms": round(max(report.worst_age_ms for report in reports), 1),
        "stage_p50_ms": {stage: spread.p50_ms for stage, spread in reports[0].stages.items()},
    }


def exact(frame_counts: FrameCounts, reports: list[StreamReport]) -> bool:
    """Whether the run's counts are those counted outside, and nothing is left in flight."""
    return all(
        report.counts.frames_in == frame_counts.delivered[report.name]
        and report.counts.done == frame_counts.written[report.name]
        and report.counts.in_flight == 0
        and report.counts.conserved
        for report in reports
    )


def found_problems(record: dict[str, Any], arguments: argparse.Namespace) -> list[str]:
    """What is not as it has to be, in words."""
    age_limit_ms = P99_AGE_LIMIT_MS
    if arguments.overload and not arguments.bundle:
        age_limit_ms = 2 * arguments.service_ms + SCHEDULING_MS
    age_limit_ms = round(age_limit_ms + record["control_late_p99_ms"], 1)
    grown_mib = record["rss_end_mib"] - record["rss_warm_mib"]
    checks = {
        "frames were lost or counted twice": record["conserved"],
        f"p99 age {record['age_p99_ms']} ms is above {age_limit_ms} ms": record["age_p99_ms"] <= age_limit_ms,
        f"fairness {record['fairness']} is above {FAIRNESS_LIMIT}": record["fairness"] <= FAIRNESS_LIMIT,
        f"memory grew by {grown_mib:.1f} MiB": grown_mib * MEBIBYTE <= MEMORY_LIMIT_BYTES,
        f"open files went {record['open_files']}": record["open_files"][0] >= record["open_files"][1],
        f"threads went {record['threads']}": record["threads"][0] >= record["threads"][1],
    }
    return [problem for problem, holds in checks.items() if not holds]


def main(words: list[str] | None = None) -> int:
    """Run as asked, print one JSON line; 1 if something is not as it has to be."""
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("--sources", type=int, default=4, help="number of cameras (default: 4)")
    parser.add_argument("--fps", type=float, default=25.0, help="frames a second of each (default: 25)")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the run (default: 20)")
    parser.add_argument("--service-ms", type=float, default=1000 * SERVICE_S, help="of the double (default: 20)")
    parser.add_argument("--size", type=int, nargs=2, default=(240, 320), metavar=("H", "W"), help="of the frames")
    parser.add_argument("--bundle", type=Path, help="segment with this bundle instead of the double")
    parser.add_argument("--overload", type=float, help="so many times more frames than the double can serve")
    arguments = parser.parse_args(words)
    if arguments.overload:
        # The two halves overlap, so that the double serves a frame in half its service time.
        arguments.fps = arguments.overload * 2000 / arguments.service_ms / arguments.sources
    record = run_load(arguments)
    print(json.dumps(record))  # noqa: T201 - the result of a script
    return 0 if record["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
