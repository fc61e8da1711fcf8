"""What to build: presets, and the key that tells, without importing torch, whether anything that matters changed."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import nerve_export
import nerve_ref
from nerve_ref.params import SIZE_MULTIPLE_PX, TINY, NerveParams
from nerve_runtime import spec
from nerve_runtime.errors import UsageError

Opset = Literal[20, 23]
TOOLS = ("torch", "transformers", "diffusers", "onnx", "onnxscript", "numpy")
SHARED_RUNTIME_SOURCES = ("spec.py", "manifest.py")
MOST_CLASSES = 254
CLIP_PATCH_PX = 16


@dataclass(frozen=True, slots=True)
class Preset:
    """A named build.

    Attributes:
        params: constants of the method.
        weights: folder of the networks.
        licence: under which they may be used.
        parity_classes: class names that parity frames are segmented with.
        about: one line for `--help`.
    """

    params: NerveParams
    weights: Path
    licence: str
    parity_classes: str
    about: str


def presets() -> dict[str, Preset]:
    """All presets by name."""
    return {
        "tiny": Preset(
            params=TINY,
            weights=_package_folder(nerve_ref) / "models" / "tiny",
            licence="Apache-2.0",
            parity_classes="grass; water; road; ladybug, strawberry; zebra; orange; sapphire",
            about="128 px, our own tiny models of a synthetic world; builds in a minute",
        )
    }


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """One build, decided.

    Attributes:
        preset: name of the preset.
        params: its constants, with the size and steps asked for.
        opset: ONNX opset of all graphs.
        max_classes: most classes that a vocabulary may have, 2 to 254.
        out: folder of the bundle.
    """

    preset: str
    params: NerveParams
    opset: Opset
    max_classes: int
    out: Path
    precision: Literal["fp32"] = "fp32"


def make_plan(
    preset: str,
    *,
    opset: int,
    size_hw: tuple[int, int] | None,
    steps: int | None,
    max_classes: int,
    out: Path | None,
) -> BuildPlan:
    """Turn flags into a plan.

    Raises:
        UsageError: a flag is out of its range.
    """
    known = presets()
    if preset not in known:
        raise UsageError(f"--preset is {preset!r}, expected one of: {', '.join(known)}")
    if opset not in (20, 23):
        raise UsageError(f"--opset is {opset}, expected 23 (default) or 20 (TensorRT 10.3, JetPack 6)")
    if not 2 <= max_classes <= MOST_CLASSES:
        raise UsageError(
            f"--max-classes is {max_classes}, expected 2 to {MOST_CLASSES}: labels are 8 bit, 255 is 'ignore'"
        )
    params = known[preset].params
    if size_hw is not None:
        if any(side % SIZE_MULTIPLE_PX or side <= 0 for side in size_hw):
            raise UsageError(f"--size is {size_hw[0]} {size_hw[1]}, expected multiples of {SIZE_MULTIPLE_PX} pixels")
        params = _resized(params, size_hw)
    if steps is not None:
        if not 1 <= steps <= 100:
            raise UsageError(f"--steps is {steps}, expected 1 to 100; the gain flattens at about 20")
        params = replace(params, steps=steps)
    return BuildPlan(preset, params, 20 if opset == 20 else 23, max_classes, out or Path("bundles") / preset)


def _resized(params: NerveParams, size_hw: tuple[int, int]) -> NerveParams:
    """The preset at another working size: CLIP's input and the pooled cells grow with it, cells keep their size."""
    height, width = (new / old for new, old in zip(size_hw, params.size_hw, strict=True))
    clip_hw = (_to_patches(params.clip_size_hw[0] * height), _to_patches(params.clip_size_hw[1] * width))
    pooled_hw = (round(params.pooled_hw[0] * height), round(params.pooled_hw[1] * width))
    return replace(params, size_hw=size_hw, clip_size_hw=clip_hw, pooled_hw=pooled_hw)


def _to_patches(pixels: float) -> int:
    return max(1, round(pixels / CLIP_PATCH_PX)) * CLIP_PATCH_PX


def plan_key(plan: BuildPlan) -> str:
    """SHA-256 over all that decides the bundle's bytes: constants, weights, our sources, tool versions."""
    facts = {
        "preset": plan.preset,
        "params": asdict(plan.params),
        "opset": plan.opset,
        "precision": plan.precision,
        "max_classes": plan.max_classes,
        "weights": _digests(presets()[plan.preset].weights, ("*/*.safetensors", "*/*.json")),
        "nerve_ref": _digests(_package_folder(nerve_ref), ("*.py",)),
        "nerve_export": _digests(_package_folder(nerve_export), ("*.py",)),
        "nerve_runtime": _digests(_package_folder(spec), SHARED_RUNTIME_SOURCES),
        "tools": tool_versions(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def tool_versions() -> dict[str, str]:
    """Installed versions of the tools that shape a graph; "absent" where one is missing."""
    return {name: _version(name) for name in TOOLS}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _digests(folder: Path, patterns: Iterable[str]) -> dict[str, str]:
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _package_folder(package: object) -> Path:
    """Folder of a package, or of the package that a module is in."""
    return Path(str(getattr(package, "__file__", ""))).parent
