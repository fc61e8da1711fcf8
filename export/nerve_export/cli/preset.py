"""`nerve-build preset`: what a preset holds and what its networks cost, before anything is built."""

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from nerve_export.cli.dry_run import size_text
from nerve_export.cli.extras import REFERENCE, require
from nerve_export.graphs.sizes import sizes_of
from nerve_export.plan import BuildPlan, make_plan
from nerve_ref.weights.architectures import OWN_CLIP, layer_shapes
from nerve_ref.weights.configs.own import AnyNetwork, Network
from nerve_ref.weights.files import WeightChoice

app = typer.Typer(rich_markup_mode="markdown", no_args_is_help=True)

PresetArgument = Annotated[
    str, typer.Argument(metavar="NAME|FILE.toml", help="A shipped preset, or a file of yours.", show_default=False)
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Do not ask the hub for configurations that are not here yet.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]


@app.command()
def show(preset: PresetArgument, offline: Offline = False) -> None:
    """Print a preset in full as the text of a file, every constant included, under comments that say what it costs.

    Save it under another name and change it: nerve-build preset show edge > mine.toml

    Exit codes: 0 shown, 2 usage or a field that is not what it should be, 3 a configuration cannot be had, 4 missing
    library.
    """
    plan = _plan(preset, offline=offline)
    for line in _table(plan, _facts(plan)):
        typer.echo(f"# {line}".rstrip())
    typer.echo()
    typer.echo(plan.preset.toml(), nl=False)


@app.command()
def check(preset: PresetArgument, offline: Offline = False, as_json: AsJson = False) -> None:
    """Check a preset field by field and print its networks, sizes and layers, and what each stage costs.

    Networks are opened by their configuration, without weights; nothing is built. Takes seconds.

    Exit codes: 0 sound, 2 usage or a field that is not what it should be, 3 a configuration cannot be had, 4 missing
    library.
    """
    plan = _plan(preset, offline=offline)
    facts = _facts(plan)
    for line in [json.dumps(facts)] if as_json else _table(plan, facts):
        typer.echo(line)


def _plan(preset: str, *, offline: bool) -> BuildPlan:
    require("nerve-build preset", "export", *REFERENCE)
    return make_plan(preset, weights=WeightChoice(offline=offline))


def _facts(plan: BuildPlan) -> dict[str, Any]:
    from nerve_export.graphs.program import stage_costs

    sizes = sizes_of(plan.backbones, plan.params, plan.max_classes)
    costs = stage_costs(plan.backbones, plan.params)
    frame = [cost for stage, cost in costs.items() if stage != "text"]
    return {
        "preset": plan.preset.name,
        "about": plan.preset.about,
        "networks": {part: _source(plan, part) for part in ("clip", "affinity", "vae") if _network(plan, part)},
        "size_hw": sizes.working_hw,
        "clip_size_hw": plan.params.clip_size_hw,
        "grid_hw": sizes.grid_hw,
        "layers": [
            {"name": layer.name, "heads": layer.heads, "width": layer.width, "grid_hw": layer.grid_hw}
            for layer in layer_shapes(plan.backbones, plan.params)
        ],
        "stages": {
            stage: {"gmac": round(cost.gmac, 3), "weight_bytes": cost.weight_bytes} for stage, cost in costs.items()
        },
        "gmac": round(sum(cost.gmac for cost in frame), 3),
        "weight_bytes": sum(cost.weight_bytes for cost in frame),
    }


def _network(plan: BuildPlan, part: str) -> AnyNetwork | None:
    network: AnyNetwork | None = getattr(plan.backbones, part)
    return network


def _source(plan: BuildPlan, part: str) -> str:
    """A network with where its weights come from."""
    network = _network(plan, part)
    if network == OWN_CLIP:
        return "the CLIP itself, one tower for both"
    if not isinstance(network, Network):
        return f"{network}, packaged" if plan.preset.is_packaged else f"{network}, as the weight lock pins it"
    if network.repository is not None:
        return f"{network} at commit {network.revision}"
    if part in plan.preset.paths:
        return f"{network} from {plan.preset.paths[part]}"  # type: ignore[index]  # `part` is one of its keys here
    return f"{network}, a configuration without weights"


def _table(plan: BuildPlan, facts: dict[str, Any]) -> Iterator[str]:
    yield f"{facts['preset']}: {facts['about']}"
    for part, source in facts["networks"].items():
        yield f"  {part:<10} {source}"
    yield f"  {'frame':<10} {_by(facts['size_hw'])} px, for CLIP {_by(facts['clip_size_hw'])} px"
    yield f"  {'tokens':<10} {_by(facts['grid_hw'])}"
    for layer in facts["layers"]:
        yield f"  {'layer':<10} {layer['name']}: {layer['heads']} heads of {layer['width']} on {_by(layer['grid_hw'])}"
    yield f"  {'stage':<10} {'GMAC':>10} {'weights, fp32':>15}"
    for stage, cost in facts["stages"].items():
        yield f"  {stage:<10} {cost['gmac']:>10.3f} {size_text(cost['weight_bytes']):>15}"
    cold = f"{facts['gmac']:>10.3f} {size_text(facts['weight_bytes']):>15}"
    yield f"  {'cold frame':<10} {cold}  at 21 classes, without text; fp16 and bf16 take half the bytes"


def _by(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[0]} x {size_hw[1]}"
