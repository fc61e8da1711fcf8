"""Runs small frames through one worker for minutes and fails if anything grows; see `python -m tests.soak --help`.

With `--leak-bytes-per-frame 1024` the sink keeps so many bytes of every frame: a control that has to be caught.
"""

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil

from nerve_runtime.frames import Frame
from nerve_runtime.result import FrameResult
from nerve_stream.monitoring.health import Health, process_health
from nerve_stream.pipeline import LocalWorker, ProcessWorker, StreamJob, StreamOptions, Worker, run_streams
from tests.data.stream_doubles import DoubleSegmenter, open_double
from tests.load import MEBIBYTE, paced

GROWTH_LIMIT_MIB = 5.0
WARM_SHARE = 0.2
SAMPLE_S = 0.25
WINDOW_SHARE = 0.1
"""Medians are taken over so much of the run, so that what the allocator gives back late is no growth."""


@dataclass
class Samples:
    """Memory, files, threads and children while the run goes on, and whether a zombie was seen."""

    health: Health
    times_s: list[float] = field(default_factory=list)
    rss_mib: list[float] = field(default_factory=list)
    held: list[tuple[int, int, int]] = field(default_factory=list)
    zombies: int = 0
    _next_s: float = 0.0

    def sample(self) -> None:
        """Take a sample if it is time."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + SAMPLE_S
        self.health.snapshot()  # as a run with a status file does
        now = process_health()
        self.times_s.append(now_s)
        self.rss_mib.append((now.rss_bytes + now.children_rss_bytes) / MEBIBYTE)
        self.held.append((now.open_files, now.threads, now.children))
        self.zombies += sum(child.status() == psutil.STATUS_ZOMBIE for child in psutil.Process().children())


def leaking_writer(kept: list[bytearray], leak_bytes: int) -> Callable[[Frame, FrameResult], None]:
    """A sink that forgets its frames, or keeps some bytes of each."""

    def write(frame: Frame, result: FrameResult) -> None:
        if leak_bytes:
            kept.append(bytearray(leak_bytes))

    return write


def opened_worker(*, process: bool) -> Worker:
    """A double in this process or in one of its own."""
    if process:
        return ProcessWorker(open_double)
    return LocalWorker(DoubleSegmenter())


def run_soak(arguments: argparse.Namespace) -> dict[str, Any]:
    """One run, as a record with `ok` and `problems`."""
    samples, kept = Samples(Health()), list[bytearray]()
    started_s = time.monotonic()
    jobs = []
    for number in range(arguments.sources):
        rate = arguments.frames_per_second / arguments.sources
        frames = paced(rate, tuple(arguments.size), started_s + arguments.seconds, number)
        jobs.append(StreamJob(f"camera {number}", frames, leaking_writer(kept, arguments.leak_bytes_per_frame)))
    with opened_worker(process=arguments.process) as worker:
        options, stop = StreamOptions(realtime=True), threading.Event()
        reports = run_streams(jobs, worker, options, stop=stop, health=samples.health, idle=samples.sample)
    done = sum(report.counts.done for report in reports)
    record = {
        "soak": "process" if arguments.process else "local",
        "seconds": arguments.seconds,
        "frames_done": done,
        "fps": round(done / arguments.seconds, 1),
        "conserved": all(report.counts.conserved and not report.counts.in_flight for report in reports),
        "leak_bytes_per_frame": arguments.leak_bytes_per_frame,
        "leaked_mib": round(len(kept) * arguments.leak_bytes_per_frame / MEBIBYTE, 2),
        **grown(samples),
        "samples": len(samples.times_s),
        "zombies": samples.zombies,
    }
    problems = found_problems(record)
    return {**record, "ok": not problems, "problems": problems}


def grown(samples: Samples) -> dict[str, Any]:
    """What was held after warm-up and at the end: medians of a tenth of the run, and the slope of all in between."""
    count = len(samples.times_s)
    warm, window = int(WARM_SHARE * count), max(1, int(WINDOW_SHARE * count))
    rss = np.array(samples.rss_mib)
    times = np.array(samples.times_s)
    first, last = float(np.median(rss[warm : warm + window])), float(np.median(rss[-window:]))
    slope = float(np.polyfit(times[warm:], rss[warm:], 1)[0]) if count - warm > 2 else 0.0
    return {
        "rss_warm_mib": round(first, 2),
        "rss_end_mib": round(last, 2),
        "growth_mib": round(last - first, 2),
        "slope_mib_per_minute": round(60 * slope, 3),
        "held_warm": most_common(samples.held[warm : warm + window]),
        "held_end": most_common(samples.held[-window:]),
    }


def most_common(held: list[tuple[int, int, int]]) -> dict[str, int]:
    """Open files, threads and children as most samples had them; a sample itself opens a file now and then."""
    files, threads, children = max(set(held), key=held.count)
    return {"open_files": files, "threads": threads, "children": children}


def found_problems(record: dict[str, Any]) -> list[str]:
    """What is not as it has to be, in words."""
    checks = {
        f"memory grew by {record['growth_mib']} MiB, more than {GROWTH_LIMIT_MIB}": record["growth_mib"]
        <= GROWTH_LIMIT_MIB,
        f"from {record['held_warm']} to {record['held_end']}": record["held_warm"] == record["held_end"],
        f"{record['zombies']} zombies were seen": record["zombies"] == 0,
        "frames were lost or counted twice": record["conserved"],
    }
    return [problem for problem, holds in checks.items() if not holds]


def main(words: list[str] | None = None) -> int:
    """Run as asked, print one JSON line; 1 if something grew."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="length of the run (default: 300)")
    parser.add_argument("--frames-per-second", type=float, default=400.0, help="of all sources (default: 400)")
    parser.add_argument("--sources", type=int, default=2, help="number of cameras (default: 2)")
    parser.add_argument("--size", type=int, nargs=2, default=(96, 128), metavar=("H", "W"), help="of the frames")
    parser.add_argument("--process", action="store_true", help="the worker is a process of its own")
    parser.add_argument("--leak-bytes-per-frame", type=int, default=0, help="the control: keep so many bytes of each")
    arguments = parser.parse_args(words)
    record = run_soak(arguments)
    print(json.dumps(record))  # noqa: T201 - the result of a script
    # What leaks before the run is warm does not count, nor what leaks in the windows that medians are taken of.
    visible_mib = record["leaked_mib"] * (1 - WARM_SHARE - WINDOW_SHARE)
    if arguments.leak_bytes_per_frame > 0 and visible_mib <= GROWTH_LIMIT_MIB:
        print(  # noqa: T201
            f"the control leaks {visible_mib:.1f} MiB after warm-up, too little to be caught; run longer or faster",
            file=sys.stderr,
        )
    return 0 if record["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
