"""What `nerve-segment` does: it runs all sources through one worker, writes their outputs and reports each source."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from nerve_runtime import (
    NerveError,
    NumericError,
    Readout,
    SourceError,
    UsageError,
    ignore_label,
    label_dtype,
)
from nerve_runtime.bundle import Manifest, load_manifest
from nerve_stream.cli.estimate import slow_frame_notice
from nerve_stream.cli.input import print_error
from nerve_stream.cli.options import ClassOptions, OutputOptions, RunOptions, SourceOptions
from nerve_stream.cli.plan import (
    chosen_outputs,
    demo_options,
    is_demo,
    is_enabled,
    job_key,
    live_options,
    print_distances,
    read_options,
    segmenter_options,
)
from nerve_stream.cli.progress import shown_progress
from nerve_stream.cli.shutdown import Shutdown
from nerve_stream.cli.summary import summary_line, summary_record, timings_table
from nerve_stream.jobs import Job, JobKey, open_job, record_beside, sweep_temporaries
from nerve_stream.monitoring.health import Health
from nerve_stream.monitoring.metrics import MetricsServer
from nerve_stream.outputs.naming import common_root
from nerve_stream.outputs.opened import OpenSource
from nerve_stream.outputs.planning import Outputs, PlannedSource, plan_sources, refuse_outputs
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
from nerve_stream.redaction import readable
from nerve_stream.sinks.masks import refuse_mask_classes
from nerve_stream.sinks.window import Key, Window
from nerve_stream.sources.addresses import is_live
from nerve_stream.sources.expanding import expand_sources
from nerve_stream.sources.looped import always
from nerve_stream.sources.opening import refuse_unreadable
from nerve_stream.sources.options import Part
from nerve_stream.web.opening import open_page

if TYPE_CHECKING:
    from nerve_stream.web.live_page import LivePage

FILES_AT_ONCE = 4
"""Files processed side by side: enough to hide decoding and encoding, few enough to keep open."""
SEEK_S = 5
NO_OUTPUT = (
    "no output is asked for, only times will be shown; --overlay FILE, --masks DIR, --jsonl FILE, --export FORMAT=PATH "
    "and --out URL keep results, --show and --web show them"
)
PLAYED_AT_ONCE = 16
"""Files that a page plays side by side, for ever; of more, each is shown once."""
FIXED_WORDS = "--masks, --export and --resume are of one list of words, so the words of this run stay as they are"


def run_command(read: SourceOptions, find: ClassOptions, write: OutputOptions, run: RunOptions) -> None:
    """Segment every source and write its outputs; several sources have their names in the outputs' names.

    Raises:
        NerveError: the classes, the outputs, the bundle or the worker are unusable.
        typer.Exit: the code of the first source that failed, once the others are done; 130 or 143 after a signal, 141
            when nobody reads stdout any more. What was finished by then is kept.
    """
    demo = is_demo(read.sources)
    if demo:
        read, find, write = demo_options(
            read, find, write, show_only=write.show or write.out is not None or run.web is not None
        )
    sources = expand_sources(list(read.sources))
    outputs = chosen_outputs(write)
    words = [word for word in read.sources if not is_live(word)]
    root = common_root(words) if words else None
    planned = plan_sources(sources, outputs, run.status_json, root=root)
    options = segmenter_options(sources, find, run)
    if not (outputs.paths() or outputs.out or outputs.takes_stdout or write.show or run.web is not None):
        typer.echo(NO_OUTPUT, err=True)
    shutdown = Shutdown()
    with ExitStack() as stack:
        stack.enter_context(shutdown.signal_handlers())
        job = stack.enter_context(_open_record(outputs, job_key(options, read, write))) if write.resume else None
        unfinished = _unfinished_sources(planned, job)
        for plan in unfinished:
            refuse_outputs(plan)
        if not unfinished:
            return
        if job is not None:
            _delete_temporaries(unfinished)
        runner = stack.enter_context(_SourceRunner(job, read, write, run, shutdown, outputs))
        readable_sources = runner.without_unreadable(unfinished)
        if readable_sources:
            with shutdown.interruptible():
                worker = stack.enter_context(_open_worker(options, isolate=is_enabled(run.isolate, sources)))
            if outputs.masks is not None:
                refuse_mask_classes(outputs.mask_format, len(worker.class_names))
            manifest = load_manifest(Path(options.bundle))
            _print_backend(worker, manifest)
            if demo:
                print_distances(worker.class_names, write.opacity)
            runner.show_on_page(worker, options)
            runner.run(readable_sources, worker, options.readout or manifest.method.readout)
        runner.raise_exit_code()


@contextmanager
def _open_record(outputs: Outputs, key: JobKey) -> Iterator[Job]:
    first = outputs.paths()[0]
    record = record_beside(first, folder=first == outputs.masks)
    with open_job(record, key, resume=True, force=outputs.force) as job:
        yield job


def _unfinished_sources(planned: list[PlannedSource], job: Job | None) -> list[PlannedSource]:
    if job is None:
        return planned
    unfinished = [plan for plan in planned if not job.finished(plan.source)]
    if job.resumed:
        typer.echo(f"resuming: {len(planned) - len(unfinished)} of {len(planned)} sources are finished", err=True)
    return unfinished


def _delete_temporaries(planned: Sequence[PlannedSource]) -> None:
    """Delete the temporary files of a killed run, of all outputs before the first is written again."""
    for plan in planned:
        for path in plan.outputs.staged_paths():
            sweep_temporaries(path)


def _loops(read: SourceOptions, outputs: Outputs, run: RunOptions) -> bool:
    """Whether files begin again when they have ended.

    Raises:
        UsageError: they should, and files are written, which would never be complete.
    """
    written = bool(outputs.paths() or outputs.takes_stdout)
    if read.loop and written:
        raise UsageError("--loop never ends, so that outputs would never be complete; leave out --loop, or the outputs")
    return run.web is not None and not written if read.loop is None else read.loop


@contextmanager
def _open_worker(options: SegmenterOptions, *, isolate: bool) -> Iterator[Worker]:
    if isolate:
        with ProcessWorker(options.open) as worker:
            yield worker
        return
    with options.open() as segmenter, LocalWorker(segmenter) as worker:
        yield worker


def _print_backend(worker: Worker, manifest: Manifest) -> None:
    """Print to stderr what runs the graphs, what a frame takes, and whether the weights are random."""
    typer.echo(f"backend: {worker.describe()}", err=True)
    if notice := slow_frame_notice(manifest, worker.describe()):
        typer.echo(notice, err=True)
    if manifest.random_weights:
        typer.echo("random weights: labels mean nothing", err=True)


class _SourceRunner:
    """Runs sources through the worker, batch by batch, and reports each.

    As a context manager it opens the window and the metrics port, before any graph is opened.

    Raises:
        UsageError: a time or a count of the options makes no sense.
    """

    def __init__(
        self,
        job: Job | None,
        read: SourceOptions,
        write: OutputOptions,
        run: RunOptions,
        shutdown: Shutdown,
        outputs: Outputs,
    ) -> None:
        self._outputs = outputs
        self._loops = _loops(read, outputs, run)
        self._page: LivePage | None = None
        self._job, self._read, self._write, self._run, self._shutdown = job, read, write, run, shutdown
        self._live = live_options(read)
        Part(read.start, read.duration, read.every)
        self._lossless = StreamOptions(realtime=False, hang_timeout_s=run.hang_timeout)
        self._console = Console(stderr=True)
        self._control = StreamControl()
        self._health = Health()
        self._failures: list[NerveError] = []
        self._invalid: list[str] = []
        self._open: list[OpenSource] = []
        self._readout: Readout = "bilinear"
        self._window: Window | None = None
        self._stack = ExitStack()

    def __enter__(self) -> "_SourceRunner":
        if self._write.show:
            self._window = self._stack.enter_context(Window("NERVE", self._on_key))
        if self._run.metrics_port is not None:
            server = self._stack.enter_context(MetricsServer(self._run.metrics_port, self._health))
            typer.echo(f"metrics: http://127.0.0.1:{server.port}/metrics", err=True)
        if self._run.web is not None:
            style, stop = self._outputs.style, self._shutdown.stop
            self._page = self._stack.enter_context(open_page(self._run.web, style, self._health, self._control, stop))
            typer.echo(f"page: {self._page.url}", err=True)
        return self

    def show_on_page(self, worker: Worker, options: SegmenterOptions) -> None:
        """Let the viewers of the page change the words of the worker, if there is a page."""
        if self._page is not None:
            classes = worker.class_names if isinstance(options.classes, Path) else options.classes
            of_one_list = self._outputs.masks is not None or self._outputs.exports or self._outputs.resume
            fixed = FIXED_WORDS if of_one_list else None
            self._page.begin(worker, classes, options.background, fixed)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def without_unreadable(self, planned: Sequence[PlannedSource]) -> list[PlannedSource]:
        """The sources that may be opened; files that are missing or empty are reported at once as failed."""
        return [plan for plan in planned if is_live(plan.source) or self._is_readable(Path(plan.source))]

    def _is_readable(self, path: Path) -> bool:
        try:
            refuse_unreadable(path)
        except NerveError as error:
            self._add_failure(error)
            return False
        except OSError:  # permissions: opening it says so, and ends this source alone
            return True
        return True

    def run(self, planned: Sequence[PlannedSource], worker: Worker, readout: Readout) -> None:
        """Segment all sources; failures are kept for `raise_exit_code`. The read-out is the worker's, for the summaries."""
        self._readout = readout
        realtime = is_enabled(self._run.realtime, (plan.source for plan in planned))
        if self._page is not None and len(planned) > PLAYED_AT_ONCE and not self._read.loop:
            self._loops = False
        elif self._run.realtime is None and self._page is not None and not self._outputs.paths():
            realtime = True  # nothing but the page: files play as fast as they were recorded
        size = len(planned) if realtime or self._loops else FILES_AT_ONCE
        waiting = iter(planned)
        while (batch := list(islice(waiting, size))) and not self._shutdown.stop.is_set():
            self._batch(batch, worker, realtime=realtime)

    def _batch(self, batch: Sequence[PlannedSource], worker: Worker, *, realtime: bool) -> None:
        self._open = []
        try:
            for plan in batch:
                with self._shutdown.interruptible():
                    self._open_source(plan)
            if self._open:
                self._run_batch(worker, realtime=realtime)
        except BaseException as error:
            for opened in self._open:
                opened.close(error)
            raise

    def _open_source(self, plan: PlannedSource) -> None:
        try:
            on_closed_reader = self._shutdown.stop_for_closed_reader
            shown = () if self._page is None else (self._page.sink(plan.name),)
            again = None
            if self._loops and not is_live(plan.source):
                again = always if self._page is None else self._page.wants_again()
            read = read_options(self._read)
            self._open.append(
                OpenSource(plan, read, self._live, self._job, self._window, on_closed_reader, shown, again)
            )
        except NerveError as error:
            self._add_failure(error)

    def _run_batch(self, worker: Worker, *, realtime: bool) -> None:
        jobs = [
            StreamJob(opened.name, opened.frames, opened.write, partial(self._finish, opened)) for opened in self._open
        ]
        if self._page is not None:
            jobs += self._page.jobs([opened.name for opened in self._open])
        options = replace(self._lossless, realtime=realtime)
        idle = self._window.refresh if self._window is not None else None
        with shown_progress(self._open, self._health, self._console, self._run.status_json, realtime=realtime):
            reports = run_streams(
                jobs,
                worker,
                options,
                stop=self._shutdown.stop,
                control=self._control,
                health=self._health,
                idle=idle,
            )
        for opened, report in zip(self._open, reports, strict=False):  # the last are the page's own
            opened.close(report.error)
            self._report(opened, report, worker)

    def _finish(self, opened: OpenSource, report: StreamReport) -> None:
        """Put the outputs of a complete source in place at once, so that no later failure loses them."""
        opened.close(None)
        if self._job is not None:
            self._job.finish(opened.source, report.frames, opened.outputs.paths())

    def _report(self, opened: OpenSource, report: StreamReport, worker: Worker) -> None:
        skipped = opened.frames.skipped
        if report.error is not None:
            self._add_failure(report.error)
        elif report.counts.failed and report.last_failure is not None and not opened.frames.live:
            self._add_failure(report.last_failure)
        elif skipped and not self._read.allow_partial:
            self._add_failure(
                SourceError(
                    f"{opened.title}: {skipped} of its pictures could not be read and were left out; "
                    "the outputs hold the others"
                )
            )
        as_json, to_stderr = self._run.json_lines, opened.outputs.takes_stdout
        for sink in opened.written_sinks():
            artefact = {"artefact": sink.kind, "path": readable(str(sink.path))}
            typer.echo(json.dumps(artefact) if as_json else str(sink.path), err=to_stderr)
        if as_json:
            typer.echo(
                json.dumps(summary_record(opened.title, worker.describe(), self._readout, report, skipped)),
                err=to_stderr,
            )
        else:
            typer.echo(summary_line(opened.title, self._readout, report, skipped), err=True)
            if self._run.timings:
                self._console.print(timings_table(report))
        if report.invalid:
            no_label = ignore_label(label_dtype(len(worker.class_names)))
            typer.echo(
                f"{report.invalid} of {report.frames} frames had no finite scores and carry label {no_label}", err=True
            )
        if report.frames and report.invalid == report.frames:
            self._invalid.append(opened.name)

    def _add_failure(self, error: NerveError) -> None:
        self._failures.append(error)
        print_error(error, verbose=self._run.verbose)

    def raise_exit_code(self) -> None:
        """End with the code of the first failure, or of a signal."""
        self._shutdown.raise_if_signalled()
        if self._failures:
            raise typer.Exit(self._failures[0].exit_code)
        if self._invalid:
            raise NumericError(
                f"every frame of {', '.join(self._invalid)} came out with scores that are not finite; "
                "rebuild the bundle in fp32, or report it"
            )

    def _on_key(self, key: Key) -> None:
        if key == "quit":
            self._shutdown.stop.set()
        elif key == "pause":
            (self._control.resume if self._control.paused else self._control.pause)()
        else:
            for opened in self._open:
                opened.seek_by(Fraction(SEEK_S if key == "forward" else -SEEK_S))
