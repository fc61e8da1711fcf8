"""`nerve-segment`: label every pixel of videos, images, cameras or streams with class names given in words."""

import logging
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from nerve_stream.cli.groups import grouped
from nerve_stream.cli.input import exit_codes
from nerve_stream.cli.options import ClassOptions, JobOptions, OutputOptions, RunOptions, SourceOptions
from nerve_stream.web.address import with_page_address

EXAMPLES = """Examples:

  nerve-segment demo

  nerve-segment demo --web

  nerve-segment photo.jpg --classes "dog, puppy; grass" --overlay seen.png

  nerve-segment clip.mp4 --classes "dog; grass; sky" --overlay out.mp4

  nerve-segment photos/ --classes-file names.txt --masks m/ --overlay o/

  nerve-segment 'clips/*.mp4' --classes-file names.txt --masks m/ --resume

  nerve-segment archive/ --classes-file names.txt --masks m/ --workers 4

  nerve-segment rtsp://door/live --classes "car; road" --jsonl l.jsonl --follow

  nerve-segment 0 --classes "dog; car" --background "grass, road" --show

Exit codes: 0 done, 2 usage, 3 bundle, 4 platform, 5 source, 6 memory or disk, 7 numbers, 8 hung, 130/143 signal, 141 stdout closed."""


def print_version(asked: bool) -> None:
    """Print the version and end, if it is asked for."""
    if asked:
        from nerve_runtime import __version__

        typer.echo(f"nerve-deploy {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
]


@dataclass(frozen=True, slots=True)
class VersionOptions:
    """What the command says about itself."""

    version: Version = False


class _SegmentCommand(TyperCommand):
    """The command whose `--web` may stand without an address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line."""
        return super().parse_args(ctx, with_page_address(args))


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.command(epilog=EXAMPLES, cls=_SegmentCommand)
@grouped
def segment(
    read: SourceOptions,
    find: ClassOptions,
    write: OutputOptions,
    run: RunOptions,
    many: JobOptions,
    _about: VersionOptions,
) -> None:
    """Label every pixel of each SOURCE with class names given in words. Progress goes to stderr, paths written to stdout."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.DEBUG if run.verbose else logging.WARNING)
    with exit_codes(verbose=run.verbose):
        # Imported here so that --help answers without OpenCV and PyAV.
        if many != JobOptions():
            from nerve_stream.cli.scaleout import run_job_command

            run_job_command(read, find, write, run, many)
            return
        from nerve_stream.cli.run import run_command

        run_command(read, find, write, run)


def main() -> None:
    """Entry point of `nerve-segment`."""
    app()
