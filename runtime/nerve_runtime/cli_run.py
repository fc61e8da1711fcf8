"""What `nerve-segment` does with a segmenter: every source in turn, through to its files and its table of times."""

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import FrameType

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from nerve_runtime.errors import NumericError, UsageError
from nerve_runtime.frames import Frame, FrameSource, open_frames
from nerve_runtime.result import FrameResult
from nerve_runtime.segmenter import Segmenter
from nerve_runtime.sinks import JsonLines, MaskFolder, OverlayVideo, Sink, safe_name
from nerve_runtime.stream import StreamReport, run_stream
from nerve_runtime.summary import summary_record, summary_table
from nerve_runtime.window import Window

SIGNAL_EXIT_BASE = 128


@dataclass(frozen=True, slots=True)
class Outputs:
    """What to write, and how."""

    overlay: Path | None
    masks: Path | None
    jsonl: Path | None
    rle: bool
    opacity: float
    force: bool

    def named(self, name: str) -> "Outputs":
        """The same outputs with the name of one of several sources in every path."""
        overlay = self.overlay and self.overlay.with_name(f"{self.overlay.stem}.{name}{self.overlay.suffix}")
        jsonl = self.jsonl and self.jsonl.with_name(f"{self.jsonl.stem}.{name}{self.jsonl.suffix}")
        masks = self.masks and self.masks / name
        return Outputs(overlay, masks, jsonl, self.rle, self.opacity, self.force)


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How each source is read."""

    limit: int | None
    allow_partial: bool
    show: bool


class Interruption:
    """Turns SIGINT and SIGTERM into a wish to stop; a second one ends the program at once."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.stop = threading.Event()
        self.signal_number: int | None = None
        self._segmenter = segmenter

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal_number = number
        self.stop.set()
        self._segmenter.stop()

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


def announce(segmenter: Segmenter) -> None:
    """Say on stderr what runs the graphs, and whether the labels can mean anything."""
    typer.echo(f"backend: {segmenter.backend}", err=True)
    if segmenter.manifest.random_weights:
        typer.echo("random weights: labels mean nothing", err=True)


def run_sources(
    segmenter: Segmenter, sources: list[str], outputs: Outputs, options: SourceOptions, *, json_lines: bool
) -> None:
    """Segment every source and write its outputs; several sources have their names in the outputs' names.

    Raises:
        NerveError: whatever stopped a source; the outputs of those before it are kept.
        typer.Exit: 130 or 143 after a signal; what was done by then is kept.
    """
    names: dict[str, Outputs] = {}
    for source in sources:
        name = safe_name(Path(source).stem or source, names)
        names[name] = outputs if len(sources) == 1 else outputs.named(name)
    refuse_clashes(sources, list(names.values()))
    interruption = Interruption(segmenter)
    all_invalid = []
    with interruption.handlers():
        for source, own in zip(sources, names.values(), strict=True):
            segmenter.reset()
            report = run_source(segmenter, source, own, options, interruption.stop, json_lines=json_lines)
            if report.frames and report.invalid == report.frames:
                all_invalid.append(source)
            if report.stopped:
                break
    if interruption.signal_number is not None:
        raise typer.Exit(SIGNAL_EXIT_BASE + interruption.signal_number)
    if all_invalid:
        raise NumericError(
            f"every frame of {', '.join(all_invalid)} came out with scores that are not finite; "
            "rebuild the bundle in fp32, or report it"
        )


def run_source(
    segmenter: Segmenter,
    source: str,
    outputs: Outputs,
    options: SourceOptions,
    stop: threading.Event,
    *,
    json_lines: bool,
) -> StreamReport:
    """Segment one source, then print its files on stdout and its times on stderr (with `json_lines`, on stdout).

    Raises:
        NerveError: whatever stopped it; then none of its outputs is left.
    """
    console = Console(stderr=True)
    with ExitStack() as stack:
        frames = stack.enter_context(open_frames(source, allow_partial=options.allow_partial))
        sinks = stack.enter_context(opened_sinks(outputs, frames))
        window = stack.enter_context(_shown(options, stop))
        progress = stack.enter_context(_progress(console))
        task = progress.add_task(frames.name, total=_shorter(frames.count, options.limit), fps=0.0)

        def write(frame: Frame, result: FrameResult) -> None:
            for sink in sinks:
                sink.write(frame.rgb, result)
            if window is not None:
                window.offer(frame.rgb, result, outputs.opacity)
            _advance(progress, task)

        idle = window.refresh if window is not None else None
        report = run_stream(islice(frames, options.limit), segmenter.segment, write, stop=stop, idle=idle)
    written = [sink for sink in sinks if sink.path.exists()]
    if json_lines:
        _print_json(frames.name, segmenter.backend, report, written)
    else:
        for sink in written:
            typer.echo(str(sink.path))
        console.print(summary_table(frames.name, report))
    if report.invalid:
        typer.echo(f"{report.invalid} of {report.frames} frames had no finite scores and carry label 255", err=True)
    return report


def _print_json(source: str, backend: str, report: StreamReport, written: list[Sink]) -> None:
    for sink in written:
        typer.echo(json.dumps({"artefact": sink.kind, "path": str(sink.path)}))
    typer.echo(json.dumps(summary_record(source, backend, report)))


@contextmanager
def opened_sinks(outputs: Outputs, frames: FrameSource) -> Iterator[list[Sink]]:
    """The sinks that were asked for; all commit at the end of the block, or all abort."""
    with ExitStack() as stack:
        sinks: list[Sink] = []
        if outputs.jsonl:
            sinks.append(stack.enter_context(JsonLines(outputs.jsonl, rle=outputs.rle, force=outputs.force)))
        if outputs.masks:
            sinks.append(stack.enter_context(MaskFolder(outputs.masks, force=outputs.force)))
        if outputs.overlay:
            video = OverlayVideo(outputs.overlay, fps=frames.fps, opacity=outputs.opacity, force=outputs.force)
            sinks.append(stack.enter_context(video))
        yield sinks


def refuse_clashes(sources: list[str], outputs: list[Outputs]) -> None:
    """Refuse, before anything is written, to lose a source or an output to another output, even with --force.

    Raises:
        UsageError: two outputs share a path, an output is a source, or masks would go into a folder of source pictures.
    """
    written = [path.resolve() for own in outputs for path in (own.overlay, own.jsonl, own.masks) if path is not None]
    twice = sorted({str(path) for path in written if written.count(path) > 1})
    if twice:
        raise UsageError(f"two outputs would be written to {', '.join(twice)}; give each a path of its own")
    existing = [Path(source).resolve() for source in sources if Path(source).exists()]
    mask_folders = {own.masks.resolve() for own in outputs if own.masks is not None}
    for source in existing:
        if source in written:
            raise UsageError(f"output {source} is the source itself; choose another name")
        if source.parent in mask_folders:
            raise UsageError(f"the masks folder {source.parent} holds the source {source.name}; choose another folder")


def _shorter(count: int | None, limit: int | None) -> int | None:
    known = [number for number in (count, limit) if number is not None]
    return min(known) if known else None


@contextmanager
def _shown(options: SourceOptions, stop: threading.Event) -> Iterator[Window | None]:
    if not options.show:
        yield None
        return
    with Window("NERVE", stop) as window:
        yield window


@contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[fps]:.1f} fps"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as progress:
        yield progress


def _advance(progress: Progress, task: TaskID) -> None:
    progress.advance(task)
    state = progress.tasks[task]
    progress.update(task, fps=state.speed or 0.0)
