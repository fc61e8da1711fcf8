"""`nerve-build`, also `python export/build_engines.py`: flags to a plan, a plan to a bundle."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from nerve_export.plan import BuildPlan, make_plan, plan_key, presets
from nerve_runtime.errors import NerveError, ResourceError

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

PRESETS = "; ".join(f"{name}: {preset.about}" for name, preset in presets().items())


@app.command()
def build_engines(
    preset: Annotated[str, typer.Option(help=f"What to build. {PRESETS}.")] = "tiny",
    target: Annotated[
        str,
        typer.Option(
            help="Engines to compile beside the ONNX graphs: auto looks for a GPU and its library, ort compiles none, "
            "rtx:sm86,sm89 compiles with TensorRT-RTX for these GPUs, which need not be here."
        ),
    ] = "auto",
    opset: Annotated[int, typer.Option(help="ONNX opset: 23, or 20 for TensorRT 10.3 (JetPack 6).")] = 23,
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(
            help="Working height and width in pixels, multiples of 64; cost grows with their product.",
            show_default="the preset's",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Steps of the cold walk, unrolled into the graph; 8 is fast.", show_default="the preset's"),
    ] = None,
    max_classes: Annotated[
        int, typer.Option(help="Most classes of a vocabulary, 2 to 254; the graphs take any number up to it.")
    ] = 254,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the bundle; replaced as a whole.", show_default="bundles/PRESET")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build even if nothing changed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be built; needs no torch.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON line per artefact on stdout, nothing else.")
    ] = False,
) -> None:
    """Build a bundle: the networks and the method as ONNX graphs, checked against the PyTorch reference.

    With no option it builds bundles/tiny in about a minute. A build that nothing has changed for ends at once. A bundle
    that does not agree with the reference is not installed.

    Exit codes: 0 built or up to date, 2 usage, 3 bad bundle in the way, 4 missing library, 6 no space, 7 parity failed.
    """
    plan = make_plan(preset, opset=opset, size_hw=size, steps=steps, max_classes=max_classes, out=out)
    if dry_run:
        _say_plan(plan, target, as_json=as_json)
        return
    _build(plan, target, force=force, as_json=as_json)


def _say_plan(plan: BuildPlan, target: str, *, as_json: bool) -> None:
    from nerve_export.stages import TABLE

    facts: dict[str, Any] = {
        "preset": plan.preset,
        "out": str(plan.out),
        "target": target,
        "opset": plan.opset,
        "precision": plan.precision,
        "size_hw": plan.params.size_hw,
        "steps": plan.params.steps,
        "max_classes": plan.max_classes,
        "stages": list(TABLE),
        "plan_key": plan_key(plan),
    }
    typer.echo(json.dumps(facts) if as_json else "\n".join(f"{name}: {value}" for name, value in facts.items()))


def _build(plan: BuildPlan, target: str, *, force: bool, as_json: bool) -> None:
    from nerve_export.bundle import installed_manifest

    console = Console(stderr=True)
    if target in ("auto", "ort") and not force and _is_up_to_date(plan, target, installed_manifest):
        _say_up_to_date(plan, as_json=as_json)
        return
    from nerve_export.build import build, build_steps
    from nerve_export.engine import resolve_targets

    targets, why = resolve_targets(target)
    console.print(f"building {plan.out}: {why}", highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("starting", total=build_steps(targets))

        def progress(what: str) -> None:
            bar.update(task, description=what, advance=1)
            if not console.is_terminal:
                console.print(what, highlight=False)

        result = build(plan, targets, progress, force=force)
    if not result.artefacts:
        _say_up_to_date(plan, as_json=as_json)
        return
    for artefact in result.artefacts:
        line = json.dumps(asdict(artefact)) if as_json else _line(asdict(artefact))
        typer.echo(line)
    if result.parity is not None and not as_json:
        worst = result.parity.worst()
        taps = len(result.parity.taps)
        typer.echo(
            f"parity: {taps} comparisons passed, largest difference {worst.max_abs:.2g} ({worst.stage}.{worst.tensor})"
        )


def _is_up_to_date(plan: BuildPlan, target: str, installed: Any) -> bool:
    """Answer without torch where the target needs no look at the GPU beyond what the bundle already has."""
    manifest = installed(plan.out, plan_key(plan))
    return manifest is not None and (target == "auto" or not manifest.engines)


def _say_up_to_date(plan: BuildPlan, *, as_json: bool) -> None:
    line = {"stage": "bundle", "kind": "cached", "path": str(plan.out)}
    typer.echo(json.dumps(line) if as_json else f"{plan.out} is up to date")


def _line(artefact: dict[str, Any]) -> str:
    size = f"{artefact['bytes'] / 1e6:.2f} MB"
    return f"{artefact['path']}  {size}, {artefact['gmac']:.3f} GMAC, {artefact['seconds']:.1f} s"


def run_command(command: typer.Typer) -> None:
    """Run a command line; a NerveError becomes one line on stderr and its exit code."""
    try:
        command()
    except NerveError as error:
        Console(stderr=True).print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except OSError as error:
        Console(stderr=True).print(f"error: {error}; check the path and its rights", style="red", markup=False)
        sys.exit(ResourceError.exit_code)


def main() -> None:
    """Entry point of `nerve-build`."""
    run_command(app)


if __name__ == "__main__":
    main()
