"""What to build, and the key that changes with anything that shapes a bundle; without torch."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import nerve_export
import nerve_ref
from nerve_export.graphs.sizes import sizes_of
from nerve_export.precision import PRECISIONS, Precision, read_precision_plan
from nerve_export.presets.files import Preset, find_preset
from nerve_export.weights.hub import DownloadProgress, resolved_weights
from nerve_ref.params import SIZE_MULTIPLE_PX, NerveParams
from nerve_ref.weights.architectures import Backbones, clip_patch_px, is_dino
from nerve_ref.weights.errors import WeightError
from nerve_ref.weights.files import (
    HubNetwork,
    ResolvedWeights,
    WeightChoice,
    hub_networks,
    weight_digests,
)
from nerve_runtime.bundle import spec
from nerve_runtime.errors import BundleError, UsageError
from nerve_runtime.labels import CLASSES_LIMIT, CLASSES_LIMIT_8_BIT

Opset = Literal[20, 23]
TOOLS = ("torch", "transformers", "diffusers", "onnx", "onnx-ir", "onnxscript", "numpy", "tokenizers")
SHAPING_EXPORT_SOURCES = ("*.py", "engines/*.py", "graphs/*.py", "parity/*.py", "presets/*.py")
"""Sources that shape a bundle; commands and the doctor do not, and of preset files what they say is in the key."""
SHARED_RUNTIME_SOURCES = ("spec.py", "manifest.py")


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """One build, with all choices made.

    Attributes:
        preset: what the plan is made of.
        params: its constants, with the size and steps asked for.
        backbones: its networks.
        opset: ONNX opset of all graphs.
        max_classes: most classes that a vocabulary may have, 2 to 65534; beyond 254 labels are of 16 bit.
        out: folder of the bundle.
        max_batch: most frames in a run of the graphs `scores`, `attention` and `frame`, 1 to 32.
        precision: of the networks; the method is float32 in all of them.
        precision_plan: a file that says which layers stay float32, instead of the audit's own choice.
        audit_frames: folder of pictures that activations are looked at on, for fp16; None for seeded ones.
        weights: where the weights come from, for presets that do not carry them.
        random_seed: build the true architecture with random weights; None for real ones.
    """

    preset: Preset
    params: NerveParams
    backbones: Backbones
    opset: Opset
    max_classes: int
    out: Path
    precision: Precision = "fp32"
    precision_plan: Path | None = None
    audit_frames: Path | None = None
    weights: WeightChoice = field(default_factory=WeightChoice)
    random_seed: int | None = None
    max_batch: int = 1


def make_plan(
    preset: str | Preset,
    *,
    opset: int = 23,
    size_hw: tuple[int, int] | None = None,
    steps: int | None = None,
    max_classes: int = CLASSES_LIMIT_8_BIT,
    max_batch: int = 1,
    out: Path | None = None,
    precision: str = "fp32",
    precision_plan: Path | None = None,
    audit_frames: Path | None = None,
    weights: WeightChoice | None = None,
    random_seed: int | None = None,
    downloads: bool = True,
) -> BuildPlan:
    """Turn flags into a plan.

    Args:
        preset: name of a shipped preset, a file that ends in .toml, or a preset that was read already.
        opset: ONNX opset, 20 or 23.
        size_hw: working height and width in pixels; the preset's by default.
        steps: of the cold walk; the preset's by default.
        max_classes: most classes of a vocabulary; beyond 254 labels are of 16 bit.
        max_batch: most frames in a run of the graphs that share one; 1 gives graphs without that axis.
        out: folder of the bundle; below bundles/ by default.
        precision: of the networks.
        precision_plan: which layers stay float32.
        audit_frames: pictures for the audit before fp16.
        weights: where the weights come from, before what the preset says.
        random_seed: of random weights; None for real ones.
        downloads: whether the hub may be asked for a configuration that the preset's file only points to.

    Raises:
        UsageError: a flag or a field of the preset is out of its range, or two of them contradict each other.
        BundleError: the configuration of a network on the hub cannot be had.
    """
    choice = weights or WeightChoice()
    chosen = preset if isinstance(preset, Preset) else find_preset(preset, offline=choice.offline or not downloads)
    _check_bundle_flags(opset, max_classes, max_batch)
    _check_precision_flags(precision, precision_plan, audit_frames)
    _check_weight_flags(chosen, choice, random_seed)
    params = _adjusted(chosen, size_hw, steps)
    sizes_of(chosen.backbones, params)
    known_opset: Opset = 20 if opset == 20 else 23
    return BuildPlan(
        chosen,
        params,
        chosen.backbones,
        known_opset,
        max_classes,
        _folder(chosen, out, precision, random_seed),
        PRECISIONS[PRECISIONS.index(precision)],
        precision_plan,
        audit_frames,
        choice if random_seed is not None else _with_paths(choice, chosen),
        random_seed,
        max_batch,
    )


def _folder(preset: Preset, out: Path | None, precision: str, random_seed: int | None) -> Path:
    name = preset.name if precision == "fp32" else f"{preset.name}-{precision}"
    folder = out or Path("bundles") / (name if random_seed is None else f"{name}-random")
    return folder.resolve() if folder.is_symlink() else folder  # the link stays; what it leads to is replaced


def _with_paths(choice: WeightChoice, preset: Preset) -> WeightChoice:
    """The flags' choice, and where it names no place the preset's own local weights."""
    flags = {"clip": "clip", "affinity": "dinov2" if is_dino(preset.backbones) else "sd", "vae": "vae"}
    own: dict[str, Any] = {flags[part]: path for part, path in preset.paths.items()}
    return replace(choice, **{flag: path for flag, path in own.items() if getattr(choice, flag) is None})


def _check_bundle_flags(opset: int, max_classes: int, max_batch: int) -> None:
    if opset not in (20, 23):
        raise UsageError(f"--opset is {opset}, expected 23 (default) or 20 (TensorRT 10.3, JetPack 6)")
    if not 2 <= max_classes <= CLASSES_LIMIT:
        raise UsageError(
            f"--max-classes is {max_classes}, expected 2 to {CLASSES_LIMIT}: labels are 16 bit at most, 65535 is 'ignore'"
        )
    if not 1 <= max_batch <= spec.BATCH_LIMIT:
        raise UsageError(
            f"--max-batch is {max_batch}, expected 1 (a frame at a time, the default) to {spec.BATCH_LIMIT}"
        )


def _check_precision_flags(precision: str, precision_plan: Path | None, audit_frames: Path | None) -> None:
    """Refuse what is no precision, and files that would be ignored or cannot be used, before anything slow begins."""
    if precision not in PRECISIONS:
        raise UsageError(f"--precision is {precision!r}, expected one of: {', '.join(PRECISIONS)}")
    if precision_plan is not None:
        if precision == "fp32":
            raise UsageError("--precision-plan has no meaning with fp32; add --precision fp16")
        read_precision_plan(precision_plan, PRECISIONS[PRECISIONS.index(precision)])
    if audit_frames is not None:
        if precision != "fp16":
            raise UsageError(f"--audit-frames has no meaning with {precision}; add --precision fp16")
        if not audit_frames.is_dir() or not any(path.is_file() for path in audit_frames.iterdir()):
            raise UsageError(
                f"--audit-frames {audit_frames} is no folder with files; give a folder of PNG or JPEG files"
            )


def _check_weight_flags(preset: Preset, choice: WeightChoice, random_seed: int | None) -> None:
    name = preset.name
    named = [flag for flag in ("clip", "sd", "vae", "dinov2") if getattr(choice, flag) is not None]
    if preset.is_packaged and named:
        raise UsageError(f"preset {name!r} carries its own weights; leave out --{named[0]}")
    if named and random_seed is not None:
        raise UsageError(f"--random-weights and --{named[0]} contradict each other; leave one out")
    if choice.tokenizer is not None and preset.is_packaged:
        raise UsageError(f"preset {name!r} carries its own tokenizer; leave out --tokenizer")


def _adjusted(preset: Preset, size_hw: tuple[int, int] | None, steps: int | None) -> NerveParams:
    params = preset.params
    if size_hw is not None:
        if any(side % SIZE_MULTIPLE_PX or side <= 0 for side in size_hw):
            raise UsageError(f"--size is {size_hw[0]} {size_hw[1]}, expected multiples of {SIZE_MULTIPLE_PX} pixels")
        params = _resized(params, size_hw, clip_patch_px(preset.backbones.clip))
    if steps is not None:
        if not 1 <= steps <= 100:
            raise UsageError(f"--steps is {steps}, expected 1 to 100; the gain flattens at about 20")
        params = replace(params, steps=steps)
    return params


def _resized(params: NerveParams, size_hw: tuple[int, int], patch_px: int) -> NerveParams:
    """The preset at another working size: CLIP's input and the pooled cells grow with it, cells keep their size."""
    height, width = (new / old for new, old in zip(size_hw, params.size_hw, strict=True))
    clip_hw = (
        _to_patches(params.clip_size_hw[0] * height, patch_px),
        _to_patches(params.clip_size_hw[1] * width, patch_px),
    )
    pooled_hw = (round(params.pooled_hw[0] * height), round(params.pooled_hw[1] * width))
    return replace(params, size_hw=size_hw, clip_size_hw=clip_hw, pooled_hw=pooled_hw)


def _to_patches(pixels: float, patch_px: int) -> int:
    return max(1, round(pixels / patch_px)) * patch_px


def plan_weights(
    plan: BuildPlan, progress: Callable[[str], None], downloads: DownloadProgress | None = None
) -> ResolvedWeights | None:
    """Find, fetch where needed and check the weights of a plan; None for random ones.

    Args:
        plan: the build.
        progress: gets one line at a time.
        downloads: hears of the bytes of what is fetched.

    Raises:
        BundleError: a file is missing, withdrawn, cut off, swapped or refused.
        ResourceError: there is no space for what would be fetched, or it cannot be written.
    """
    if plan.random_seed is not None:
        return None
    return resolved_weights(plan.backbones, plan.weights, progress, downloads)


def networks_on_the_hub(backbones: Backbones, choice: WeightChoice) -> tuple[HubNetwork, ...]:
    """The networks that a build would take from the hub or from earlier downloads; looks at names only.

    Raises:
        BundleError: a lock is not sound, or a file that was given is none of weights.
    """
    try:
        return hub_networks(backbones, choice)
    except WeightError as error:
        raise BundleError(str(error)) from error


def plan_key(plan: BuildPlan, resolved: ResolvedWeights | None) -> str:
    """SHA-256 over all that decides the bundle's bytes: constants, weights, our sources, tool versions.

    Args:
        plan: the build.
        resolved: its weights, as found by `plan_weights`.

    Raises:
        UsageError: the precision plan or the tokenizer cannot be read.
        BundleError: a weight file is gone since it was found.
    """
    facts = {
        "preset": plan.preset.name,
        "parity_classes": plan.preset.parity_classes,
        "params": asdict(plan.params),
        "backbones": asdict(plan.backbones),
        "opset": plan.opset,
        "precision": plan.precision,
        "precision_plan": _file_digest(plan.precision_plan, "--precision-plan"),
        "audit_frames": {} if plan.audit_frames is None else _digests(plan.audit_frames, ("*",)),
        "max_classes": plan.max_classes,
        "max_batch": plan.max_batch,
        "weights": _weight_facts(plan, resolved),
        "nerve_ref": _digests(_package_folder(nerve_ref), ("**/*.py", "weights/*.json")),
        "nerve_export": _digests(_package_folder(nerve_export), SHAPING_EXPORT_SOURCES),
        "nerve_runtime": _digests(_package_folder(spec), SHARED_RUNTIME_SOURCES),
        "tools": tool_versions(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _weight_facts(plan: BuildPlan, resolved: ResolvedWeights | None) -> dict[str, str]:
    if resolved is None:
        return {"random_seed": str(plan.random_seed), "tokenizer": _file_digest(plan.weights.tokenizer, "--tokenizer")}
    try:
        return weight_digests(resolved)
    except WeightError as error:
        raise BundleError(str(error)) from error


def _file_digest(path: Path | None, flag: str) -> str:
    if path is None:
        return ""
    try:
        return hashlib.sha256((path / "tokenizer.json" if path.is_dir() else path).read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"{flag} {path} cannot be read: {error.strerror or error}; check the path") from error


def tool_versions() -> dict[str, str]:
    """Installed versions of the tools that shape a graph; "absent" where one is missing."""
    return {name: _version(name) for name in TOOLS}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _digests(folder: Path, patterns: Iterable[str]) -> dict[str, str]:
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _package_folder(package: object) -> Path:
    """Folder of a package, or of the package that a module is in."""
    return Path(str(getattr(package, "__file__", ""))).parent
