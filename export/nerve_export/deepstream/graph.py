"""The graph `frame` as Triton takes it: its configuration, and inputs that have at least one axis."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.bundle.spec import TensorSpec

MODEL = "nerve_frame"
TRITON_TYPES = {
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "bool": "TYPE_BOOL",
    "int64": "TYPE_INT64",
    "float32": "TYPE_FP32",
}
BATCH_AXIS = "b"


@dataclass(frozen=True, slots=True)
class FrameGraph:
    """The inputs and outputs of stage `frame`, with sizes for the letters that a vocabulary fixes.

    Attributes:
        inputs: as the manifest has them.
        outputs: as the manifest has them.
        sizes: of the axes c, k and r.
        max_batch: frames in one run; beyond 1 every tensor has the axis b in front.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sizes: Mapping[str, int]
    max_batch: int

    @property
    def is_batched(self) -> bool:
        """Whether the tensors have the axis of several frames in front."""
        return self.inputs[0].axes[0] == BATCH_AXIS

    def dims(self, tensor: TensorSpec) -> tuple[int, ...]:
        """The sizes of a tensor without the axis of several frames; (1,) for a number."""
        axes = tensor.axes[1:] if self.is_batched else tensor.axes
        return tuple(self.sizes[axis] if isinstance(axis, str) else axis for axis in axes) or (1,)

    def config(self) -> str:
        """Triton's config.pbtxt of this graph."""
        tensors = [
            f"{kind} {{\n  name: {tensor.name!r}\n  data_type: {TRITON_TYPES[tensor.dtype]}\n"
            f"  dims: {list(self.dims(tensor))}\n{self._reshape(tensor)}}}\n"
            for kind, group in (("input", self.inputs), ("output", self.outputs))
            for tensor in group
        ]
        head = f'name: "{MODEL}"\nbackend: "onnxruntime"\nmax_batch_size: {self.max_batch if self.is_batched else 0}\n'
        return head + "".join(tensors).replace("'", '"') + "instance_group { kind: KIND_GPU count: 1 }\n"

    def _reshape(self, tensor: TensorSpec) -> str:
        return "  reshape: { shape: [ ] }\n" if self.is_batched and tensor.axes == (BATCH_AXIS,) else ""


def frame_graph(manifest: Manifest, sizes: Mapping[str, int]) -> FrameGraph:
    """The graph `frame` of a bundle that has one."""
    spec = manifest.stages["frame"].spec
    # Bundles of before the axis of several frames do not say how many they take.
    max_batch = getattr(manifest.geometry, "max_batch", 1)
    return FrameGraph(spec.inputs, spec.outputs, sizes, max_batch)


def write_model(source: Path, target: Path, *, is_batched: bool) -> None:
    """Write a graph whose numbers are inputs with one axis: without batches Triton takes no tensor of rank 0.

    Args:
        source: the bundle's ONNX file.
        target: the file to write; external data is left where its names say.
        is_batched: whether the inputs have an axis in front anyway; the file is then copied as it is.
    """
    if is_batched:
        target.write_bytes(source.read_bytes())
        return
    import onnx

    model = onnx.load(str(source), load_external_data=False)
    for tensor in model.graph.input:
        shape = tensor.type.tensor_type.shape
        if not shape.dim:
            _squeeze(model.graph, tensor.name)
            shape.dim.add().dim_value = 1
    target.write_bytes(model.SerializeToString())


def _squeeze(graph: Any, name: str) -> None:
    """Let the nodes that took input `name` take it without its axis."""
    from onnx import helper

    inner = f"{name}_number"
    for node in graph.node:
        node.input[:] = [inner if given == name else given for given in node.input]
    graph.node.insert(0, helper.make_node("Squeeze", [name], [inner], name=f"squeeze_{name}"))
