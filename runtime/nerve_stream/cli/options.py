"""The options of `nerve-segment` in five groups, and those that `nerve-vocab` shares."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_BUNDLE = Path("bundles/tiny")

Bundle = Annotated[
    Path | None,
    typer.Option(
        "--bundle",
        help="Folder of the bundle, or hf://owner/name@revision of the hub, which is fetched once (default: "
        f"{DEFAULT_BUNDLE}, else the tiny one of the package).",
    ),
]
ClassesText = Annotated[
    str | None,
    typer.Option(
        "--classes", help="Class names: ';' between classes, ',' between synonyms: 'dog, puppy; soccer ball; grass'."
    ),
]
ClassesFile = Annotated[
    Path | None,
    typer.Option("--classes-file", help="Class names, one class a line, UTF-8, '#' starts a comment."),
]
Background = Annotated[
    str,
    typer.Option("--background", help="Words for all that is no class, ',' or ';' between them; they become label 0."),
]
Templates = Annotated[
    str | None,
    typer.Option(
        "--templates", help="Template set of the bundle, or a file with one template a line, {} being the word."
    ),
]
BackendName = Annotated[
    str,
    typer.Option(
        "--backend",
        help="auto, ort, rtx, tensorrt or fake. auto chooses and says what; any other is that one or an error.",
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
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Replace outputs that exist. An output that is a link replaces the file it leads to; devices are refused, "
        "with and without it.",
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Refuse what is otherwise a warning: cut prompts, look-alike letters, a bundle of the hub without its commit.",
    ),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", help="Log details, and keep the traceback of an error."),
]


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """Which sources, and which part of them."""

    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Video files, images, folders, quoted patterns such as 'clips/*.mp4', camera numbers, or URLs (rtsp, rtsps, "
            "rtmp, http, https, udp, tcp, srt); several are done side by side. The word demo is a clip that comes with the "
            "package.",
        ),
    ]
    start: Annotated[float, typer.Option(min=0, help="Begin so many seconds into each file.")] = 0.0
    duration: Annotated[float | None, typer.Option(help="Read so many seconds of each source (default: all).")] = None
    every: Annotated[int, typer.Option(min=1, help="Take the first of every so many frames.")] = 1
    limit: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many frames of each source (default: all).")
    ] = None
    allow_partial: Annotated[
        bool,
        typer.Option(
            "--allow-partial", help="Keep what a damaged source gives, with a warning, instead of exit code 5."
        ),
    ] = False
    rtsp_transport: Annotated[str, typer.Option(help="tcp, or udp: loses pictures rather than wait for them.")] = "tcp"
    wait_for_source: Annotated[
        bool, typer.Option("--wait-for-source", help="Keep trying when a camera or URL does not answer at the start.")
    ] = False
    give_up_after: Annotated[
        float | None,
        typer.Option(help="Seconds that a camera or URL may stay away before it has failed (default: for ever)."),
    ] = None
    loop: Annotated[
        bool | None,
        typer.Option(
            "--loop/--no-loop",
            help="Begin a file again when it has ended, until the run is stopped (default: with --web where no file is written).",
            show_default=False,
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class ClassOptions:
    """The bundle and the class names."""

    bundle: Bundle = None
    classes: ClassesText = None
    classes_file: ClassesFile = None
    background: Background = ""
    vocabulary: Annotated[
        Path | None, typer.Option(help="Vocabulary file of nerve-vocab, instead of --classes; needs no text graph.")
    ] = None
    templates: Templates = None
    threshold: Annotated[
        float | None,
        typer.Option(help="Probability, 0 to 1, under which a pixel is background (default: the bundle's)."),
    ] = None
    alpha: Annotated[
        float | None, typer.Option(help="How far labels travel, 0 to below 1 (default: the bundle's); costs nothing.")
    ] = None
    beta: Annotated[
        float | None,
        typer.Option(help="Share of far against near affinity, 0 to 1 (default: the bundle's); costs nothing."),
    ] = None
    readout: Annotated[
        str | None,
        typer.Option(
            help="bilinear, or guided: borders follow the colours of the frame, for about a tenth of a frame's time between "
            "keyframes (default: the bundle's)."
        ),
    ] = None
    strict: Strict = False


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """The outputs and how they look."""

    overlay: Annotated[
        Path | None,
        typer.Option(
            help="Labels over the frames: H.264 video .mp4, .mkv or .mov; of a picture .png, .jpg or .webp; of a folder of "
            "pictures a folder."
        ),
    ] = None
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Folder for PNG masks whose pixel values are labels, named as the pictures or frame_000012.png, with "
            "classes.json; of one picture a .png file will do."
        ),
    ] = None
    mask_format: Annotated[
        str,
        typer.Option(
            help="labels: one grey channel, which every reader gives as labels; palette: in colours for people, which OpenCV "
            "reads as colours.",
        ),
    ] = "labels"
    jsonl: Annotated[
        Path | None,
        typer.Option(
            help="JSON lines to write: one object a frame with the area of every class; - is stdout, a named pipe is written "
            "through.",
        ),
    ] = None
    export: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FORMAT=PATH",
            help="For tools and training: coco-instances=F.json, coco-panoptic=DIR, yolo=DIR, cvat=F.xml or "
            "label-studio=F.json; may be given several times.",
        ),
    ] = None
    instances: Annotated[
        bool,
        typer.Option(
            "--instances",
            help="Number the connected regions of each class; numbers follow them from frame to frame, in --jsonl and "
            "--export.",
        ),
    ] = False
    out: Annotated[
        str | None,
        typer.Option(
            help="Send the overlay live: rtsp://, rtsps://, udp://, rtmp://, srt:// or - (MPEG-TS on stdout)."
        ),
    ] = None
    rle: Annotated[
        bool, typer.Option("--rle", help="Add COCO run lengths of every class to --jsonl; lines grow to kilobytes.")
    ] = False
    follow: Annotated[
        bool, typer.Option("--follow", help="Write --jsonl to its final name from the start, for tail -f.")
    ] = False
    opacity: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Of the overlay's colours: 0 shows the frame, 1 the labels.")
    ] = 0.55
    contours: Annotated[bool, typer.Option("--contours", help="Overlay: outlines instead of filled regions.")] = False
    dim: Annotated[bool, typer.Option("--dim", help="Overlay: colours fade where the confidence is low.")] = False
    plain: Annotated[bool, typer.Option("--plain", help="Overlay: no names, no legend and no status line.")] = False
    show: Annotated[
        bool,
        typer.Option("--show", help="Show the overlay in a window: q ends, space pauses, left and right move 5 s."),
    ] = False
    reproducible: Annotated[
        bool,
        typer.Option(
            "--reproducible",
            help="Leave out what differs from run to run: timings_ms in --jsonl, the pace in overlay videos. The same input "
            "then gives the same bytes. Always on with --workers and --ray.",
        ),
    ] = False
    force: Force = False
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Keep a record beside the outputs, and leave out what a run with the same settings has finished.",
        ),
    ] = False


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The back end, video settings, and what is reported during the run."""

    keyframe_every: Annotated[
        int | None,
        typer.Option(
            help="Attention at least every so many frames; frames between are several times cheaper, and 1 does each by "
            "itself (default: 10 for video, 1 for pictures).",
        ),
    ] = None
    between: Annotated[
        str,
        typer.Option(
            help="Between keyframes: follow (scores and affinities move with the picture), warm, exact or hold.",
        ),
    ] = "follow"
    scores_every: Annotated[
        int, typer.Option(help="CLIP every so many frames; between, its scores are carried along.")
    ] = 1
    smoothing: Annotated[
        float | None,
        typer.Option(
            help="Share of CLIP's scores kept from the frame before, 0 (off) to below 1 (default: 0.5 for video): less "
            "flicker, slower to change.",
        ),
    ] = None
    realtime: Annotated[
        bool | None,
        typer.Option(
            "--realtime/--lossless",
            help="The newest frame wins and the others are dropped and counted, or no frame is lost (default: realtime for "
            "cameras and URLs, lossless for files).",
            show_default=False,
        ),
    ] = None
    isolate: Annotated[
        bool | None,
        typer.Option(
            "--isolate/--no-isolate",
            help="Run the graphs in a process of their own, which is started again when it hangs or crashes (default: for "
            "cameras and URLs).",
            show_default=False,
        ),
    ] = None
    hang_timeout: Annotated[
        float | None,
        typer.Option(
            help="Seconds after which a frame in the graphs counts as hung (default: frames of files are waited for; with "
            "--realtime or --isolate 5 times as long as the slowest of the latest frames took, at least 10).",
            show_default=False,
        ),
    ] = None
    backend: BackendName = "auto"
    providers: Annotated[str, typer.Option(help="Processor for ort: cpu or cuda.")] = "cpu"
    threads: Annotated[
        int, typer.Option(help="Threads of one graph run; 0: the library chooses, usually one a core.")
    ] = 0
    spinning: Annotated[
        bool,
        typer.Option(
            "--spinning", help="Idle threads wait by spinning: faster on cores of their own, far slower on shared ones."
        ),
    ] = False
    trust_engines: TrustEngines = False
    allow_unchecked: AllowUnchecked = False
    status_json: Annotated[
        Path | None, typer.Option(help="File that holds the state of the run as JSON, replaced every second.")
    ] = None
    metrics_port: Annotated[
        int | None, typer.Option(help="Answer Prometheus on this port of this machine, 0 for any free one.")
    ] = None
    web: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST:PORT]",
            help="Serve a page with the live overlay, where words can be typed (default: port 8080 of this machine, or a "
            "free one); any other address than this machine's own asks for a token that is printed.",
            show_default=False,
        ),
    ] = None
    json_lines: Annotated[
        bool,
        typer.Option(
            "--json", "--json-summary", help="Only JSON lines on stdout: artefacts, then a summary per source."
        ),
    ] = False
    timings: Annotated[
        bool, typer.Option("--timings", help="Show the milliseconds of every stage at the end of each source.")
    ] = False
    verbose: Verbose = False


@dataclass(frozen=True, slots=True)
class JobOptions:
    """Many files: processes, or a cluster with Ray."""

    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Do all videos and pictures of the sources, of folders in folders and of URLs that fsspec knows too, by so "
            "many processes; with --ray by so many actors at most. Outputs are folders, and what is done is left out.",
        ),
    ] = None
    ray: Annotated[
        bool,
        typer.Option("--ray", help="As --workers, by Ray Data: on this machine or a cluster. Needs the extra ray."),
    ] = False
    ray_address: Annotated[
        str | None,
        typer.Option(help="Of the cluster for --ray (default: RAY_ADDRESS, else a cluster of this machine)."),
    ] = None
    gpus_per_worker: Annotated[
        float, typer.Option(min=0.0, help="GPUs that each actor of --ray is given; 0.5 lets two share one.")
    ] = 0.0
    report: Annotated[
        Path | None, typer.Option(help="File for what became of every input of --workers or --ray, as JSON.")
    ] = None
