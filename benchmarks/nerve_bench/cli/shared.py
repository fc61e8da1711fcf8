"""What the commands of `nerve-bench` share: their common options, the tiny world, progress bars, and how records are shown."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from nerve_bench.cli.tables import print_tables, table_console
from nerve_export.cli.extras import REFERENCE, require
from nerve_runtime.bundle.hub import bundle_folder
from nerve_runtime.errors import UsageError

PresetOption = Annotated[str, typer.Option("--preset", help="Whose constants and networks: tiny.")]


def fetched(bundle: Path | None) -> Path | None:
    """The folder of a bundle that was named, fetched where it is an address on the hub; see `bundle_folder`."""
    return bundle and bundle_folder(bundle)


def all_fetched(bundles: list[Path] | None) -> list[Path]:
    """The same of several."""
    return [bundle_folder(bundle) for bundle in bundles or ()]


BundleOption = Annotated[
    Path | None,
    typer.Option(
        "--bundle",
        help="Folder of the bundle, or hf://owner/name@revision.",
        show_default="bundles/PRESET",
        callback=fetched,
    ),
]
ACCURACY, COST, FIELD, REPORTS, MAKING = (
    "Accuracy on the tiny world",
    "Cost and speed",
    "Benchmarks of the field",
    "Reports",
    "Models, pictures and videos",
)
"""Groups of commands in the help."""
WEIGHTS, PROTOCOL = "Weights of the reference", "Protocol"
"""Groups of options in the help."""
JsonOption = Annotated[bool, typer.Option("--json", help="Only JSON lines on stdout; progress stays on stderr.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, help="How many scenes.")]
OffsetOption = Annotated[
    int, typer.Option("--seed-offset", min=0, help="Skip so many scenes of the range: other scenes, same world.")
]


def require_reference(command: str, *more: str) -> None:
    """Refuse a command of `nerve-bench` where PyTorch and its company, or further packages, are not installed.

    Raises:
        CompatibilityError: some are missing; says what to install.
    """
    require(f"nerve-bench {command}", "bench", *REFERENCE, *more)


def plotting(path: Path | None) -> tuple[str, ...]:
    """What it takes to draw a plot into a path, if one is given."""
    return () if path is None else ("matplotlib",)


def open_world(preset: str) -> Any:
    """The networks, words and constants of a preset whose weights are here.

    Raises:
        UsageError: they are not.
    """
    from nerve_bench.measure.accuracy import World
    from nerve_export.presets.files import presets
    from nerve_ref.weights.networks import tiny_models

    if preset != "tiny":
        raise UsageError(f"--preset is {preset!r}, expected tiny: the only preset with weights so far")
    return World.open(tiny_models(), presets()[preset].params)


def scene_seeds(split: str, offset: int, limit: int) -> range:
    """Seeds of so many scenes of a split.

    Raises:
        UsageError: there is no such split.
    """
    from nerve_bench.world import SEEDS

    if split not in ("test", "validation"):
        raise UsageError(f"--split is {split!r}, expected test or validation")
    return SEEDS[split][offset : offset + limit]


def clip_seed(offset: int) -> int:
    """Seed of a test clip.

    Raises:
        UsageError: there are not so many.
    """
    from nerve_bench.world import SEEDS

    if offset >= len(SEEDS["clips"]):
        raise UsageError(f"--seed-offset is {offset}, expected less than {len(SEEDS['clips'])}")
    return SEEDS["clips"][offset]


def progress_bars() -> Any:
    """Makes progress bars on stderr: `bars(items, description, total=None)`."""
    from nerve_bench.tiny.dataset import ProgressFactory

    return ProgressFactory()


def emit(records: Iterable[dict[str, Any]], *, as_json: bool, columns: tuple[str, ...]) -> None:
    """Print records as they come, one JSON line each, or all of them as tables."""
    if as_json:
        for record in records:
            typer.echo(json.dumps(record))
        return
    print_tables(list(records), columns, table_console())
