"""`nerve-build`, also `python export/build_engines.py`: flags to a plan, a plan to a bundle."""

import json
import sys
from dataclasses import asdict
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from nerve_export.bundle import refuse_foreign
from nerve_export.cli import options
from nerve_export.cli import preset as preset_commands
from nerve_export.cli.console import stderr_console
from nerve_export.cli.deepstream import deepstream
from nerve_export.cli.dry_run import print_plan
from nerve_export.cli.engines import engines
from nerve_export.cli.extras import GRAPHS, require
from nerve_export.cli.lock import lock
from nerve_export.cli.parity import parity
from nerve_export.cli.push import push
from nerve_export.cli.triton import triton
from nerve_export.doctor.checks import doctor
from nerve_export.plan import BuildPlan, make_plan, plan_key, plan_weights
from nerve_export.weights.progress import DownloadBars
from nerve_ref.weights.files import WeightChoice
from nerve_runtime.errors import NerveError, ResourceError

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
app.command()(engines)
app.command()(parity)
app.command()(push)
app.command()(deepstream)
app.command()(triton)
app.command()(doctor)
app.command()(lock)
app.add_typer(preset_commands.app, name="preset", help="What a preset holds and costs: show, check.")


@app.callback(invoke_without_command=True)
def build_engines(
    context: typer.Context,
    preset: options.PresetName = "tiny",
    target: options.Target = "auto",
    precision: options.Precision = "fp32",
    precision_plan: options.PrecisionPlan = None,
    audit_frames: options.AuditFrames = None,
    opset: options.OpsetNumber = 23,
    size: options.Size = None,
    steps: options.Steps = None,
    max_classes: options.MaxClasses = 254,
    max_batch: options.MaxBatch = 1,
    clip: options.Clip = None,
    sd: options.StableDiffusion = None,
    vae: options.Vae = None,
    dinov2: options.Dinov2 = None,
    tokenizer: options.TokenizerFile = None,
    offline: options.Offline = False,
    locked: options.Locked = False,
    lock_file: options.LockFile = None,
    random_weights: options.RandomWeights = None,
    out: options.Out = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
    _version: options.Version = False,
) -> None:
    """Build a bundle: the networks and the method as ONNX graphs, checked against the PyTorch reference.

    With no option it builds bundles/tiny in about a minute. A build that nothing has changed for ends at once. A bundle
    that does not agree with the reference is not installed.

    Exit codes: 0 built or up to date, 2 usage, 3 bad weights or a bad bundle in the way, 4 missing library, 6 no space
    or memory, 7 parity failed.
    """
    if context.invoked_subcommand is not None:
        return
    plan = make_plan(
        preset,
        opset=opset,
        size_hw=size,
        steps=steps,
        max_classes=max_classes,
        max_batch=max_batch,
        out=out,
        precision=precision,
        precision_plan=precision_plan,
        audit_frames=audit_frames,
        weights=WeightChoice(clip, sd, vae, tokenizer, offline, locked, dinov2, lock_file),
        random_seed=random_weights,
        downloads=not dry_run,
    )
    if dry_run:
        print_plan(plan, target, as_json=as_json)
        return
    _build(plan, target, force=force, as_json=as_json)


def _build(plan: BuildPlan, target: str, *, force: bool, as_json: bool) -> None:
    from nerve_export.build import build, build_steps
    from nerve_export.engines.build import targets_for_classes

    require("nerve-build", "export", *GRAPHS)
    console = stderr_console()
    targets, why = targets_for_classes(target, plan.max_classes)
    refuse_foreign(plan.out)
    # Before anything else asks for weights, so that nothing is fetched without a word.
    with DownloadBars(console) as bars:
        plan_weights(plan, bars.line, bars)
    if not force and _is_up_to_date(plan, targets):
        _print_up_to_date(plan, as_json=as_json)
        return
    console.print(f"building {plan.out}: {why}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=build_steps(plan, targets))

        steps: list[str] = []

        def progress(what: str) -> None:
            step = what.partition(":")[0]
            is_new = steps[-1:] != [step]
            steps.append(step)
            bar.update(task, description=what, advance=1 if is_new else 0)
            if is_new and not console.is_terminal:
                console.print(step)

        result = build(plan, targets, progress, force=force)
    if not result.artefacts:
        _print_up_to_date(plan, as_json=as_json)
        return
    for artefact in result.artefacts:
        typer.echo(json.dumps(asdict(artefact)) if as_json else _line(asdict(artefact)))
    if not as_json:
        _print_parity(result)


def _print_parity(result: Any) -> None:
    for kept in result.kept_fp32:
        typer.echo(f"kept in float32, beyond half of float16's range: {kept}")
    if result.parity is not None:
        worst = result.parity.worst()
        typer.echo(
            f"parity: {len(result.parity.taps)} comparisons passed, largest difference {worst.max_abs:.2g} "
            f"({worst.stage}.{worst.tensor})"
        )


def _is_up_to_date(plan: BuildPlan, targets: tuple[str, ...]) -> bool:
    """Whether the bundle in place was built by the same plan, with engines for the same targets; needs no torch."""
    from nerve_export.bundle import installed_manifest

    if not plan.out.is_dir():
        return False
    manifest = installed_manifest(plan.out, plan_key(plan, plan_weights(plan, lambda _what: None)))
    return manifest is not None and {engine.target for engine in manifest.engines} == set(targets)


def _print_up_to_date(plan: BuildPlan, *, as_json: bool) -> None:
    line = {"stage": "bundle", "kind": "cached", "path": str(plan.out)}
    typer.echo(json.dumps(line) if as_json else f"{plan.out} is up to date")


def _line(artefact: dict[str, Any]) -> str:
    cost = f"{artefact['bytes'] / 1e6:.2f} MB, {artefact['gmac']:.3f} GMAC, {artefact['seconds']:.1f} s"
    return f"{artefact['path']}  {cost}, peak {artefact['peak_rss_mb'] / 1000:.2f} GB"


def run_command(command: typer.Typer) -> None:
    """Run a command line; a NerveError becomes one line on stderr and its exit code."""
    try:
        command()
    except NerveError as error:
        stderr_console().print(f"error: {error}", style="red")
        sys.exit(error.exit_code)
    except OSError as error:
        stderr_console().print(f"error: {error}; check the path and its rights", style="red")
        sys.exit(ResourceError.exit_code)


def main() -> None:
    """Entry point of `nerve-build`."""
    run_command(app)


if __name__ == "__main__":
    main()
