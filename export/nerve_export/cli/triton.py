"""`nerve-build triton`: a bundle as a model repository of NVIDIA Triton, without torch."""

import json
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from nerve_export.cli.extras import require
from nerve_export.triton.settings import Kind, Settings
from nerve_runtime.bundle.manifest import load_manifest

DEFAULTS = Settings()
MEGABYTE = 1e6


Bundle = Annotated[Path, typer.Argument(help="Folder of the bundle, with manifest.json and its graphs.")]
Out = Annotated[Path, typer.Option(help="Folder of the model repository; written as a whole.")]
Target = Annotated[
    str | None,
    typer.Option(
        help="Serve the bundle's TensorRT engines for this target, such as tensorrt-sm89, which the server's TensorRT "
        "must have built; needs --kind gpu.",
        show_default="ONNX graphs",
    ),
]
RunsOn = Annotated[str, typer.Option("--kind", help="Where the graphs run: cpu or gpu.")]
Instances = Annotated[int, typer.Option(help="Instances of each graph; each takes its memory.")]
QueueDelay = Annotated[
    int, typer.Option(help="Microseconds that a request waits for others, at most, to share a run with them.")
]
MaxQueue = Annotated[int, typer.Option(help="Requests of model frame that wait; what comes then is refused.")]
QueueTimeout = Annotated[
    int, typer.Option(help="Milliseconds after which a waiting request of model frame is refused.")
]
Sequences = Annotated[int, typer.Option(help="Sequences (cameras) of model nerve at once; one more is refused.")]
Processes = Annotated[
    int, typer.Option(help="Processes of model nerve, over which sequences are spread; 0.1 GB and a core each.")
]
Idle = Annotated[float, typer.Option(help="Seconds without a frame after which model nerve forgets a sequence.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a repository that is there.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON line on stdout, nothing else.")]


def triton(
    bundle: Bundle,
    out: Out,
    target: Target = None,
    kind: RunsOn = DEFAULTS.kind,
    instances: Instances = DEFAULTS.instances,
    queue_delay_us: QueueDelay = DEFAULTS.queue_delay_us,
    max_queue: MaxQueue = DEFAULTS.max_queue,
    queue_timeout_ms: QueueTimeout = DEFAULTS.queue_timeout_ms,
    sequences: Sequences = DEFAULTS.sequences,
    processes: Processes = DEFAULTS.processes,
    idle_s: Idle = DEFAULTS.idle_s,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write a model repository for NVIDIA Triton: model frame, the stages, and model nerve for videos; needs no torch.

    The README.md in it says how to start a server and how to ask it; nerve_stream.TritonSegmenter is the client.

    Exit codes: 0 written, 2 usage, 3 bad bundle, 4 no engines for the target, 6 no space.
    """
    require("nerve-build triton", "export", "jinja2")
    from nerve_export.triton.repository import write_repository

    settings = Settings(
        target, cast("Kind", kind), instances, queue_delay_us, max_queue, queue_timeout_ms, sequences, processes, idle_s
    )
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("verifying", total=len(load_manifest(bundle).stages) + 1)

        def progress(model: str) -> None:
            bar.update(task, description=model, advance=1)

        written = write_repository(bundle, out, settings, force=force, progress=progress)
    if as_json:
        typer.echo(json.dumps({"path": str(out), "models": written.models, "bytes": written.bytes}))
    else:
        typer.echo(f"{out}  {len(written.models)} models, {written.bytes / MEGABYTE:.2f} MB")
