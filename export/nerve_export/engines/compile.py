"""ONNX to engines of the TensorRT family: one adapter for TensorRT 10, TensorRT 11 and TensorRT-RTX.

TensorRT-RTX compiles for a named compute capability without any GPU; TensorRT compiles for the GPU that is here. Either
way the engine runs on that kind of GPU alone. Nothing here needs torch or onnx.
"""

import ctypes
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nerve_runtime.backends.tensorrt.library import (
    BACKENDS,
    RTX_CAPABILITIES,
    SHAPE_INPUT,
    Library,
    LibraryName,
    error_logger,
    import_library,
)
from nerve_runtime.bundle.spec import BATCH_AXIS, StageSpec
from nerve_runtime.errors import CompatibilityError, ResourceError, UsageError

CLASS_SLOTS = 32
"""Engines fix the class axis to this many slots; unused ones are masked."""
PROFILE: dict[str, tuple[int, int, int]] = {
    "c": (CLASS_SLOTS,) * 3,
    "r": (1, CLASS_SLOTS, 256),
    "k": (1, 2, 8),
    "n": (1, CLASS_SLOTS, 256),
    "H": (1, 720, 1920),
    "W": (1, 1280, 1920),
}
"""Least, usual and greatest size of each free axis, but for that of several frames, which a bundle chooses.

The read-out holds float32 scores of all class slots at frame size twice, and the builder plans for the greatest: 32
slots of 1920 x 1920 are 944 MB, which fit `WORKSPACE_BYTES`; with 2160 x 2160 TensorRT-RTX 1.7 gives no engine.
"""
WORKSPACE_BYTES = 1 << 30
WORKSPACE_BYTES_PER_PIXEL = 1 << 14
"""Of the working frame, for stages that look at it: 4 GiB at 512 x 512, which the networks' attention needs."""
COMPILER_BYTES = 600_000_000
COMPILER_BYTES_PER_BYTE = 3.0
"""Measured with TensorRT-RTX 1.7 on the SD 2.1 UNet: 5.7 GB for 1.7 GB of fp16 weights, 10.8 GB for 3.4 GB of fp32."""
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*, CUDA driver API

BuilderOptions = dict[str, str | int | float | bool]
ProgressCallback = Callable[[str, float], None]
"""Called with what is being done and the share of the whole that is done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A compiled graph: its bytes and what it is bound to; `timing_cache` is for the next build, where there is one."""

    plan: bytes
    target: str
    backend_version: str
    profile: dict[str, list[list[int]]]
    builder_options: BuilderOptions
    timing_cache: bytes | None = None


def library_of(target: str) -> LibraryName:
    """The library that compiles a target such as "rtx-sm89" or "tensorrt-sm87"."""
    names: dict[str, LibraryName] = {backend: name for name, backend in BACKENDS.items()}
    return names[target.partition("-")[0]]


def gpu_of(target: str) -> str:
    """The compute capability of a target such as "rtx-sm89"."""
    return target.partition("-")[2]


def resolve_targets(target: str) -> tuple[tuple[str, ...], str]:
    """Which engines to build for `--target`, and one sentence why.

    Args:
        target: "ort" for graphs only, "rtx:sm86,sm89" for TensorRT-RTX engines, "tensorrt" for TensorRT engines for the
            GPU that is here, "auto" to look at this machine.

    Raises:
        UsageError: the target is unknown.
        CompatibilityError: TensorRT or a GPU is missing, or TensorRT-RTX does not know the GPU.
    """
    if target == "ort":
        return (), "graphs for ONNX Runtime only, as asked"
    if target == "auto":
        return _automatic_targets()
    if target == "tensorrt":
        return _tensorrt_target()
    library, _, capabilities = target.partition(":")
    names = tuple(dict.fromkeys(name.strip() for name in capabilities.split(",") if name.strip()))
    known_to_others = [name for name in names if name in ("sm87", "sm90", "sm100", "sm103", "sm110")]
    if library == "rtx" and known_to_others:
        raise CompatibilityError(
            f"TensorRT-RTX has no target for {', '.join(known_to_others)}, only {', '.join(RTX_CAPABILITIES)}; on a "
            "machine with that GPU use TensorRT: nerve-build engines BUNDLE --target tensorrt"
        )
    if library != "rtx" or not names or not set(names) <= set(RTX_CAPABILITIES):
        raise UsageError(
            f"--target is {target!r}, expected auto, ort, tensorrt, or rtx: and compute capabilities out of "
            f"{', '.join(RTX_CAPABILITIES)}, for example rtx:sm86,sm89"
        )
    return tuple(f"rtx-{name}" for name in names), f"TensorRT-RTX engines for {', '.join(names)}, as asked"


def _automatic_targets() -> tuple[tuple[str, ...], str]:
    graphs_only = "graphs for ONNX Runtime only: "
    gpu = gpu_capability()
    if gpu is None:
        return (), graphs_only + "no NVIDIA GPU was found here"
    if gpu in RTX_CAPABILITIES and find_spec("tensorrt_rtx") is not None:
        return (f"rtx-{gpu}",), f"TensorRT-RTX engines for the GPU found here ({gpu})"
    if find_spec("tensorrt") is not None:
        return (f"tensorrt-{gpu}",), f"TensorRT engines for the GPU found here ({gpu})"
    if gpu in RTX_CAPABILITIES:
        return (), graphs_only + f"a GPU ({gpu}) is here, but no TensorRT-RTX; pip install 'nerve-deploy[rtx]'"
    return (), graphs_only + (
        f"TensorRT-RTX has no target for this GPU ({gpu}), and TensorRT is not installed; pip install 'nerve-deploy[trt]'"
    )


def _tensorrt_target() -> tuple[tuple[str, ...], str]:
    elsewhere = "or compile for a GPU that is not here with --target rtx:sm89 (or another)"
    gpu = gpu_capability()
    if gpu is None:
        raise CompatibilityError(
            "--target tensorrt compiles for the GPU of this machine, and no NVIDIA GPU was found here; run "
            f"nerve-build engines BUNDLE --target tensorrt on the device, {elsewhere}"
        )
    if find_spec("tensorrt") is None:
        raise CompatibilityError(
            f"--target tensorrt needs TensorRT 10 or 11, which is not installed; pip install 'nerve-deploy[trt]', {elsewhere}"
        )
    return (f"tensorrt-{gpu}",), f"TensorRT engines for the GPU found here ({gpu}), as asked"


def gpu_capability() -> str | None:
    """Compute capability of the first NVIDIA GPU, such as "sm89"; None where there is none. Asks the driver alone."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    calls: tuple[Callable[[], int], ...] = (
        lambda: driver.cuInit(0),
        lambda: driver.cuDeviceGet(ctypes.byref(device), 0),
        lambda: driver.cuDeviceGetAttribute(ctypes.byref(major), CAPABILITY_MAJOR, device),
        lambda: driver.cuDeviceGetAttribute(ctypes.byref(minor), CAPABILITY_MINOR, device),
    )
    if any(call() != 0 for call in calls):
        return None
    return f"sm{major.value}{minor.value}"


def workspace_bytes(spec: StageSpec, max_batch: int = 1) -> int:
    """How much scratch memory a stage's engine may plan for: more where it looks at frames, by their size and number."""
    frames = [tensor.axes for tensor in spec.inputs if tensor.name == "frame"]
    pixels = [
        (max_batch if items == BATCH_AXIS else 1) * height * width
        for items, height, width, _ in frames
        if isinstance(height, int) and isinstance(width, int)
    ]
    return max(WORKSPACE_BYTES, *(WORKSPACE_BYTES_PER_PIXEL * count for count in pixels), 0)


def memory_estimate(graph_bytes: int) -> int:
    """Bytes of memory that compiling a graph takes at its peak, external data included in `graph_bytes`."""
    return int(COMPILER_BYTES + COMPILER_BYTES_PER_BYTE * graph_bytes)


def available_memory() -> int | None:
    """Bytes of memory that new programs can have; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith("MemAvailable:")]
    return int(found[0][1]) * 1024 if found else None


def builder_options(spec: StageSpec, max_batch: int = 1) -> BuilderOptions:
    """All that decides an engine's bytes beside graph, profile, version and target."""
    return {"workspace_bytes": workspace_bytes(spec, max_batch), "strongly_typed": True, "attention_decomposable": True}


def profile_of(spec: StageSpec, max_batch: int = 1) -> dict[str, list[list[int]]]:
    """Least, usual and greatest sizes of every input with a free axis; for `size_hw` those of its values.

    The usual number of frames in a run is the greatest, `max_batch`: whoever asks for that axis wants to fill it.
    """
    sizes, ranges = {**PROFILE, BATCH_AXIS: (1, max_batch, max_batch)}, {}
    for tensor in spec.inputs:
        if tensor.name == SHAPE_INPUT:
            ranges[tensor.name] = [[sizes[axis][index] for axis in ("H", "W")] for index in range(3)]
        elif any(isinstance(axis, str) for axis in tensor.axes):
            ranges[tensor.name] = [
                [sizes[axis][index] if isinstance(axis, str) else axis for axis in tensor.axes] for index in range(3)
            ]
    return ranges


def engine_key(
    onnx_sha256: str,
    *,
    precision: str,
    profile: Mapping[str, list[list[int]]],
    options: BuilderOptions,
    backend_version: str,
    target: str,
) -> str:
    """SHA-256 over all that decides an engine's bytes; two builds with one key need not both be made.

    Args:
        onnx_sha256: of the graph with its external data, see `graph_sha256`.
        precision: of the bundle.
        profile: see `profile_of`.
        options: see `builder_options`.
        backend_version: of the library, for example "tensorrt-rtx 1.7.1.116".
        target: for example "rtx-sm89".
    """
    facts = [onnx_sha256, precision, dict(profile), options, backend_version, target]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def library(name: LibraryName) -> Library:
    """The compiling library, imported.

    Raises:
        CompatibilityError: it is missing or too old, with what to install.
    """
    return import_library(name)


def compile_engine(
    onnx_path: Path,
    spec: StageSpec,
    target: str,
    *,
    timing_cache: bytes | None = None,
    progress: ProgressCallback | None = None,
    options: BuilderOptions | None = None,
    max_batch: int = 1,
) -> Engine:
    """Compile one graph for one target; precision is the graph's own (strongly typed).

    Args:
        onnx_path: the graph; external data lie beside it.
        spec: its inputs and outputs; free axes get the sizes of `PROFILE`.
        target: as given by `resolve_targets`, for example "rtx-sm89".
        timing_cache: of an earlier build by the same version for the same GPU. TensorRT-RTX has none: it measures no
            kernels, and its functions for one do nothing since version 1.2.
        progress: called with the builder's phase and share.
        options: see `builder_options`, which is the default.
        max_batch: most frames in a run, of the bundle.

    Raises:
        CompatibilityError: the library is missing, or its parser refuses the graph, naming the node.
        ResourceError: the builder gave no engine; with its last errors.
    """
    opened = library(library_of(target))
    options = options or builder_options(spec, max_batch)
    trt = opened.module
    logger = error_logger(trt)
    builder = trt.Builder(logger)
    network = _parse(opened, builder, onnx_path, logger)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options["workspace_bytes"])
    if opened.compiles_for_absent_gpus:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, RTX_CAPABILITIES[gpu_of(target)]), 0)
    else:
        _set_timing_cache(config, timing_cache)
    monitor = _monitor(trt, progress) if progress else None
    if monitor is not None:
        config.progress_monitor = monitor
    profile = profile_of(spec, max_batch)
    _add_profile(builder, config, profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ResourceError(
            f"{opened.label} {opened.version} gave no engine for {onnx_path.name} with a workspace of "
            f"{int(options['workspace_bytes']) / 2**30:.1f} GiB: {logger.last_errors()}; where memory is named, build a smaller --size"
        )
    timings = None if opened.compiles_for_absent_gpus else config.get_timing_cache()
    kept = bytes(timings.serialize()) if timings is not None else None
    return Engine(bytes(plan), target, opened.backend_version, profile, options, kept)


def _parse(opened: Library, builder: Any, onnx_path: Path, logger: Any) -> Any:
    trt = opened.module
    # TensorRT 11 knows strongly typed networks only; TensorRT 10 and TensorRT-RTX 1.7 have a flag for them.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx_path)):
        problems = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors)) or logger.last_errors()
        raise CompatibilityError(
            f"{opened.label} {opened.version} cannot parse {onnx_path.name}: {problems}; where an operator is not known, "
            "build the bundle with --opset 20"
        )
    _let_attention_decompose(trt, network)
    return network


def _let_attention_decompose(trt: Any, network: Any) -> None:
    """Allow products and a softmax where the library has no attention kernel.

    Without it TensorRT-RTX 1.7 gives no engine for attention with a mask in heads of 16, as in the tiny text tower.
    TensorRT 10.3 has no attention layer at all.
    """
    attention = getattr(trt.LayerType, "ATTENTION_INPUT", None)
    for index in range(network.num_layers if attention is not None else 0):
        layer = network.get_layer(index)
        if layer.type == attention:
            layer.__class__ = trt.IAttentionInputLayer  # how the library's Python side casts to a layer's own type
            layer.attention.decomposable = True


def _set_timing_cache(config: Any, timing_cache: bytes | None) -> None:
    """Let the builder use and extend earlier timings; those of another version or GPU it refuses and starts anew."""
    if timing_cache:
        earlier = config.create_timing_cache(timing_cache)
        if earlier is not None and config.set_timing_cache(earlier, False):
            return
    empty = config.create_timing_cache(b"")
    if empty is not None:
        config.set_timing_cache(empty, False)


def _add_profile(builder: Any, config: Any, ranges: Mapping[str, list[list[int]]]) -> None:
    if not ranges:
        return
    profile = builder.create_optimization_profile()
    for name, sizes in ranges.items():
        add = profile.set_shape_input if name == SHAPE_INPUT else profile.set_shape
        add(name, *sizes)
    config.add_optimization_profile(profile)


def _monitor(trt: Any, progress: ProgressCallback) -> Any:
    """A progress monitor; phases nest, and the share done is that of the outermost one."""

    class Monitor(trt.IProgressMonitor):
        """Called by the library. An OSError of the callback ends the build, as no exception may pass through the library."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases: dict[str, tuple[str | None, int, int]] = {}  # name: parent, steps done, steps
            self.share = 0.0
            self.keep_building = True

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            """A phase begins."""
            self.phases[phase_name] = (parent_phase, 0, max(1, num_steps))
            self.report(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            """A step is done; False ends the build."""
            if phase_name in self.phases:
                parent, _, steps = self.phases[phase_name]
                self.phases[phase_name] = (parent, step + 1, steps)
                self.report(phase_name)
            return self.keep_building

        def phase_finish(self, phase_name: str) -> None:
            """A phase ends, which may come before its last step."""
            if phase_name in self.phases:
                parent, _, steps = self.phases[phase_name]
                self.phases[phase_name] = (parent, steps, steps)
                self.report(phase_name)
                del self.phases[phase_name]

        def report(self, phase_name: str) -> None:
            """Report the share done, never less than before."""
            share, name = 0.0, phase_name
            seen: set[str] = set()
            while name in self.phases and name not in seen:
                seen.add(name)
                parent, done, steps = self.phases[name]
                share = min(1.0, (done + share) / steps)
                if parent is None:
                    break
                name = parent
            self.share = max(self.share, share)
            try:
                progress(phase_name, self.share)
            except OSError:
                self.keep_building = False

    return Monitor()
