"""The options of `nerve-segment` with their help, and what they add up to."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_BUNDLE = Path("bundles/tiny")

Sources = Annotated[
    list[str],
    typer.Argument(help="Video files, images, folders of images, or camera numbers; each is done in turn."),
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
    typer.Option("--masks", help="Folder for palette PNG masks, frame_000012.png; pixel values are labels."),
]
Jsonl = Annotated[
    Path | None,
    typer.Option("--jsonl", help="JSON lines to write: one object a frame with the area of every class."),
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
    int,
    typer.Option("--keyframe-every", help="Attention every so many frames; frames between are several times cheaper."),
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
    typer.Option("--show", help="Show the overlay in a window while running; q ends the run."),
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Replace outputs that exist."),
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
