"""The options of the runtime's commands with their help, and the groups that `nerve-segment` has them in."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_BUNDLE = Path("bundles/tiny")

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="Video files, images, folders, quoted patterns such as 'clips/*.mp4', camera numbers, or URLs (rtsp, rtsps, "
        "rtmp, http, https, udp, tcp, srt); several are done side by side.",
    ),
]
Bundle = Annotated[
    Path | None,
    typer.Option("--bundle", help=f"Folder of the bundle (default: {DEFAULT_BUNDLE}, if it is there)."),
]
ClassesText = Annotated[
    str | None,
    typer.Option(
        "--classes", help="Class names: ';' between classes, ',' between synonyms: 'ladybug; tennis ball, ball'."
    ),
]
ClassesFile = Annotated[
    Path | None,
    typer.Option("--classes-file", help="Class names, one class a line, UTF-8, '#' starts a comment."),
]
Background = Annotated[
    str,
    typer.Option("--background", help="Words for all that is no class, ',' between them; they become label 0."),
]
VocabularyFile = Annotated[
    Path | None,
    typer.Option("--vocabulary", help="Vocabulary file of nerve-vocab, instead of --classes; needs no text graph."),
]
Templates = Annotated[
    str | None,
    typer.Option(
        "--templates", help="Template set of the bundle, or a file with one template a line, {} being the word."
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", help="Probability, 0 to 1, under which a pixel is background (default: the bundle's)."),
]
Alpha = Annotated[
    float | None,
    typer.Option("--alpha", help="How far labels travel, 0 to below 1 (default: the bundle's); costs nothing."),
]
Beta = Annotated[
    float | None,
    typer.Option("--beta", help="Share of far against near affinity, 0 to 1 (default: the bundle's); costs nothing."),
]
Overlay = Annotated[
    Path | None,
    typer.Option("--overlay", help="H.264 video to write, .mp4, .mkv or .mov, with labels over the frames."),
]
Masks = Annotated[
    Path | None,
    typer.Option("--masks", help="Folder for PNG masks, frame_000012.png; pixel values are labels."),
]
MaskFormatName = Annotated[
    str,
    typer.Option(
        "--mask-format",
        help="labels: one grey channel, which every reader gives as labels; palette: in colours for people, which OpenCV "
        "reads as colours.",
    ),
]
Jsonl = Annotated[
    Path | None,
    typer.Option(
        "--jsonl",
        help="JSON lines to write: one object a frame with the area of every class; - is stdout, a named pipe is written "
        "through.",
    ),
]
Rle = Annotated[
    bool,
    typer.Option("--rle", help="Add COCO run lengths of every class to --jsonl; lines grow to kilobytes."),
]
BackendName = Annotated[
    str,
    typer.Option(
        "--backend",
        help="auto, ort, rtx, tensorrt or fake. auto chooses and says what; any other is that one or an error.",
    ),
]
ProviderName = Annotated[
    str,
    typer.Option("--providers", help="Processor for ort: cpu or cuda."),
]
Threads = Annotated[
    int,
    typer.Option("--threads", help="Threads of one graph run; 0: the library chooses, usually one a core."),
]
Spinning = Annotated[
    bool,
    typer.Option(
        "--spinning", help="Idle threads wait by spinning: faster on cores of their own, far slower on shared ones."
    ),
]
TrustEngines = Annotated[
    bool,
    typer.Option("--trust-engines", help="Run compiled engines that were not built here; they are executable code."),
]
AllowUnchecked = Annotated[
    bool,
    typer.Option("--allow-unchecked", help="Run compiled engines that were never compared with the reference."),
]
KeyframeEvery = Annotated[
    int | None,
    typer.Option(
        "--keyframe-every",
        help="Attention at least every so many frames; frames between are several times cheaper, and 1 does each by "
        "itself (default: 10 for video, 1 for pictures).",
    ),
]
BetweenKeyframes = Annotated[
    str,
    typer.Option(
        "--between",
        help="Between keyframes: follow (scores and affinities move with the picture), warm, exact or hold.",
    ),
]
ScoresEvery = Annotated[
    int,
    typer.Option("--scores-every", help="CLIP every so many frames; between, its scores are carried along."),
]
Smoothing = Annotated[
    float | None,
    typer.Option(
        "--smoothing",
        help="Share of CLIP's scores kept from the frame before, 0 (off) to below 1 (default: 0.7 for video): less "
        "flicker, slower to change.",
    ),
]
Realtime = Annotated[
    bool | None,
    typer.Option(
        "--realtime/--lossless",
        help="The newest frame wins and the others are dropped and counted, or no frame is lost (default: realtime for "
        "cameras and URLs, lossless for files).",
        show_default=False,
    ),
]
Isolate = Annotated[
    bool | None,
    typer.Option(
        "--isolate/--no-isolate",
        help="Run the graphs in a process of their own, which is started again when it hangs or crashes (default: for "
        "cameras and URLs).",
        show_default=False,
    ),
]
HangTimeout = Annotated[
    float | None,
    typer.Option(
        "--hang-timeout",
        help="Seconds after which a frame in the graphs counts as hung (default: frames of files are waited for; with "
        "--realtime 5 times as long as the slowest of the latest frames took, at least 10).",
        show_default=False,
    ),
]
Start = Annotated[
    float,
    typer.Option("--start", min=0, help="Begin so many seconds into each file."),
]
Duration = Annotated[
    float | None,
    typer.Option("--duration", help="Read so many seconds of each source (default: all)."),
]
Every = Annotated[
    int,
    typer.Option("--every", min=1, help="Take the first of every so many frames."),
]
RtspTransport = Annotated[
    str,
    typer.Option("--rtsp-transport", help="tcp, or udp: loses pictures rather than wait for them."),
]
WaitForSource = Annotated[
    bool,
    typer.Option("--wait-for-source", help="Keep trying when a camera or URL does not answer at the start."),
]
GiveUpAfter = Annotated[
    float | None,
    typer.Option(
        "--give-up-after", help="Seconds that a camera or URL may stay away before it has failed (default: for ever)."
    ),
]
Out = Annotated[
    str | None,
    typer.Option(
        "--out", help="Send the overlay live: rtsp://, rtsps://, udp://, rtmp://, srt:// or - (MPEG-TS on stdout)."
    ),
]
Follow = Annotated[
    bool,
    typer.Option("--follow", help="Write --jsonl to its final name from the start, for tail -f."),
]
Contours = Annotated[
    bool,
    typer.Option("--contours", help="Overlay: outlines instead of filled regions."),
]
Dim = Annotated[
    bool,
    typer.Option("--dim", help="Overlay: colours fade where the confidence is low."),
]
Plain = Annotated[
    bool,
    typer.Option("--plain", help="Overlay: no legend and no status line."),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Keep a record beside the outputs, and leave out what a run with the same settings has finished.",
    ),
]
StatusJson = Annotated[
    Path | None,
    typer.Option("--status-json", help="File that holds the state of the run as JSON, replaced every second."),
]
MetricsPort = Annotated[
    int | None,
    typer.Option("--metrics-port", help="Answer Prometheus on this port of this machine, 0 for any free one."),
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="Stop after so many frames of each source (default: all)."),
]
Opacity = Annotated[
    float,
    typer.Option("--opacity", min=0.0, max=1.0, help="Of the overlay's colours: 0 shows the frame, 1 the labels."),
]
Show = Annotated[
    bool,
    typer.Option("--show", help="Show the overlay in a window: q ends, space pauses, left and right move 5 s."),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Replace outputs that exist. An output that is a link replaces the file it leads to; devices are refused, "
        "with and without it.",
    ),
]
AllowPartial = Annotated[
    bool,
    typer.Option("--allow-partial", help="Keep what a damaged source gives, with a warning, instead of exit code 5."),
]
Json = Annotated[
    bool,
    typer.Option("--json", "--json-summary", help="Only JSON lines on stdout: artefacts, then a summary per source."),
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Refuse what is otherwise a warning: cut prompts, look-alike letters."),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", help="Log details, and keep the traceback of an error."),
]


@dataclass(frozen=True, slots=True)
class WhatToRead:
    """Which sources, and which part of them."""

    sources: Sources
    start: Start = 0.0
    duration: Duration = None
    every: Every = 1
    limit: Limit = None
    allow_partial: AllowPartial = False
    rtsp_transport: RtspTransport = "tcp"
    wait_for_source: WaitForSource = False
    give_up_after: GiveUpAfter = None


@dataclass(frozen=True, slots=True)
class WhatToFind:
    """The bundle and the class names."""

    bundle: Bundle = None
    classes: ClassesText = None
    classes_file: ClassesFile = None
    background: Background = ""
    vocabulary: VocabularyFile = None
    templates: Templates = None
    threshold: Threshold = None
    alpha: Alpha = None
    beta: Beta = None
    strict: Strict = False


@dataclass(frozen=True, slots=True)
class WhatToWrite:
    """The outputs and how they look."""

    overlay: Overlay = None
    masks: Masks = None
    mask_format: MaskFormatName = "labels"
    jsonl: Jsonl = None
    out: Out = None
    rle: Rle = False
    follow: Follow = False
    opacity: Opacity = 0.55
    contours: Contours = False
    dim: Dim = False
    plain: Plain = False
    show: Show = False
    force: Force = False
    resume: Resume = False


@dataclass(frozen=True, slots=True)
class HowToRun:
    """The back end, video, and what is told meanwhile."""

    keyframe_every: KeyframeEvery = None
    between: BetweenKeyframes = "follow"
    scores_every: ScoresEvery = 1
    smoothing: Smoothing = None
    realtime: Realtime = None
    isolate: Isolate = None
    hang_timeout: HangTimeout = None
    backend: BackendName = "auto"
    providers: ProviderName = "cpu"
    threads: Threads = 0
    spinning: Spinning = False
    trust_engines: TrustEngines = False
    allow_unchecked: AllowUnchecked = False
    status_json: StatusJson = None
    metrics_port: MetricsPort = None
    json_lines: Json = False
    verbose: Verbose = False
