"""The settings of `nerve-build triton`, and what follows from them and the manifest for each model's config.pbtxt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nerve_runtime.bundle.manifest import EngineRecord, Manifest
from nerve_runtime.bundle.spec import BATCH_AXIS, StageName, StageSpec, TensorSpec
from nerve_runtime.errors import CompatibilityError, UsageError

Kind = Literal["cpu", "gpu"]
INSTANCE_KINDS: Mapping[Kind, str] = {"cpu": "KIND_CPU", "gpu": "KIND_GPU"}
DATA_TYPES = {
    "uint8": "TYPE_UINT8", "uint16": "TYPE_UINT16", "bool": "TYPE_BOOL", "int64": "TYPE_INT64", "float32": "TYPE_FP32",
}  # fmt: skip
WARM_UP_SIZES = {"n": 1, "r": 2, "c": 2, "k": 1}
"""What the axis letters are in the run of zeros; a stage with another letter, or whose input values are sizes, has none."""
LEAST = {
    "instances": 1, "queue_delay_us": 0, "max_queue": 1, "queue_timeout_ms": 1, "sequences": 1, "processes": 1,
}  # fmt: skip
MOST = 2**31 - 1
"""Counts are fields of 32 bit in config.pbtxt."""
MILLISECONDS = 1000
SECONDS = 1_000_000
TENSORRT = "tensorrt"


@dataclass(frozen=True, slots=True)
class Settings:
    """What `nerve-build triton` was asked for.

    Attributes:
        target: engines of the bundle to serve, such as "tensorrt-sm89"; None for its ONNX graphs.
        kind: where the graphs run.
        instances: of each graph.
        queue_delay_us: how long a request waits for others to share a run with, microseconds.
        max_queue: requests of `frame` that wait; more are refused.
        queue_timeout_ms: how long one waits before it is refused, milliseconds.
        sequences: cameras at once of `nerve`.
        processes: of `nerve`; the cameras are spread over them.
        idle_s: after so many seconds without a frame a sequence is forgotten.

    Raises:
        UsageError: a value is out of its range.
    """

    target: str | None = None
    kind: Kind = "cpu"
    instances: int = 1
    queue_delay_us: int = 1000
    max_queue: int = 256
    queue_timeout_ms: int = 200
    sequences: int = 8
    processes: int = 2
    idle_s: float = 60.0

    def __post_init__(self) -> None:
        if self.kind not in INSTANCE_KINDS:
            raise UsageError(f"kind is {self.kind!r}, expected one of {', '.join(INSTANCE_KINDS)}")
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise UsageError(f"{name.replace('_', '-')} is {getattr(self, name)}, expected {least} or more")
            # The config has twice the sequences as its batch size.
            most = MOST // 2 if name == "sequences" else MOST
            if getattr(self, name) > most:
                raise UsageError(f"{name.replace('_', '-')} is {getattr(self, name)}, expected at most {most}")
        if not 1 <= self.idle_s < 1e6:
            raise UsageError(f"idle-s is {self.idle_s}, expected 1 to a million seconds")
        if self.target is not None and self.kind == "cpu":
            raise UsageError("engines run on a GPU only; give --kind gpu with --target")


def engines_of(manifest: Manifest, target: str) -> dict[StageName, EngineRecord]:
    """The TensorRT engine of each stage for a target.

    Raises:
        CompatibilityError: the bundle has none, or not of every stage, or they are of another library than Triton's.
    """
    engines = {record.stage: record for record in manifest.engines if record.target == target}
    if not engines:
        targets = ", ".join(sorted({record.target for record in manifest.engines})) or "none"
        raise CompatibilityError(
            f"the bundle has no engines for target {target!r}, it has {targets}; compile them on the machine that will "
            "serve with: nerve-build engines BUNDLE --target tensorrt"
        )
    if other := [
        record.backend_version for record in engines.values() if not record.backend_version.startswith(f"{TENSORRT} ")
    ]:
        raise CompatibilityError(
            f"the engines for {target!r} are of {other[0]}, Triton runs those of TensorRT only; compile them with: "
            "nerve-build engines BUNDLE --target tensorrt"
        )
    if missing := [stage for stage in manifest.stages if stage not in engines]:
        raise CompatibilityError(
            f"the bundle has no engine of {', '.join(missing)} for {target!r}; compile all with: nerve-build engines "
            "BUNDLE --target tensorrt"
        )
    return engines


def batch_of(spec: StageSpec, manifest: Manifest) -> int:
    """Triton's max_batch_size of a stage: the bundle's where every tensor has a leading batch axis, else 0."""
    if all(tensor.axes[:1] == (BATCH_AXIS,) for tensor in (*spec.inputs, *spec.outputs)):
        return manifest.geometry.max_batch
    return 0


def graph_config(
    stage: StageName, manifest: Manifest, settings: Settings, engine: EngineRecord | None = None
) -> dict[str, Any]:
    """What the template of a graph's config.pbtxt is filled with.

    Args:
        stage: which graph; `frame` is meant for clients and gets a queue policy, the others are asked by `nerve` only.
        manifest: of the bundle.
        settings: as asked for.
        engine: to serve in place of the ONNX graph.
    """
    spec = manifest.stages[stage].spec
    batch = batch_of(spec, manifest)
    for_clients = stage == "frame"
    warm_up = _warm_up(spec, batch > 0, engine)
    return {
        "about": _about(stage, manifest, engine),
        "name": stage,
        "platform": "onnxruntime_onnx" if engine is None else "tensorrt_plan",
        "filename": "model.onnx" if engine is None else "model.plan",
        "max_batch_size": batch,
        "batch_hint": " A bundle built with nerve-build --max-batch N has one." if for_clients else "",
        "inputs": [_tensor(tensor, batch > 0) for tensor in spec.inputs],
        "outputs": [_tensor(tensor, batch > 0) for tensor in spec.outputs],
        "instances": settings.instances,
        "instance_kind": INSTANCE_KINDS[settings.kind],
        "scheduler": batch > 0 or for_clients,
        "preferred": _preferred_sizes(batch),
        "queue_delay_us": settings.queue_delay_us,
        "max_queue": settings.max_queue if for_clients else 0,
        "queue_timeout_us": settings.queue_timeout_ms * MILLISECONDS,
        "warm_up": warm_up,
        "warm_up_sizes": sorted({1, max(batch, 1)}),
    }


def nerve_config(manifest: Manifest, settings: Settings, engines: Mapping[StageName, EngineRecord]) -> dict[str, Any]:
    """What the template of the model `nerve` is filled with."""
    labels = next(tensor for tensor in manifest.stages["readout"].spec.outputs if tensor.name == "labels")
    return {
        "sequences": -(-settings.sequences // settings.processes),
        "processes": settings.processes,
        "labels_type": DATA_TYPES[labels.dtype],
        "ignore_label": 2 ** (8 if labels.dtype == "uint8" else 16) - 1,
        "queue_delay_us": settings.queue_delay_us,
        "idle_us": int(settings.idle_s * SECONDS),
        # With a batch axis host memory is where it is taken off, as nothing reshapes on the GPU.
        "on_gpu": settings.kind == "gpu" and manifest.geometry.max_batch == 1,
        "class_slots": _profile_limit(engines, "scores", "class_mask"),
        "readout_limit_px": _profile_limit(engines, "readout", "size_hw"),
    }


def _profile_limit(engines: Mapping[StageName, EngineRecord], stage: StageName, tensor: str) -> int:
    """The greatest size that an engine takes of a tensor, as `TrtBackend` reads it; 0 without engines."""
    return min(engines[stage].profile[tensor][2]) if stage in engines else 0


def _about(stage: StageName, manifest: Manifest, engine: EngineRecord | None) -> str:
    what = (
        f"A frame of {manifest.geometry.working_hw[1]} x {manifest.geometry.working_hw[0]} px to labels, in one graph"
        if stage == "frame"
        else f"Stage {stage}, which the model nerve asks"
    )
    if engine is None:
        return f"{what}; preset {manifest.preset}, {manifest.precision}."
    return f"{what}; an engine of {engine.backend_version} for {engine.gpu}, {engine.os_arch}: the server's must be the same."


def _tensor(tensor: TensorSpec, batched: bool) -> dict[str, Any]:
    axes = tensor.axes[1:] if batched else tensor.axes
    letters = ", ".join(str(axis) for axis in axes) if any(isinstance(axis, str) for axis in axes) else ""
    return {
        "name": tensor.name,
        "data_type": DATA_TYPES[tensor.dtype],
        "dims": [-1 if isinstance(axis, str) else axis for axis in axes] or [1],
        # Without a batch axis Triton refuses an empty shape, and its ONNX Runtime back end makes a scalar of [1] itself.
        "is_reshaped": batched and not axes,
        "comment": letters,
    }


def _preferred_sizes(batch: int) -> list[int]:
    """Halves down to 2: a batch of one of these sizes starts at once, others wait for more."""
    sizes = []
    while batch >= 2:
        sizes.append(batch)
        batch //= 2
    return sizes[::-1]


def _warm_up(spec: StageSpec, batched: bool, engine: EngineRecord | None) -> Sequence[dict[str, Any]]:
    """The inputs of a run of zeros; none where zeros make no sense, as for the size that labels are read out at."""
    tensors = []
    for tensor in spec.inputs:
        axes = tensor.axes[1:] if batched else tensor.axes
        if tensor.name == "size_hw" or any(isinstance(axis, str) and axis not in WARM_UP_SIZES for axis in axes):
            return []
        usual = engine.profile.get(tensor.name, [[], [], []])[1] if engine is not None else []
        sizes = usual[1:] if batched else usual
        dims = [WARM_UP_SIZES[axis] if isinstance(axis, str) else axis for axis in axes]
        tensors.append({"name": tensor.name, "data_type": DATA_TYPES[tensor.dtype], "dims": list(sizes) or dims or [1]})
    return tensors
