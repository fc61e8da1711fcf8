"""The options of `nerve-build`: names, help and defaults in one place, so that the commands read as sentences."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from nerve_export.presets.files import presets


def _print_version(asked: bool) -> None:
    if asked:
        # By name: the import contract closes the package itself to the export, and its version is all that is asked.
        version = import_module("nerve_runtime").__version__
        typer.echo(f"nerve-deploy {version}")
        raise typer.Exit


WHAT, PRECISION, WEIGHTS = "What is built", "Precision", "Weights"
"""Groups of options in the help."""
PRESETS = "; ".join(f"{name}: {preset.about}" for name, preset in presets().items())

PresetName = Annotated[
    str,
    typer.Option(rich_help_panel=WHAT, metavar="NAME|FILE.toml", help=f"What to build. {PRESETS}; or a file of yours."),
]
Target = Annotated[
    str,
    typer.Option(
        rich_help_panel=WHAT,
        help="Engines to compile beside the ONNX graphs: auto looks for a GPU and its library, ort compiles none, "
        "rtx:sm86,sm89 compiles with TensorRT-RTX for these GPUs, which need not be here, tensorrt compiles with "
        "TensorRT for the GPU that is here.",
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        rich_help_panel=PRECISION,
        help="fp32, fp16 or bf16, written into the graphs of the networks; norms, softmax outside the one attention op of opset 23, and the method itself stay "
        "float32. fp16 halves memory and disk. bf16 graphs run on engines alone, not on ONNX Runtime's CPU.",
    ),
]
PrecisionPlan = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=PRECISION,
        help="A precision.json, as every fp16 bundle has one: which layers stay float32.",
        show_default="an audit decides",
    ),
]
AuditFrames = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=PRECISION,
        help="Folder of your own pictures for the audit of activations before fp16.",
        show_default="seeded test frames",
    ),
]
OpsetNumber = Annotated[
    int, typer.Option(rich_help_panel=WHAT, help="ONNX opset: 23, or 20 for TensorRT 10.3 (JetPack 6).")
]
Size = Annotated[
    tuple[int, int] | None,
    typer.Option(
        rich_help_panel=WHAT,
        help="Working height and width in pixels, multiples of 64; cost grows with their product.",
        show_default="the preset's",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        rich_help_panel=WHAT,
        help="Steps of the cold walk, unrolled into the graph; 8 is fast.",
        show_default="the preset's",
    ),
]
MaxClasses = Annotated[
    int,
    typer.Option(
        rich_help_panel=WHAT,
        help="Most classes of a vocabulary, 2 to 65534; the graphs take any number up to it. Beyond 254 labels have 16 bit, "
        "and no engines can be compiled.",
    ),
]
MaxBatch = Annotated[
    int,
    typer.Option(
        rich_help_panel=WHAT,
        help="Most frames, of one camera each, that one run of the networks takes, 1 to 32; each has a vocabulary of its own. "
        "The same graphs take any number up to it.",
    ),
]
Clip = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=WEIGHTS, help="CLIP as a local folder or safetensors file.", show_default="from the hub, pinned"
    ),
]
StableDiffusion = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=WEIGHTS,
        help="Stable Diffusion as a local pipeline folder or safetensors file.",
        show_default="from the hub, pinned",
    ),
]
Vae = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=WEIGHTS,
        help="Another autoencoder, full or tiny, as a local folder or file.",
        show_default="the preset's",
    ),
]
Dinov2 = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=WEIGHTS, help="DINOv2 as a local folder or file.", show_default="from the hub, pinned"
    ),
]
TokenizerFile = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer",
        rich_help_panel=WEIGHTS,
        help="A tokenizer.json, or a folder with one.",
        show_default="CLIP's own",
    ),
]
Offline = Annotated[
    bool, typer.Option("--offline", rich_help_panel=WEIGHTS, help="Use local files and earlier downloads only.")
]
Locked = Annotated[
    bool,
    typer.Option(
        "--locked",
        rich_help_panel=WEIGHTS,
        help="Refuse weights that the lock file does not pin by commit and SHA-256.",
    ),
]
LockFile = Annotated[
    Path | None,
    typer.Option(
        "--lock",
        rich_help_panel=WEIGHTS,
        help="A lock file of your own, as `nerve-build lock` writes it.",
        show_default="the packaged one",
    ),
]
RandomWeights = Annotated[
    int | None,
    typer.Option(
        rich_help_panel=WEIGHTS,
        min=0,
        max=2**32 - 1,
        metavar="SEED",
        help="Seed: build the true architecture with random weights, to try size and speed; labels mean nothing.",
        show_default="off",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the bundle; replaced as a whole, of a link what it leads to.", show_default="bundles/PRESET..."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Build even if nothing changed.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be built; needs no torch, downloads nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON line per artefact on stdout, nothing else.")]
Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]
