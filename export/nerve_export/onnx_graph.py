"""A torch module to a checked, optimised, stamped ONNX graph that says nothing of the machine it was made on."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from nerve_export.stages import EXAMPLE_SIZES
from nerve_runtime.errors import CompatibilityError
from nerve_runtime.spec import StageSpec, TensorSpec

if TYPE_CHECKING:
    import onnx
    import torch

PRODUCER = "nerve-deploy"
EXPORTER_LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir", "torch._dynamo", "torch.export")


def export_graph(module: Any, spec: StageSpec, opset: int, stamp: dict[str, str]) -> "onnx.ModelProto":
    """Export with the dynamo exporter; the result depends on the module and the arguments alone.

    Args:
        module: torch module whose forward takes the inputs of `spec` in order.
        spec: doors; letters become dynamic axes.
        opset: 20 or 23; 23 keeps attention and group normalisation as single ops.
        stamp: strings written into the graph's metadata.

    Raises:
        CompatibilityError: the exported graph does not have the doors of `spec`.
    """
    import torch

    module.eval()
    arguments = tuple(_example(tensor) for tensor in spec.inputs)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            arguments,
            dynamo=True,
            opset_version=opset,
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
            dynamic_shapes=_dynamic_shapes(spec),
            optimize=True,
            verbose=False,
        )
    if program is None:
        raise CompatibilityError("the installed torch exports no program; expected torch 2.9 or newer, please upgrade")
    model = _finish(program.model_proto, stamp)
    _check_doors(model, spec)
    return model


def _dynamic_shapes(spec: StageSpec) -> tuple[dict[int, Any], ...]:
    import torch

    dims: dict[str, Any] = {}
    return tuple(
        {
            index: dims.setdefault(axis, torch.export.Dim(axis, min=2, max=1 << 16))
            for index, axis in enumerate(tensor.axes)
            if isinstance(axis, str)
        }
        for tensor in spec.inputs
    )


def _example(tensor: TensorSpec) -> "torch.Tensor":
    """A tensor of the right form to trace with; its values do not reach the graph."""
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


def _finish(model: "onnx.ModelProto", stamp: dict[str, str]) -> "onnx.ModelProto":
    """Strip what names this machine or this run (the exporter writes source paths into node metadata), then stamp."""
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
    onnx.checker.check_model(model, full_check=True)
    return model


def _check_doors(model: "onnx.ModelProto", spec: StageSpec) -> None:
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
    """Hold back the exporter's chatter: warnings about other libraries' deprecations and progress on stdout."""
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
