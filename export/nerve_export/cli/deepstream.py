"""`nerve-build deepstream`: a bundle as a DeepStream application, for machines that have DeepStream and a GPU."""

from pathlib import Path
from typing import Annotated

import typer

from nerve_export.cli.extras import require
from nerve_runtime.bundle.hub import bundle_folder


def deepstream(
    bundle: Annotated[
        Path,
        typer.Argument(
            help="Folder of the bundle, with its graph `frame`, or hf://owner/name@revision.", show_default=False
        ),
    ],
    vocabulary: Annotated[
        Path, typer.Option(help="The classes: a file that nerve-vocab wrote with this bundle.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder of the application to write.", show_default=False)],
    url: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT of a Triton server's gRPC that has the model; without it DeepStream opens the model itself.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an application that is there.")] = False,
) -> None:
    """Write a DeepStream 7 or 8 application around a bundle: Gst-nvinferserver, its model and a small C++ library.

    The library is compiled on the machine that runs it; the README.md in the folder says how. Untested on hardware.

    Exit codes: 0 written, 2 usage or a vocabulary that does not fit, 3 bad bundle or another folder in the way, 4 missing
    library, 6 no space.
    """
    require("nerve-build deepstream", "export", "onnx", "safetensors")
    from nerve_export.deepstream.application import write_application

    typer.echo(write_application(bundle_folder(bundle), vocabulary, out, url=url, force=force))
