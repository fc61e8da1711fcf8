"""A process that compiles one engine and ends: its memory is one engine's, and when it dies the build can say why.

Its argument is a job as JSON; it writes JSON lines: progress, notes, then the outcome. Run by `engine_build.py`.
"""

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nerve_export.engines.compile import BuilderOptions, compile_engine, library, library_of
from nerve_export.engines.timing_cache import read_timings, timing_cache_path, write_timings
from nerve_runtime.atomic import write_bytes_whole
from nerve_runtime.bundle.spec import StageSpec
from nerve_runtime.errors import NerveError

LEAST_STEP = 0.005  # progress is told when the share grew by this much

SendReport = Callable[..., None]


@dataclass(frozen=True, slots=True)
class EngineJob:
    """One engine to compile: from which graph, with which doors, for what, to which file."""

    onnx: str
    spec: dict[str, Any]
    target: str
    options: BuilderOptions
    engine: str

    def as_json(self) -> str:
        """For the worker's argument."""
        return json.dumps(asdict(self))


def compile_job(job: EngineJob, send_report: SendReport) -> None:
    """Compile the engine of a job, write it whole, and tell progress, notes and at last the facts about it."""
    started = time.monotonic()
    opened = library(library_of(job.target))
    timings_path, timings = timing_cache_path(opened.backend_version, job.target), None
    if not opened.compiles_for_absent_gpus:
        timings, note = read_timings(timings_path)
        _report_note(send_report, note)
    shown = -1.0

    def progress(phase: str, share: float) -> None:
        nonlocal shown
        if share >= shown + LEAST_STEP:
            shown = share
            send_report(phase=phase, share=share)

    spec = StageSpec.model_validate(job.spec)
    engine = compile_engine(
        Path(job.onnx), spec, job.target, timing_cache=timings, progress=progress, options=job.options
    )
    write_bytes_whole(Path(job.engine), engine.plan)
    if engine.timing_cache is not None:
        _report_note(send_report, write_timings(timings_path, engine.timing_cache))
    facts = {
        "backend_version": engine.backend_version,
        "profile": engine.profile,
        "bytes": len(engine.plan),
        "seconds": round(time.monotonic() - started, 2),
        "peak_rss_mb": round(peak_rss_mb(), 1),
    }
    send_report(done=facts)


def _report_note(send_report: SendReport, note: str) -> None:
    if note:
        send_report(note=note)


def peak_rss_mb() -> float:
    """Most memory that this process has held, in MB of 2**20 bytes.

    Linux carries `ru_maxrss` over from the process that started this one, so its own high-water mark is read instead.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def _end_with_parent() -> None:
    """End at once when the input is closed early: whoever wanted the engine is gone, and its folder may be another's."""
    sys.stdin.read()
    os._exit(1)


def main() -> int:
    """Do the job of the first argument; 0 when done or when the reason was told."""
    # Libraries print to standard output as they please; it is sent to standard error, and reports go to what it was.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as reports:
        os.dup2(2, 1)

        def send_report(**report: Any) -> None:
            reports.write(json.dumps(report) + "\n")
            reports.flush()

        job = EngineJob(**json.loads(sys.argv[1]))
        threading.Thread(target=_end_with_parent, daemon=True).start()
        try:
            compile_job(job, send_report)
        except NerveError as error:
            send_report(error=type(error).__name__, message=str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
