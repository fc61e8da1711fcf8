"""What of nerve-deploy lies on this machine: bundles, weights, extras; looked for by names and sizes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nerve_export.cli.extras import is_installed
from nerve_export.doctor.rules import EXPORT_PACKAGES
from nerve_export.plan import BuildPlan, make_plan, networks_on_the_hub, plan_key, plan_weights
from nerve_export.presets.files import bundle_preset, presets
from nerve_ref.weights.files import HubNetwork, WeightChoice
from nerve_runtime.bundle.hub import UNFINISHED
from nerve_runtime.bundle.manifest import MANIFEST_NAME, Manifest, load_manifest, verify_bundle
from nerve_runtime.errors import BundleError, NerveError

BUNDLES = Path("bundles")
EXTRAS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "stream": ("nerve-segment and nerve-vocab", ("av", "prometheus-client", "psutil", "rich", "typer")),
    "ort": ("graphs on the processor", ("onnxruntime",)),
    "ort-gpu": ("graphs on an NVIDIA GPU, in place of ort", ("onnxruntime-gpu",)),
    "export": (
        "nerve-build",
        (*EXPORT_PACKAGES, "huggingface_hub", "jinja2", "rich", "typer"),
    ),
    "parity": ("nerve-build parity", ("polygraphy",)),
    "bench": ("nerve-bench, with the extras export and stream", ("matplotlib", "pillow")),
    "openvino": ("OpenVINO in nerve-bench", ("openvino",)),
    "rtx": ("engines of TensorRT-RTX", ("cuda-bindings", "tensorrt-rtx")),
    "trt": ("engines of TensorRT", ("cuda-bindings", "tensorrt")),
    "web": ("nerve-segment --web, the live page", ("starlette", "uvicorn", "websockets")),
    "ray": ("nerve-segment --ray", ("fsspec", "ray")),
    "triton": ("the client of a Triton server", ("tritonclient",)),
    "native": ("make native, the C library", ("cmake",)),
}
"""What each extra is for, and its packages; cuda-bindings are the part of cuda-python that is used."""


@dataclass(frozen=True, slots=True)
class BundleState:
    """A bundle that was found: its folder, whether it is whole, and what is known about it."""

    path: str
    is_whole: bool
    says: str


@dataclass(frozen=True, slots=True)
class ExtraState:
    """An extra: its name, what it is for, and which of its packages are missing."""

    name: str
    is_for: str
    missing: tuple[str, ...]


def found_bundles(folder: Path = BUNDLES, *, verify: bool = False) -> Iterator[BundleState]:
    """The bundles in a folder; files are looked at by size, and hashed if asked."""
    for manifest in sorted(folder.glob(f"*/{MANIFEST_NAME}")):
        if manifest.parent.suffix != UNFINISHED:
            yield _bundle_state(manifest.parent, verify=verify)


def found_weights() -> tuple[HubNetwork, ...]:
    """The networks of all presets, and what of them was downloaded before."""
    choice = WeightChoice()
    networks = (network for preset in presets().values() for network in networks_on_the_hub(preset.backbones, choice))
    by_name: dict[str, HubNetwork] = {}
    for network in networks:  # presets need different parts of one repository; the largest part is told
        known = by_name.get(network.name)
        by_name[network.name] = network if known is None or network.total_bytes > known.total_bytes else known
    return tuple(by_name.values())


def found_extras() -> tuple[ExtraState, ...]:
    """Every extra with the packages that it lacks."""
    return tuple(
        ExtraState(name, is_for, tuple(package for package in packages if not _is_installed(package)))
        for name, (is_for, packages) in EXTRAS.items()
    )


def _is_installed(project: str) -> bool:
    try:
        version(project)
    except PackageNotFoundError:
        return False
    return True


def _bundle_state(path: Path, *, verify: bool) -> BundleState:
    try:
        manifest = load_manifest(path)
        if verify:
            verify_bundle(path, manifest)
    except NerveError as error:
        return BundleState(str(path), False, str(error))
    damaged = [name for name, record in manifest.files.items() if not _has_size(path / name, record.bytes)]
    if damaged:
        return BundleState(str(path), False, f"{damaged[0]} is missing or of another size; build it again")
    whole = "whole, every hash is right" if verify else "whole"
    engines = f", engines for {', '.join(sorted({engine.target for engine in manifest.engines}))}"
    facts = f"preset {manifest.preset}, {manifest.precision}{engines if manifest.engines else ''}"
    return BundleState(str(path), True, f"{whole}, {_age(path, manifest)}; {facts}")


def _has_size(path: Path, expected: int) -> bool:
    return path.is_file() and path.stat().st_size == expected


def _age(path: Path, manifest: Manifest) -> str:
    """Whether a build with the bundle's own settings would make another one."""
    if not is_installed("safetensors"):
        return "up to date or not: that cannot be said without safetensors, of the extra export"
    try:
        plan = _plan_of(path, manifest)
        key = plan_key(plan, plan_weights(plan, lambda _line: None))
    except BundleError:
        return "up to date or not: its weights are not here"
    except NerveError as error:
        return f"out of date: {error}"
    return "up to date" if key == manifest.plan_key else "made by other sources, libraries or files; build it again"


def _plan_of(path: Path, manifest: Manifest) -> BuildPlan:
    preset = bundle_preset(path, manifest.preset)
    size_hw = manifest.geometry.working_hw
    return make_plan(
        preset,
        opset=manifest.opset,
        size_hw=None if preset.params.size_hw == size_hw else size_hw,
        steps=manifest.method.baked.steps,
        max_classes=manifest.geometry.max_classes,
        out=path,
        precision=manifest.precision,
        weights=WeightChoice(offline=True),
        random_seed=manifest.random_seed,
    )
