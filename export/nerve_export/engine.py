"""ONNX to engines of the TensorRT family; the only file that imports them.

TensorRT-RTX compiles for a named compute capability without any GPU; the engine then runs on that GPU alone.
"""

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nerve_runtime.errors import CompatibilityError, ResourceError, UsageError
from nerve_runtime.spec import StageSpec, TensorSpec

CLASS_SLOTS = 32
"""Engines fix the class axis to this many slots; unused ones are masked."""
PROFILE: dict[str, tuple[int, int, int]] = {
    "c": (CLASS_SLOTS,) * 3,
    "r": (1, CLASS_SLOTS, 256),
    "k": (1, 2, 8),
    "n": (1, CLASS_SLOTS, 256),
    "H": (16, 720, 1920),
    "W": (16, 1280, 1920),
}
"""Least, usual and greatest size of each free axis.

The read-out holds float32 scores of all class slots at frame size twice, and the builder plans for the greatest: 32
slots of 1920 x 1920 are 944 MB, which fit `WORKSPACE_BYTES`; with 2160 x 2160 TensorRT-RTX 1.7 gives no engine.
"""
RTX_CAPABILITIES = {"sm75": "SM75", "sm80": "SM80", "sm86": "SM86", "sm89": "SM89", "sm120": "SM120"}
RTX_LIBRARY = "tensorrt_rtx"
WORKSPACE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Engine:
    """A compiled graph: its bytes and what it is bound to."""

    plan: bytes
    target: str
    backend_version: str
    profile: dict[str, list[list[int]]]
    builder_options: dict[str, str | int | float | bool]


def resolve_targets(target: str) -> tuple[tuple[str, ...], str]:
    """Which engines to build for `--target`, and one sentence that says why.

    Args:
        target: "ort" for graphs only, "rtx:sm86,sm89" for TensorRT-RTX engines, "auto" to look at this machine.

    Raises:
        UsageError: the target is unknown.
    """
    if target == "ort":
        return (), "graphs for ONNX Runtime only, as asked"
    if target == "auto":
        return _automatic_targets()
    library, _, capabilities = target.partition(":")
    names = tuple(dict.fromkeys(name.strip() for name in capabilities.split(",") if name.strip()))
    unknown = [name for name in names if name not in RTX_CAPABILITIES]
    if library != "rtx" or not names or unknown:
        raise UsageError(
            f"--target is {target!r}, expected auto, ort, or rtx: and compute capabilities out of "
            f"{', '.join(RTX_CAPABILITIES)}, for example rtx:sm86,sm89"
        )
    return tuple(f"rtx-{name}" for name in names), f"TensorRT-RTX engines for {', '.join(names)}, as asked"


def _automatic_targets() -> tuple[tuple[str, ...], str]:
    capability = _gpu_capability()
    if capability is None:
        return (), "graphs for ONNX Runtime only: no NVIDIA GPU was found here"
    if find_spec(RTX_LIBRARY) is None:
        return (
            (),
            f"graphs for ONNX Runtime only: a GPU ({capability}) is here, but no TensorRT-RTX; "
            "pip install 'nerve-deploy[rtx]'",
        )
    if capability not in RTX_CAPABILITIES:
        return (), f"graphs for ONNX Runtime only: TensorRT-RTX has no target for this GPU ({capability})"
    return (f"rtx-{capability}",), f"TensorRT-RTX engines for the GPU found here ({capability})"


def _gpu_capability() -> str | None:
    """Compute capability of the first NVIDIA GPU, such as "sm89"; None where there is none."""
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return f"sm{major}{minor}"


def compile_engine(onnx_path: Path, spec: StageSpec, target: str) -> Engine:
    """Compile one graph for one target; precision is the graph's own (strongly typed).

    Args:
        onnx_path: the graph.
        spec: its doors; free axes get the sizes of `PROFILE`.
        target: as given by `resolve_targets`, for example "rtx-sm89".

    Raises:
        CompatibilityError: the library is missing, or its parser refuses the graph, naming the node.
        ResourceError: the builder gave no engine.
    """
    trt = _library()
    logger = _quiet_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx_path)):
        problems = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise CompatibilityError(f"TensorRT-RTX {trt.__version__} cannot parse {onnx_path.name}: {problems}")
    _let_attention_decompose(trt, network)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, RTX_CAPABILITIES[target.removeprefix("rtx-")]), 0)
    profile = _profile(builder, config, spec)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ResourceError(
            f"TensorRT-RTX gave no engine for {onnx_path.name}: {logger.last_error or 'no reason given'}"
        )
    options: dict[str, str | int | float | bool] = {"workspace_bytes": WORKSPACE_BYTES, "strongly_typed": True}
    return Engine(bytes(plan), target, f"tensorrt-rtx {trt.__version__}", profile, options)


def _let_attention_decompose(trt: Any, network: Any) -> None:
    """Allow products and a softmax where the library has no attention kernel.

    Without it TensorRT-RTX 1.7 gives no engine for attention with a mask in heads of 16, as in the tiny text tower.
    """
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            layer.__class__ = trt.IAttentionInputLayer  # how the library's Python side casts to a layer's own type
            layer.attention.decomposable = True


def _profile(builder: Any, config: Any, spec: StageSpec) -> dict[str, list[list[int]]]:
    """Add one optimisation profile for all inputs with a free axis, and say what it holds."""
    profile = builder.create_optimization_profile()
    ranges: dict[str, list[list[int]]] = {}
    for tensor in spec.inputs:
        if tensor.name == "size_hw":
            sizes = [[PROFILE[axis][index] for axis in ("H", "W")] for index in range(3)]
            profile.set_shape_input(tensor.name, *sizes)
        elif any(isinstance(axis, str) for axis in tensor.axes):
            sizes = [_shape(tensor, index) for index in range(3)]
            profile.set_shape(tensor.name, *sizes)
        else:
            continue
        ranges[tensor.name] = sizes
    if ranges:
        config.add_optimization_profile(profile)
    return ranges


def _shape(tensor: TensorSpec, index: int) -> list[int]:
    return [PROFILE[axis][index] if isinstance(axis, str) else axis for axis in tensor.axes]


def _library() -> Any:
    try:
        return importlib.import_module(RTX_LIBRARY)
    except ImportError as error:
        raise CompatibilityError(
            f"TensorRT-RTX cannot be imported ({error}); install it with: pip install 'nerve-deploy[rtx]'"
        ) from error


def _quiet_logger(trt: Any) -> Any:
    class Logger(trt.ILogger):
        """Keeps the last error for our own message instead of printing all of them."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last_error = ""

        def log(self, severity: Any, message: str) -> None:
            """Called by the library."""
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.last_error = message

    return Logger()
