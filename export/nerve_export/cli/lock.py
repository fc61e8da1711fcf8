"""`nerve-build lock`: fill the gaps of the weight lock from the hub, for those who maintain it."""

from pathlib import Path
from typing import Annotated

import typer

from nerve_export.cli.console import stderr_console
from nerve_export.weights.hub import HuggingFaceHub
from nerve_ref.weights.errors import WeightError
from nerve_ref.weights.lock import PACKAGED_LOCK, fill_lock
from nerve_runtime.atomic import refuse_existing
from nerve_runtime.errors import SourceError


def lock(
    output: Annotated[
        Path, typer.Argument(help="The lock file to write, from the one in use; pins that exist are never changed.")
    ] = Path("weights.lock.json"),
    source: Annotated[
        Path | None, typer.Option(help="The lock file to start from.", show_default="the packaged one")
    ] = None,
) -> None:
    """Pin commits and SHA-256 of all weights that the hub's mirrors serve now; needs the network, downloads no weights.

    Exit codes: 0 written (what is still open is listed), 2 usage, 5 the lock cannot be read or written.
    """
    refuse_existing(output, force=True)
    console = stderr_console()
    try:
        still_open = fill_lock(
            output.resolve(),
            console.print,
            hub=HuggingFaceHub(),
            source=source or PACKAGED_LOCK,
        )
    except WeightError as error:
        raise SourceError(str(error)) from error
    for line in still_open:
        console.print(f"not pinned: {line}")
    typer.echo(output)
