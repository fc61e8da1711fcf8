"""From command-line options to the settings of the segmenter, of live sources, of the demo and of a resumable job."""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from typing import cast

import typer

from nerve_runtime import EVERY_FRAME, Between, Constants, Readout, Temporal, UsageError, __version__
from nerve_runtime.backends import BackendOptions, Providers
from nerve_runtime.bundle import load_manifest
from nerve_runtime.drawing import OverlayStyle
from nerve_stream.cli.input import bundle_or_default, named_classes, template_lines
from nerve_stream.cli.options import ClassOptions, OutputOptions, RunOptions, SourceOptions
from nerve_stream.cli.progress import EmbeddingBar
from nerve_stream.exports import parse_exports
from nerve_stream.jobs import JobKey
from nerve_stream.outputs.planning import STDOUT, Outputs, SourceKind, source_kind
from nerve_stream.pipeline import SegmenterOptions
from nerve_stream.redaction import readable
from nerve_stream.sinks import MaskFormat
from nerve_stream.sources.addresses import is_live
from nerve_stream.sources.options import LiveOptions, ReadOptions, RtspTransport

NOT_IN_JOB_KEY = frozenset({"overlay", "masks", "jsonl", "out", "show", "force", "resume", "follow"})
"""Output options that say where results go, not what they contain."""
DEMO = "demo"
DEMO_OVERLAY = Path("nerve-demo.mp4")
CLIP, CLASSES = "clip.mp4", "classes.txt"


def is_enabled(setting: bool | None, sources: Iterable[str]) -> bool:
    """Whether a setting is on: as given, or, where it is None, if any source is live."""
    return any(is_live(source) for source in sources) if setting is None else setting


def chosen_temporal(sources: Iterable[str], run: RunOptions) -> Temporal:
    """How frames share work: as the options say, else as the kind of the sources suggests.

    Raises:
        UsageError: a setting is out of its range.
    """
    return temporal_of_kinds({source_kind(source) for source in sources}, run)


def temporal_of_kinds(kinds: Collection[SourceKind], run: RunOptions) -> Temporal:
    """As `chosen_temporal`, for sources of these kinds."""
    every = run.keyframe_every
    # A single picture is a keyframe in any case; the pictures of a folder would follow each other.
    if every is None and ("video" not in kinds or "pictures" in kinds):
        every = 1
        if "video" in kinds:
            typer.echo("pictures and videos together: each frame is segmented by itself; run them apart", err=True)
    if every == 1 and run.smoothing is None:
        return EVERY_FRAME
    chosen = Temporal(between=cast("Between", run.between), scores_every=run.scores_every)
    chosen = chosen if every is None else replace(chosen, keyframe_every=every)
    if run.smoothing is not None:
        return replace(chosen, smoothing=run.smoothing)
    return chosen if chosen.between == "follow" else replace(chosen, smoothing=0.0)


def segmenter_options(sources: Iterable[str], find: ClassOptions, run: RunOptions) -> SegmenterOptions:
    """How the segmenter is opened.

    Raises:
        NerveError: the classes are not named in one way, there is no bundle, or a setting makes no sense.
    """
    classes = named_classes(find.classes, find.classes_file, find.vocabulary)
    templates = template_lines(find.templates)
    return SegmenterOptions(
        bundle=str(bundle_or_default(find.bundle, strict=find.strict)),
        classes=tuple(classes) if isinstance(classes, list) else classes,
        background=(readable(find.background),) if find.background.strip() else (),
        backend=run.backend,
        backend_options=BackendOptions(
            providers=cast("Providers", run.providers),
            threads=run.threads,
            spinning=run.spinning,
            trust_engines=run.trust_engines,
            allow_unchecked=run.allow_unchecked,
        ),
        templates=tuple(templates) if isinstance(templates, list) else templates,
        constants=Constants(threshold=find.threshold, alpha=find.alpha, beta=find.beta),
        readout=cast("Readout | None", find.readout),
        strict=find.strict,
        progress=EmbeddingBar(),
        temporal=chosen_temporal(sources, run),
    )


def chosen_outputs(write: OutputOptions) -> Outputs:
    """The outputs that the options name.

    Raises:
        UsageError: `--resume` has no output to resume, or two outputs share stdout.
    """
    if write.resume and not (write.overlay or write.masks or write.jsonl or write.export):
        raise UsageError("--resume has no output to go on with; name one with --overlay, --masks, --jsonl or --export")
    if write.out == STDOUT and str(write.jsonl) == STDOUT:
        raise UsageError("--out - and --jsonl - would share stdout; give one of them a path or an address")
    text = not write.plain
    style = OverlayStyle(write.opacity, write.contours, write.dim, legend=text, status=text, names=text)
    outputs = write.overlay, write.masks, cast("MaskFormat", write.mask_format), write.jsonl, write.out
    exports = parse_exports(write.export or ())
    return Outputs(
        *outputs, write.rle, write.follow, style, write.force, write.resume, write.reproducible,
        exports=exports, instances=write.instances,
    )  # fmt: skip


def read_options(read: SourceOptions) -> ReadOptions:
    """Which part of each source is read."""
    return ReadOptions(read.allow_partial, read.start, read.duration, read.every, read.limit)


def live_options(read: SourceOptions) -> LiveOptions:
    """Timeouts of cameras and addresses.

    Raises:
        UsageError: a time or the transport makes no sense.
    """
    return LiveOptions(
        rtsp_transport=cast("RtspTransport", read.rtsp_transport),
        wait_for_source=read.wait_for_source,
        give_up_after_s=read.give_up_after,
    )


def job_key(options: SegmenterOptions, read: SourceOptions, write: OutputOptions) -> JobKey:
    """Everything but the sources that the outputs of a resumable run depend on.

    Raises:
        BundleError: the bundle has no manifest.
    """
    classes: str | Path | tuple[str, ...] = options.classes
    if isinstance(classes, Path):
        classes = f"vocabulary {hashlib.sha256(classes.read_bytes()).hexdigest()}"
    templates = options.templates
    constants = asdict(options.constants) if options.constants else {}
    part = {name: getattr(read, name) for name in ("start", "duration", "every", "limit")}
    output_options = {name: value for name, value in asdict(write).items() if name not in NOT_IN_JOB_KEY}
    return JobKey(
        manifest_sha256=load_manifest(Path(options.bundle)).manifest_sha256 or "",
        classes=(classes,) if isinstance(classes, str) else classes,
        background=tuple(options.background),
        templates=templates if isinstance(templates, str) else "\n".join(templates or ()),
        constants={**constants, **asdict(options.temporal), **part, "readout": options.readout},
        outputs=output_options,
        version=__version__,
    )


def is_demo(sources: Sequence[str]) -> bool:
    """Whether the packaged clip is asked for: the word `demo`, where no file has that name."""
    return list(sources) == [DEMO] and not Path(DEMO).exists()


def demo_options(
    read: SourceOptions, find: ClassOptions, write: OutputOptions, *, show_only: bool
) -> tuple[SourceOptions, ClassOptions, OutputOptions]:
    """The options with the packaged clip and its classes where none are named, and an overlay where nothing is.

    Args:
        read: asks for the demo.
        find: keeps what is given.
        write: keeps what is given; an overlay of an earlier demo is replaced.
        show_only: whether results go somewhere that is no file.
    """
    folder = Path(str(files("nerve_stream"))) / DEMO
    read = replace(read, sources=[str(folder / CLIP)])
    if find.classes is None and find.classes_file is None and find.vocabulary is None:
        find = replace(find, classes_file=folder / CLASSES)
    if not (write.overlay or write.masks or write.jsonl or write.export or show_only):
        write = replace(write, overlay=DEMO_OVERLAY, force=True)
    return read, find, write


def print_distances(class_names: Sequence[str], opacity: float) -> None:
    """Print to stderr how far apart the two most alike colours of the overlay are, to all kinds of eyes."""
    from nerve_runtime.drawing import least_distance

    distances = ", ".join(f"{sight} {value:.0f}" for sight, value in least_distance(class_names, opacity).items())
    typer.echo(
        f"colours: the two most alike differ by {distances} to these kinds of eyes (2 is just visible)", err=True
    )
