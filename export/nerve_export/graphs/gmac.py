"""What a graph costs, counted from the graph itself: multiply-accumulates of convolutions, products and attention."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

COST_CLASSES = {"c": 21, "r": 21, "k": 1, "n": 21, "H": 512, "W": 512, "b": 1}
"""Free axes are counted at these sizes: a vocabulary of 21 classes, a read-out of 512 x 512, one frame."""

Shapes = Mapping[str, list[int]]


def count_gmac(model: "onnx.ModelProto", sizes: Mapping[str, int] = COST_CLASSES) -> float:
    """Giga multiply-accumulates of one run, dynamic axes taken at `sizes`; elementwise operations are not counted."""
    import onnx

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    # The exporter's own shapes are kept: onnx infers none through GroupNormalization.
    for value in (*fixed.graph.input, *fixed.graph.output, *fixed.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                size = sizes.get(dim.dim_param)
                dim.Clear()
                if size is not None:
                    dim.dim_value = size
    inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    shapes = {tensor.name: list(tensor.dims) for tensor in inferred.graph.initializer}
    for value in (*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info):
        shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    return sum(COUNTERS[node.op_type](node, shapes) for node in inferred.graph.node if node.op_type in COUNTERS) / 1e9


def _convolution(node: "onnx.NodeProto", shapes: Shapes) -> int:
    return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])


def _product(node: "onnx.NodeProto", shapes: Shapes) -> int:
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _gemm(node: "onnx.NodeProto", shapes: Shapes) -> int:
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]


def _attention(node: "onnx.NodeProto", shapes: Shapes) -> int:
    queries, keys, values = (shapes[name] for name in node.input[:3])
    return math.prod(queries[:-2]) * queries[-2] * keys[-2] * (queries[-1] + values[-1])


COUNTERS: dict[str, Callable[["onnx.NodeProto", Shapes], int]] = {
    "Conv": _convolution,
    "MatMul": _product,
    "Gemm": _gemm,
    "Attention": _attention,
}
