"""What `nerve-segment` does: sources through one worker, to their files, their tables of times and an exit code."""

import json
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from types import FrameType

import typer
from rich.console import Console

from nerve_runtime import NerveError, NumericError
from nerve_runtime.atomic import sweep_temporaries
from nerve_runtime.bundle import load_manifest
from nerve_stream.cli.estimate import slow_frame_notice
from nerve_stream.cli.input import tell_error
from nerve_stream.cli.options import ClassOptions, OutputOptions, RunOptions, SourceOptions
from nerve_stream.cli.outputs import Outputs, Planned, planned_sources
from nerve_stream.cli.plan import job_key, live_options, segmenter_options, wants
from nerve_stream.cli.progress import shown_progress
from nerve_stream.cli.source import OpenSource
from nerve_stream.cli.summary import summary_record, summary_table
from nerve_stream.jobs import Job, JobKey, open_job, record_beside
from nerve_stream.monitoring.health import Health
from nerve_stream.monitoring.metrics import MetricsServer
from nerve_stream.pipeline import (
    LocalWorker,
    ProcessWorker,
    SegmenterOptions,
    StreamControl,
    StreamJob,
    StreamOptions,
    StreamReport,
    Worker,
    run_streams,
)
from nerve_stream.pipeline.segmenter_options import open_segmenter
from nerve_stream.redaction import readable
from nerve_stream.sinks.window import Key, Window
from nerve_stream.sources.expanding import expand_sources

SIGNAL_EXIT_BASE = 128
FILES_AT_ONCE = 4
"""Files that are done side by side: enough to hide decoding and encoding, and few enough to stay open."""
SEEK_S = 5
NO_OUTPUT = (
    "no output is asked for, only times will be shown; --overlay FILE.mp4, --masks DIR, --jsonl FILE and --out URL keep "
    "results, --show shows them"
)


class Interruption:
    """Turns SIGINT and SIGTERM into a wish to stop; a second one ends the program at once."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.signal_number: int | None = None
        self._at_once = False

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal_number = number
        self.stop.set()
        if self._at_once:
            raise KeyboardInterrupt

    def reader_gone(self) -> None:
        """Stop as quietly as SIGPIPE would, with its exit code: who read the results, `head` say, has enough."""
        if self.signal_number is None:
            self.signal_number = signal.SIGPIPE
        self.stop.set()

    def raise_if_heard(self) -> None:
        """End with the exit code of the signal, if there was one.

        Raises:
            typer.Exit: 130 or 143; 141 when nobody reads the results any more.
        """
        if self.signal_number is not None:
            raise typer.Exit(SIGNAL_EXIT_BASE + self.signal_number)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a signal break the block off: what it opens may take minutes, and there is nothing to finish yet.

        Raises:
            typer.Exit: 130 or 143, also when the signal came before the block.
        """
        self.raise_if_heard()
        self._at_once = True
        try:
            self.raise_if_heard()
            yield
        except KeyboardInterrupt:
            self.raise_if_heard()
            raise
        finally:
            self._at_once = False

    @contextmanager
    def handlers(self) -> Iterator[None]:
        """Install the handlers for the block; only where signals can be heard, in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._heard) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run_command(read: SourceOptions, find: ClassOptions, write: OutputOptions, run: RunOptions) -> None:
    """Segment every source and write its outputs; several sources have their names in the outputs' names.

    Raises:
        NerveError: what stopped everything: words, outputs, the bundle, the worker.
        typer.Exit: the code of the first source that failed, once the others are done; 130 or 143 after a signal. What
            was done by then is kept.
    """
    sources = expand_sources(list(read.sources))
    outputs = Outputs.asked(write)
    planned = planned_sources(sources, outputs)
    options = segmenter_options(sources, find, run)
    if not (outputs.paths() or outputs.out or outputs.takes_stdout or write.show):
        typer.echo(NO_OUTPUT, err=True)
    interruption = Interruption()
    with ExitStack() as stack:
        stack.enter_context(interruption.handlers())
        job = stack.enter_context(_record(outputs, job_key(options, read, write))) if write.resume else None
        left = _unfinished(planned, job)
        if not left:
            return
        if job is not None:
            _sweep(left)
        with interruption.at_once():
            worker = stack.enter_context(_opened_worker(options, isolate=wants(run.isolate, sources)))
        _announce(worker, options)
        _Runner(worker, job, read, write, run, interruption).run(left)


@contextmanager
def _record(outputs: Outputs, key: JobKey) -> Iterator[Job]:
    first = outputs.paths()[0]
    record = record_beside(first, folder=first == outputs.masks)
    with open_job(record, key, resume=True, force=outputs.force) as job:
        yield job


def _unfinished(planned: list[Planned], job: Job | None) -> list[Planned]:
    if job is None:
        return planned
    left = [plan for plan in planned if not job.finished(plan.source)]
    if job.resumed:
        typer.echo(f"resuming: {len(planned) - len(left)} of {len(planned)} sources are finished", err=True)
    return left


def _sweep(planned: Sequence[Planned]) -> None:
    """Delete what a killed run left of these outputs; all at once, before one of them is begun anew."""
    for plan in planned:
        for path in plan.outputs.paths():
            sweep_temporaries(path)


@contextmanager
def _opened_worker(options: SegmenterOptions, *, isolate: bool) -> Iterator[Worker]:
    if isolate:
        with ProcessWorker(options) as worker:
            yield worker
        return
    segmenter = open_segmenter(options)
    try:
        with LocalWorker(segmenter) as worker:
            yield worker
    finally:
        segmenter.close()


def _announce(worker: Worker, options: SegmenterOptions) -> None:
    """Say on stderr what runs the graphs, what a frame takes, and whether the labels can mean anything."""
    manifest = load_manifest(Path(options.bundle))
    typer.echo(f"backend: {worker.describe()}", err=True)
    if notice := slow_frame_notice(manifest, worker.describe()):
        typer.echo(notice, err=True)
    if manifest.random_weights:
        typer.echo("random weights: labels mean nothing", err=True)


class _Runner:
    """Batches of sources through the worker; what they have in common."""

    def __init__(
        self,
        worker: Worker,
        job: Job | None,
        read: SourceOptions,
        write: OutputOptions,
        run: RunOptions,
        interruption: Interruption,
    ) -> None:
        self._worker, self._job = worker, job
        self._read, self._write, self._run = read, write, run
        self._console = Console(stderr=True)
        self._interruption = interruption
        self._control = StreamControl()
        self._health = Health()
        self._failures: list[NerveError] = []
        self._invalid: list[str] = []
        self._open: list[OpenSource] = []

    def run(self, planned: Sequence[Planned]) -> None:
        realtime = wants(self._run.realtime, (plan.source for plan in planned))
        size = len(planned) if realtime else FILES_AT_ONCE
        waiting = iter(planned)
        with ExitStack() as stack:
            if self._run.metrics_port is not None:
                server = stack.enter_context(MetricsServer(self._run.metrics_port, self._health))
                typer.echo(f"metrics: http://127.0.0.1:{server.port}/metrics", err=True)
            window = stack.enter_context(Window("NERVE", self._pressed)) if self._write.show else None
            while (batch := list(islice(waiting, size))) and not self._interruption.stop.is_set():
                self._batch(batch, window, realtime=realtime)
        self._end()

    def _batch(self, batch: Sequence[Planned], window: Window | None, *, realtime: bool) -> None:
        self._open = []
        try:
            for plan in batch:
                with self._interruption.at_once():
                    self._open_source(plan, window)
            if self._open:
                self._play(window, realtime=realtime)
        except BaseException as error:
            for opened in self._open:
                opened.end(error)
            raise

    def _open_source(self, plan: Planned, window: Window | None) -> None:
        try:
            live = live_options(self._read)
            gone = self._interruption.reader_gone
            self._open.append(OpenSource(plan, self._read, live, self._job, window, gone))
        except NerveError as error:
            self._failed(error)

    def _play(self, window: Window | None, *, realtime: bool) -> None:
        jobs = [
            StreamJob(opened.name, opened.frames, opened.write, partial(self._finish, opened)) for opened in self._open
        ]
        options = StreamOptions(realtime, self._run.hang_timeout)
        idle = window.refresh if window is not None else None
        told = {"stop": self._interruption.stop, "control": self._control, "health": self._health, "idle": idle}
        with shown_progress(self._open, self._health, self._console, self._run.status_json, realtime=realtime):
            reports = run_streams(jobs, self._worker, options, **told)  # type: ignore[arg-type]  # four keywords
        for opened, report in zip(self._open, reports, strict=True):
            opened.end(report.error)
            self._report(opened, report)

    def _finish(self, opened: OpenSource, report: StreamReport) -> None:
        """Put the outputs of a source that is complete in place, so that nothing that comes later can lose them."""
        opened.end(None)
        if self._job is not None:
            self._job.finish(opened.source, report.frames, opened.outputs.paths())

    def _report(self, opened: OpenSource, report: StreamReport) -> None:
        if report.error is not None:
            self._failed(report.error)
        elif report.counts.failed and report.last_failure is not None and not opened.frames.live:
            self._failed(report.last_failure)
        written = opened.written()
        aside = opened.outputs.takes_stdout
        if self._run.json_lines:
            for sink in written:
                typer.echo(json.dumps({"artefact": sink.kind, "path": readable(str(sink.path))}), err=aside)
            typer.echo(json.dumps(summary_record(opened.title, self._worker.describe(), report)), err=aside)
        else:
            for sink in written:
                typer.echo(str(sink.path), err=aside)
            self._console.print(summary_table(opened.title, report))
        if report.invalid:
            typer.echo(f"{report.invalid} of {report.frames} frames had no finite scores and carry label 255", err=True)
        if report.frames and report.invalid == report.frames:
            self._invalid.append(opened.name)

    def _failed(self, error: NerveError) -> None:
        self._failures.append(error)
        tell_error(error, verbose=self._run.verbose)

    def _end(self) -> None:
        self._interruption.raise_if_heard()
        if self._failures:
            raise typer.Exit(self._failures[0].exit_code)
        if self._invalid:
            raise NumericError(
                f"every frame of {', '.join(self._invalid)} came out with scores that are not finite; "
                "rebuild the bundle in fp32, or report it"
            )

    def _pressed(self, key: Key) -> None:
        if key == "quit":
            self._interruption.stop.set()
        elif key == "pause":
            (self._control.resume if self._control.paused else self._control.pause)()
        else:
            for opened in self._open:
                opened.move(Fraction(SEEK_S if key == "forward" else -SEEK_S))
