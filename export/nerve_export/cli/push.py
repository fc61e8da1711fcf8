"""`nerve-build push`: a bundle to the Hugging Face hub, with a model card."""

from pathlib import Path
from typing import Annotated

import typer

from nerve_export.cli.console import stderr_console
from nerve_export.cli.extras import require
from nerve_export.push.upload import CARD_NAME, Push, plan_push, send
from nerve_runtime.bundle.hub import bundle_folder
from nerve_runtime.bundle.manifest import MANIFEST_NAME

MEGABYTE = 1e6


def push(
    bundle: Annotated[
        Path, typer.Argument(help="Folder of the bundle, or hf://owner/name@revision to copy one.", show_default=False)
    ],
    target: Annotated[str, typer.Argument(help="hf://owner/name on the hub; made if it is not there.")],
    revision: Annotated[
        str | None, typer.Option(help="The branch that is committed to; made if it is not there.", show_default="main")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    message: Annotated[
        str | None, typer.Option(help="Message of the commit.", show_default="Upload the NERVE bundle of BUNDLE")
    ] = None,
    allow_random: Annotated[
        bool, typer.Option("--allow-random", help="Send a bundle with random weights; its card says so.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be sent and print the card; asks nobody.")
    ] = False,
) -> None:
    """Verify a bundle and send it to the Hugging Face hub in one commit, with a model card made of its manifest.

    Prints the address with the commit, as --bundle takes it. Engines stay here: they are executable code for one machine.
    The token is that of HF_TOKEN or `hf auth login`, and needs the right to write.

    Exit codes: 0 sent, 2 usage or random weights, 3 bad bundle, 4 missing library, 6 no network or no rights.
    """
    require("nerve-build push", "export", "huggingface_hub", "jinja2")
    planned = plan_push(bundle_folder(bundle), target, revision, allow_random=allow_random)
    console = stderr_console()
    for warning in planned.warnings:
        console.print(f"warning: {warning}; read it before you send", style="yellow")
    if planned.engines:
        console.print(
            f"left out: {', '.join(planned.engines)}; engines are executable code for one machine, made with nerve-build engines"
        )
    total = f"{len(planned.files) + 2} files, {planned.bytes / MEGABYTE:.2f} MB"
    if dry_run:
        _print_plan(planned, total)
        return
    console.print(f"sending {total} to {planned.address}")
    typer.echo(send(planned, private=private, message=message or f"Upload the NERVE bundle of {bundle.name}"))


def _print_plan(planned: Push, total: str) -> None:
    typer.echo(f"would send {total} to {planned.address}")
    added = {MANIFEST_NAME: len(planned.manifest), CARD_NAME: len(planned.card.encode())}
    for path, size in (planned.files | added).items():
        typer.echo(f"  {path}  {size / MEGABYTE:.2f} MB")
    typer.echo()
    typer.echo(planned.card)
