"""`nerve-bench experiment`: the paper's experiments, its open questions, and what may be better than it."""

from pathlib import Path
from typing import Annotated

import typer

from nerve_bench.cli.shared import (
    ACCURACY,
    JsonOption,
    LimitOption,
    OffsetOption,
    PresetOption,
    emit,
    open_world,
    plotting,
    progress_bars,
    require_reference,
    scene_seeds,
)
from nerve_runtime.errors import UsageError

app = typer.Typer()

NAMES = (
    "parts",
    "heads",
    "steps",
    "affinity",
    "sweep",
    "layers",
    "providers",
    "adaptive",
    "groups",
    "transfer",
    "things",
    "better",
    "exact",
    "solo",
)
"""As in `experiments.registry`, which --help may not import."""
COLUMNS = ("setting", "minus", "miou", "difference", "interval", "verdict", "scenes", "constants", "what", "value")


@app.command(rich_help_panel=ACCURACY)
def experiment(
    names: Annotated[list[str], typer.Argument(help=f"Which: {', '.join(NAMES)}, or all.", metavar="NAME...")],
    preset: PresetOption = "tiny",
    limit: LimitOption = 300,
    validation: Annotated[int, typer.Option(min=1, help="How many validation scenes constants are chosen on.")] = 100,
    seed_offset: OffsetOption = 0,
    dinov2: Annotated[
        Path | None, typer.Option(help="Folder or file of DINOv2 base, for providers; nothing is downloaded.")
    ] = None,
    plots: Annotated[Path | None, typer.Option(help="Folder for one PNG per experiment.")] = None,
    as_json: JsonOption = False,
) -> None:
    """One of the paper's experiments, its open questions, or attempts to do better, on the tiny world.

    parts, heads, steps, affinity, sweep, layers: as in the paper. providers, adaptive, groups, transfer, things: what it
    leaves open. better, exact: what may be better. solo: CLIP alone, one tower for both. Constants are chosen on validation scenes, figures are of test scenes;
    intervals are 95 %, by resampling scenes, paired for differences. On one core
    of its own, two to nine minutes each, 25 for better; all together about an hour and a half.
    """
    chosen = list(NAMES) if names == ["all"] else names
    unknown = [name for name in chosen if name not in NAMES]
    if unknown:
        raise UsageError(f"NAME is {', '.join(unknown)}, expected of: {', '.join(NAMES)}, or all")
    require_reference("experiment", *plotting(plots))
    from nerve_bench.experiments.registry import EXPERIMENTS
    from nerve_bench.experiments.sources import Observer
    from nerve_bench.experiments.workbench import Workbench

    world = open_world(preset)
    bench = Workbench(
        world,
        Observer(world, dinov2),
        validation=scene_seeds("validation", seed_offset, validation),
        test=scene_seeds("test", seed_offset, limit),
        progress=progress_bars(),
    )
    for name in chosen:
        records = list(EXPERIMENTS[name](bench))
        emit(records, as_json=as_json, columns=COLUMNS)
        if plots is not None:
            from nerve_bench.report.plots_experiments import draw_experiments

            draw_experiments(records, plots)
