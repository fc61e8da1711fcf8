"""`nerve-segment demo`: the clip and the bundle that come with the package, to an overlay in the current folder."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import typer

from nerve_stream.cli.options import ClassOptions, OutputOptions, SourceOptions

DEMO = "demo"
DEMO_OVERLAY = Path("nerve-demo.mp4")
CLIP, CLASSES = "clip.mp4", "classes.txt"


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
    if not (write.overlay or write.masks or write.jsonl or show_only):
        write = replace(write, overlay=DEMO_OVERLAY, force=True)
    return read, find, write


def print_distances(class_names: Sequence[str], opacity: float) -> None:
    """Print to stderr how far apart the two most alike colours of the overlay are, to all kinds of eyes."""
    from nerve_stream.drawing.colours import least_distance

    distances = ", ".join(f"{sight} {value:.0f}" for sight, value in least_distance(class_names, opacity).items())
    typer.echo(f"least distance of two blended colours (CIE Lab, 2 is just visible): {distances}", err=True)
