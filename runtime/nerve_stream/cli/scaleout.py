"""`nerve-segment` with `--workers` or `--ray`: a job over many files, its progress and its report."""

import json
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nerve_runtime import UsageError
from nerve_runtime.atomic import refuse_existing, write_bytes_whole
from nerve_stream.cli.options import ClassOptions, JobOptions, OutputOptions, RunOptions, SourceOptions
from nerve_stream.cli.plan import chosen_outputs, job_key, read_options, segmenter_options, temporal_of_kinds
from nerve_stream.cli.shutdown import Shutdown
from nerve_stream.pipeline import SegmenterOptions
from nerve_stream.redaction import readable, redacted
from nerve_stream.scaleout.inputs import find_inputs, tree_path
from nerve_stream.scaleout.job import Job, JobInput, Outcome, Places, split_into_chunks
from nerve_stream.scaleout.processes import run_on_processes
from nerve_stream.scaleout.ray_job import RayCluster, RayOptions, refuse_without_ray
from nerve_stream.scaleout.records import Records, opened_records
from nerve_stream.scaleout.report import JobReport
from nerve_stream.scaleout.storage import is_url, url_of_path
from nerve_stream.sinks.masks import refuse_mask_format
from nerve_stream.sources.options import Part

HOPELESS = "memory may be short, use fewer workers"


def run_job_command(
    read: SourceOptions, find: ClassOptions, write: OutputOptions, run: RunOptions, many: JobOptions
) -> None:
    """Do all files of the sources by several processes or actors, and report on each.

    Raises:
        NerveError: the options, the sources, the bundle, the records or the cluster are unusable.
        typer.Exit: the code of the first input that failed, in the order of the inputs; 130 or 143 after a signal.
    """
    _refuse_options(read, write, run, many)
    places, write = _places(write), replace(write, reproducible=True, resume=False)
    inputs = find_inputs(list(read.sources), places)
    threads = run.threads or (1 if many.ray else max(1, _processors() // (many.workers or 1)))
    run = replace(run, threads=threads)
    options = replace(segmenter_options([], find, run), temporal=temporal_of_kinds({"video"}, run), progress=None)
    key, shutdown = job_key(options, read, write), Shutdown()
    job = Job(
        run=uuid.uuid4().hex,
        key=str(key.record()["job_key"]),
        opener=_with_absolute_paths(options).open,
        places=places,
        outputs=chosen_outputs(write),
        read=read_options(read),
        hang_timeout_s=run.hang_timeout,
        opencv_threads=threads,
    )
    report, fatal = JobReport(inputs), None
    started_s = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(shutdown.signal_handlers())
        stack.enter_context(opened_records(places, key, force=write.force))
        show = stack.enter_context(_shown_progress(len(inputs)))
        outcomes = stack.enter_context(_running(job, inputs, many, shutdown, threads))
        with suppress(typer.Exit), shutdown.interruptible() if many.ray else nullcontext():
            fatal = _collect(outcomes, report, show, run)
    stopped, records = shutdown.stop.is_set() or fatal is not None, Records(places)
    if records.are_local or not stopped:
        report.finish(stopped=stopped, recorded=lambda item: records.outcome_of_run(item, job.run))
    report.finish(stopped=stopped)
    _print_report(report, time.monotonic() - started_s, many, run)
    shutdown.raise_if_signalled()
    if fatal is not None:
        typer.echo(f"error: {fatal.error}", err=True)
        raise typer.Exit(fatal.exit_code)
    if report.failures:
        raise typer.Exit(report.failures[0].exit_code)


def _refuse_options(read: SourceOptions, write: OutputOptions, run: RunOptions, many: JobOptions) -> None:
    """Refuse what does not fit a job, before anything is looked at."""
    if many.workers is None and not many.ray:
        raise UsageError("--report, --ray-address and --gpus-per-worker go with --workers or --ray; add one of them")
    if not many.ray and (many.ray_address is not None or many.gpus_per_worker):
        raise UsageError("--ray-address and --gpus-per-worker are for --ray; add it")
    unfit = {
        "--show": write.show, "--out": write.out is not None, "--follow": write.follow, "--realtime": run.realtime,
        "--export": bool(write.export),
        "--isolate": run.isolate, "--status-json": run.status_json is not None, "--timings": run.timings,
        "--metrics-port": run.metrics_port is not None, "--wait-for-source": read.wait_for_source,
        "--web": run.web is not None, "--loop": read.loop,
    }  # fmt: skip
    given = [name for name, is_given in unfit.items() if is_given]
    if given:
        raise UsageError(f"{', '.join(given)} cannot go with --workers or --ray, which are for files; leave it out")
    if many.ray:
        refuse_without_ray()
    if many.report is not None:
        refuse_existing(many.report, force=write.force)
    Part(read.start, read.duration, read.every)
    refuse_mask_format(write.mask_format)


def _places(write: OutputOptions) -> Places:
    """The folders of outputs.

    Raises:
        UsageError: there is none, one is a file, or one is within another.
    """
    named = {
        kind: url_of_path(path) for kind in ("masks", "overlay", "jsonl") if (path := getattr(write, kind)) is not None
    }
    if not named:
        raise UsageError("--workers and --ray write to folders; name one or more with --masks, --overlay and --jsonl")
    for kind, place in named.items():
        if not is_url(place) and (Path(place).suffix or place == "-" or Path(place).is_file()):
            raise UsageError(
                f"--{kind} {place} is a file, expected a folder without a dot, in which each input has its own"
            )
    trees = {kind: f"{tree_path(place)}/" for kind, place in named.items()}
    for kind, tree in trees.items():
        within = [other for other, place in trees.items() if other != kind and place.startswith(tree)]
        if within:
            raise UsageError(f"--{within[0]} lies within --{kind}; give each a folder of its own")
    return Places(**{kind: place if is_url(place) else os.path.abspath(place) for kind, place in named.items()})  # noqa: PTH100


def _with_absolute_paths(options: SegmenterOptions) -> SegmenterOptions:
    """Workers may have another working folder."""
    classes = options.classes.absolute() if isinstance(options.classes, Path) else options.classes
    return replace(options, bundle=str(Path(options.bundle).absolute()), classes=classes)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _running(
    job: Job, inputs: Sequence[JobInput], many: JobOptions, shutdown: Shutdown, threads: int
) -> Iterator[Iterator[Outcome]]:
    """The outcomes of the job as they come."""
    if not many.ray:
        workers = many.workers or 1
        chunks = split_into_chunks(inputs, workers)
        _print_plan(inputs, len(chunks), f"{workers} process{'' if workers == 1 else 'es'}", threads)
        with closing(run_on_processes(job, chunks, workers, shutdown.stop)) as outcomes:
            yield outcomes
        return
    with shutdown.interruptible():
        cluster = RayCluster(RayOptions(many.ray_address, many.workers, threads, many.gpus_per_worker))
    with cluster:
        chunks = split_into_chunks(inputs, cluster.workers)
        _print_plan(inputs, len(chunks), f"up to {cluster.workers} Ray actors", threads)
        # Ray has its own handler of SIGTERM.
        with shutdown.signal_handlers(), closing(cluster.run(job, chunks)) as outcomes:
            yield outcomes


def _print_plan(inputs: Sequence[JobInput], chunks: int, workers: str, threads: int) -> None:
    pictures = sum(item.picture for item in inputs)
    typer.echo(
        f"plan: {len(inputs)} inputs ({len(inputs) - pictures} videos, {pictures} pictures) in {chunks} chunks on "
        f"{workers} of {threads} thread{'' if threads == 1 else 's'}",
        err=True,
    )


class _Shown:
    """The bar, where stderr is a terminal."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("inputs", total=total, failed=0, rate=0.0)
        self._started_s = time.monotonic()

    def update(self, report: JobReport) -> None:
        """Show how far the job is."""
        counts = report.counts()
        completed = sum(counts.values())
        rate = completed / max(1e-3, time.monotonic() - self._started_s)
        self._progress.update(self._task, completed=completed, failed=counts["failed"], rate=rate)


@contextmanager
def _shown_progress(total: int) -> Iterator[_Shown]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed, {task.fields[rate]:.1f}/s"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield _Shown(progress, total)


def _collect(outcomes: Iterator[Outcome], report: JobReport, show: _Shown, run: RunOptions) -> Outcome | None:
    """Take the outcomes, and print what is in place; the one that ends the job, if there is one."""
    fatal = None
    for outcome in outcomes:
        if outcome.fatal:
            fatal = fatal or outcome
            continue
        if not report.add(outcome):
            continue
        if report.hopeless:
            return replace(outcome, error=f"{outcome.error}; so did the others, and none was done: {HOPELESS}")
        show.update(report)
        if run.json_lines:
            typer.echo(json.dumps({"summary": readable(Path(outcome.source).name), **outcome.shown()}))
        elif outcome.status == "done":
            for place in outcome.outputs:
                typer.echo(redacted(readable(place)))
    return fatal


def _print_report(report: JobReport, seconds: float, many: JobOptions, run: RunOptions) -> None:
    summary = report.summary(seconds)
    if many.report is not None:
        write_bytes_whole(many.report, (json.dumps(report.record(seconds), indent=1) + "\n").encode())
    if run.json_lines:
        typer.echo(json.dumps({"job": summary}))
    if report.failures:
        typer.echo("exit  failed input", err=True)
    for outcome in report.failures:
        typer.echo(f"{outcome.exit_code:4}  {redacted(readable(outcome.source))}: {outcome.error}", err=True)
    left = f", {summary['stopped']} not done" if summary["stopped"] else ""
    typer.echo(
        f"{summary['inputs']} inputs: {summary['done']} done, {summary['skipped']} skipped, {summary['failed']} failed{left} "
        f"in {seconds:.1f} s ({summary['inputs_per_s']:.1f} inputs/s, {summary['frames_per_s']:.1f} frames/s)",
        err=True,
    )
