"""`nerve-build --dry-run`: what a build would do, in words or as one JSON object."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import typer

from nerve_export.bundle import installed_manifest, refuse_foreign
from nerve_export.cli.console import stderr_console
from nerve_export.cli.extras import is_installed
from nerve_export.engines.build import targets_for_classes
from nerve_export.graphs.stages import stages_of
from nerve_export.plan import BuildPlan, networks_on_the_hub, plan_key, plan_weights
from nerve_ref.weights.configs.own import Network
from nerve_ref.weights.files import HubNetwork, WeightChoice
from nerve_runtime.errors import BundleError

MB, GB = 1e6, 1e9
TINY_BUNDLE_BYTES = 13 * MB
"""Measured."""
TIMES = {"tiny": "about a minute on 2 cores"}
TRUE_SIZE_TIME = "minutes: sd21 took 7 on 2 cores, engines for one GPU included"
LOCAL = {"clip": "CLIP", "sd": "Stable Diffusion", "vae": "autoencoder", "dinov2": "DINOv2"}


def print_plan(plan: BuildPlan, target: str, *, as_json: bool) -> None:
    """Print what a build would do; downloads nothing and needs no torch.

    Raises:
        BundleError: what lies at the place of the bundle is none, so a build would refuse.
        NerveError: the target cannot be built here.
    """
    key = _key_without_downloads(plan)
    if as_json:
        typer.echo(json.dumps(_facts(plan, target, key)))
        return
    refuse_foreign(plan.out)
    targets, why = targets_for_classes(target, plan.max_classes)
    typer.echo(f"{plan.out}: {_state(plan, targets, key)}")
    for name, text in _lines(plan, targets, why):
        typer.echo(f"  {name:<9} {text}")


def _facts(plan: BuildPlan, target: str, key: str | None) -> dict[str, Any]:
    return {
        "preset": plan.preset.name,
        "networks": list(plan.backbones.names()),
        "out": str(plan.out),
        "target": target,
        "opset": plan.opset,
        "precision": plan.precision,
        "size_hw": plan.params.size_hw,
        "steps": plan.params.steps,
        "max_classes": plan.max_classes,
        "max_batch": plan.max_batch,
        "random_weights": plan.random_seed is not None,
        "stages": stages_of(plan.params),
        "plan_key": key,
    }


def _key_without_downloads(plan: BuildPlan) -> str | None:
    """The plan's key, or None where weights would have to be downloaded first."""
    if not is_installed("safetensors"):
        stderr_console().print(
            "note: whether a build is needed cannot be said without safetensors, of the extra export"
        )
        return None
    offline = replace(plan, weights=replace(plan.weights, offline=True))
    try:
        return plan_key(plan, plan_weights(offline, lambda _what: None))
    except BundleError as error:
        note = str(error)
        if not plan.weights.offline and "was not downloaded before" in note:
            note = f"weights of {plan.preset.name} are not here yet; a build downloads them, and has no plan key before"
        stderr_console().print(f"note: {note}")
        return None


def _state(plan: BuildPlan, targets: tuple[str, ...], key: str | None) -> str:
    if not plan.out.exists():
        return "is not there, would be built"
    manifest = None if key is None else installed_manifest(plan.out, key)
    if manifest is None:
        return "is there, and damaged or of another plan; would be built anew and replaced"
    if {engine.target for engine in manifest.engines} == set(targets):
        return "is up to date, nothing would be built without --force"
    return "is up to date but for its engines; would be built anew and replaced"


def _lines(plan: BuildPlan, targets: tuple[str, ...], why: str) -> Iterator[tuple[str, str]]:
    height, width = plan.params.size_hw
    stages = stages_of(plan.params)
    yield "preset", f"{plan.preset.name}: {plan.preset.about}"
    yield "settings", f"{height} x {width} px, {plan.precision}, opset {plan.opset}, {plan.params.steps} steps"
    yield "classes", f"up to {plan.max_classes}"
    yield "batch", f"1 to {plan.max_batch} frames in a run" if plan.max_batch > 1 else "a frame in a run"
    yield "graphs", f"{len(stages)}: {', '.join(stages)}"
    yield "engines", f"{len(stages)} for each of {', '.join(targets)}; {why}" if targets else f"none; {why}"
    networks = () if plan.random_seed is not None else networks_on_the_hub(plan.backbones, plan.weights)
    for text in _weights(plan, networks):
        yield "weights", text
    download = sum(network.missing_bytes - network.begun_bytes for network in networks)
    yield "download", size_text(download) if download else "nothing"
    yield "disk", _disk(plan, targets)
    took = TIMES.get(plan.preset.name, TRUE_SIZE_TIME)
    yield "time", f"{took}; the download comes before" if download else took


def _weights(plan: BuildPlan, networks: tuple[HubNetwork, ...]) -> Iterator[str]:
    if plan.random_seed is not None:
        yield f"random, seed {plan.random_seed}: labels will mean nothing"
        return
    if plan.preset.is_packaged:
        yield "packaged, they come with nerve-deploy"
    for flag, name in LOCAL.items():
        if (path := getattr(plan.weights, flag)) is not None:
            yield f"{name} from {path}"
    for network in networks:
        where = "downloaded before" if network.is_here else f"{size_text(network.missing_bytes)} to download"
        if network.begun_bytes:
            where += f", of which {size_text(network.begun_bytes)} are here from an interrupted download"
        yield f"{network.name} from {network.repository}: {where}"


def _disk(plan: BuildPlan, targets: tuple[str, ...]) -> str:
    """Graphs hold what the weights hold, in half of the bytes in half precision, and less where networks are cut."""
    if plan.preset.is_packaged:
        graphs = f"about {size_text(TINY_BUNDLE_BYTES)}"
    elif any(isinstance(network, Network) for network in (plan.backbones.clip, plan.backbones.affinity)):
        graphs = f"as much as nerve-build preset check {plan.preset.name} says"
    else:
        weights = sum(network.total_bytes for network in networks_on_the_hub(plan.backbones, WeightChoice()))
        graphs = f"up to {size_text(weights if plan.precision == 'fp32' else weights / 2)}"
    engines = ", about twice that for the engines of each target" if targets else ""
    return f"{graphs}{engines}; an old bundle stays until the new one is whole"


def size_text(count: float) -> str:
    """Bytes in MB or GB, for people."""
    return f"{count / GB:.1f} GB" if count >= GB else f"{count / MB:.0f} MB"
