"""A torch module to a checked, optimised ONNX file without traces of the machine that made it."""

import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nerve_export.graphs.sizes import EXAMPLE_SIZES
from nerve_runtime.bundle.spec import BATCH_AXIS, BATCH_LIMIT, StageSpec, TensorSpec
from nerve_runtime.errors import CompatibilityError

if TYPE_CHECKING:
    import onnx
    import torch

PRODUCER = "nerve-deploy"
EXPORTER_LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir", "torch._dynamo", "torch.export")
EXTERNAL_FROM_BYTES = 64 << 20
"""Weights beyond this lie in a file beside the graph: protobuf ends at 2 GB, and the merged stage shares the files."""
AXIS_LIMITS = {BATCH_AXIS: BATCH_LIMIT}
"""Greatest sizes of free axes, where it is not 65536: from 64 pictures on diffusers runs its UNet in another way."""
TAP_KEY = "nerve_tap:"
"""Metadata that names the value of an inner tensor, for parity: `nerve_tap:latent` = name of the value."""


def export_graph(
    module: Any, spec: StageSpec, opset: int, stamp: dict[str, str], path: Path
) -> "tuple[onnx.ModelProto, tuple[str, ...]]":
    """Export with the dynamo exporter; the files depend on the module and the arguments alone.

    Args:
        module: torch module whose forward takes the inputs of `spec` in order; inner tensors that it has
            `tap_names` for are named in the metadata.
        spec: inputs and outputs; letters become dynamic axes.
        opset: 20 or 23; 23 keeps attention and group normalisation as single ops.
        stamp: strings written into the graph's metadata.
        path: of the graph; large weights go to `NAME.onnx.data` beside it.

    Returns:
        The graph, without large weights, and the names of its external data files.

    Raises:
        CompatibilityError: the exported graph does not have the inputs and outputs of `spec`.
    """
    import onnx
    import torch

    module.eval()
    arguments = tuple(_example(tensor) for tensor in spec.inputs)
    taps: tuple[str, ...] = getattr(module, "tap_names", ())
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            _with_taps(module) if taps else module,
            arguments,
            dynamo=True,
            opset_version=opset,
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[*(tensor.name for tensor in spec.outputs), *taps],
            dynamic_shapes=(_dynamic_shapes(spec),) if taps else _dynamic_shapes(spec),
            optimize=True,
            verbose=False,
        )
    if program is None:
        raise CompatibilityError("the installed torch exports no program; expected torch 2.9 or newer, please upgrade")
    weights = [value.const_value for value in program.model.graph.initializers.values()]
    weight_bytes = sum(int(weight.nbytes) for weight in weights if weight is not None)
    external = weight_bytes > EXTERNAL_FROM_BYTES
    if external:
        program.save(str(path), external_data=True)
        model = onnx.load(str(path), load_external_data=False)
    else:
        model = program.model_proto
    _hide_taps(model, taps)
    write_graph(model, stamp | {f"{TAP_KEY}{name}": name for name in taps}, path)
    _check_signature(model, spec)
    return model, (f"{path.name}.data",) if external else ()


def write_graph(model: "onnx.ModelProto", stamp: Mapping[str, str], path: Path) -> None:
    """Remove traces of this machine, write metadata, save and check; external data must lie beside `path` already."""
    import onnx

    _strip(model, stamp)
    path.write_bytes(model.SerializeToString(deterministic=True))
    # By path, so that the checker finds external data without holding it.
    onnx.checker.check_model(str(path), full_check=True)


def _with_taps(stage: Any) -> Any:
    """A stage that returns its inner tensors too."""
    from torch import nn

    class Tapped(nn.Module):
        """Outputs of a stage, then its inner tensors."""

        def __init__(self) -> None:
            super().__init__()
            self.stage = stage

        def forward(self, *inputs: Any) -> tuple[Any, ...]:
            """Run the stage."""
            outputs, taps = self.stage.tapped(*inputs)
            return (*outputs, *taps.values())

    return Tapped()


def _hide_taps(model: "onnx.ModelProto", taps: Sequence[str]) -> None:
    """Inner tensors keep their names and stop being outputs of the graph."""
    kept = [value for value in model.graph.output if value.name not in taps]
    hidden = [value for value in model.graph.output if value.name in taps]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    model.graph.value_info.extend(hidden)


def _dynamic_shapes(spec: StageSpec) -> tuple[dict[int, Any], ...]:
    import torch

    dims: dict[str, Any] = {}
    return tuple(
        {
            index: dims.setdefault(axis, torch.export.Dim(axis, min=2, max=AXIS_LIMITS.get(axis, 1 << 16)))
            for index, axis in enumerate(tensor.axes)
            if isinstance(axis, str)
        }
        for tensor in spec.inputs
    )


def _example(tensor: TensorSpec) -> "torch.Tensor":
    """A tensor to trace with; its values do not reach the graph."""
    import torch

    shape = [EXAMPLE_SIZES[axis] if isinstance(axis, str) else axis for axis in tensor.axes]
    generator = torch.Generator().manual_seed(0)
    if tensor.name == "size_hw":
        return torch.tensor([EXAMPLE_SIZES["H"], EXAMPLE_SIZES["W"]])
    if tensor.dtype == "bool":
        return torch.ones(shape, dtype=torch.bool)
    if tensor.dtype == "float32":
        return torch.rand(shape, generator=generator)
    high = 256 if tensor.dtype == "uint8" else 2
    return torch.randint(0, high, shape, generator=generator, dtype=getattr(torch, tensor.dtype))


def _strip(model: "onnx.ModelProto", stamp: Mapping[str, str]) -> None:
    """Remove traces of this machine, such as source paths in node metadata, then write our metadata."""
    import onnx

    for graph in (model.graph, *model.functions):
        del graph.metadata_props[:]
        graph.doc_string = ""
        for node in graph.node:
            del node.metadata_props[:]
            node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.initializer, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
        value.doc_string = ""
    del model.metadata_props[:]
    model.producer_name, model.producer_version, model.doc_string = PRODUCER, "", ""
    onnx.helper.set_model_props(model, dict(sorted(stamp.items())))


def _check_signature(model: "onnx.ModelProto", spec: StageSpec) -> None:
    for kind, found, expected in (
        ("inputs", model.graph.input, spec.inputs),
        ("outputs", model.graph.output, spec.outputs),
    ):
        names = [value.name for value in found]
        if names != [tensor.name for tensor in expected]:
            raise CompatibilityError(
                f"the exported graph has {kind} {names}, expected {[tensor.name for tensor in expected]}; "
                "an input that nothing uses is dropped by the exporter"
            )
        for value, tensor in zip(found, expected, strict=True):
            ranks = len(value.type.tensor_type.shape.dim), len(tensor.axes)
            if ranks[0] != ranks[1]:
                raise CompatibilityError(f"the exported graph's {tensor.name!r} has rank {ranks[0]}, expected {tensor}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter: warnings about deprecations in other libraries, progress on stdout."""
    loggers = [logging.getLogger(name) for name in EXPORTER_LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
