"""The single-graph form: graphs of stages joined by the names of their inputs and outputs, sharing external data."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nerve_runtime.bundle.spec import StageSpec
from nerve_runtime.errors import CompatibilityError

if TYPE_CHECKING:
    import onnx


def merged_graph(parts: "Sequence[tuple[str, onnx.ModelProto]]", spec: StageSpec) -> "onnx.ModelProto":
    """Join graphs in order: an input of a later graph is connected to the output of that name of an earlier one.

    Args:
        parts: a prefix for inner names and a graph each, of one opset; their initializers may be external, in files
            that lie beside the merged graph too.
        spec: inputs and outputs of the result. Outputs of parts that it does not name are dropped.

    Raises:
        CompatibilityError: the parts are of several opsets, have functions or graphs within nodes, or do not give what
            `spec` names.
    """
    import onnx

    opsets = {tuple((entry.domain, entry.version) for entry in model.opset_import) for _, model in parts}
    if len(opsets) != 1:
        raise CompatibilityError(f"graphs of opsets {sorted(opsets)} cannot be merged; export them with one --opset")
    nested = [name for name, model in parts if model.functions or _has_inner_graphs(model.graph)]
    if nested:
        raise CompatibilityError(f"the graphs {nested} have functions or graphs within nodes, which cannot be merged")
    merged = onnx.ModelProto()
    merged.ir_version = max(model.ir_version for _, model in parts)
    merged.opset_import.extend(parts[0][1].opset_import)
    merged.graph.name = "frame"
    boundary: dict[str, onnx.ValueInfoProto] = {}
    for prefix, model in parts:
        graph = model.graph
        graph_values = {value.name for value in (*graph.input, *graph.output)}
        boundary |= {value.name: value for value in (*graph.input, *graph.output) if value.name not in boundary}
        _append(merged.graph, graph, prefix, graph_values)
    for names, values in ((spec.inputs, merged.graph.input), (spec.outputs, merged.graph.output)):
        missing = [tensor.name for tensor in names if tensor.name not in boundary]
        if missing:
            raise CompatibilityError(f"the merged graph has no {missing}; rebuild all stages of the bundle together")
        values.extend(boundary[tensor.name] for tensor in names)
    outer = {tensor.name for tensor in (*spec.inputs, *spec.outputs)}
    merged.graph.value_info.extend(value for name, value in boundary.items() if name not in outer)
    _drop_unused(merged.graph, {tensor.name for tensor in spec.outputs})
    return merged


def _has_inner_graphs(graph: "onnx.GraphProto") -> bool:
    return any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute)


def _append(merged: "onnx.GraphProto", graph: "onnx.GraphProto", prefix: str, kept: set[str]) -> None:
    """Copy nodes, weights and shapes; every name but those of inputs and outputs gets the prefix."""

    def renamed(name: str) -> str:
        return name if not name or name in kept else f"{prefix}.{name}"

    for node in graph.node:
        copy = merged.node.add()
        copy.CopyFrom(node)
        copy.name = f"{prefix}.{node.name}"
        copy.input[:] = [renamed(name) for name in node.input]
        copy.output[:] = [renamed(name) for name in node.output]
    for source, target in ((graph.initializer, merged.initializer), (graph.value_info, merged.value_info)):
        for value in source:
            copy = target.add()
            copy.CopyFrom(value)
            copy.name = renamed(value.name)


def _drop_unused(graph: "onnx.GraphProto", outputs: set[str]) -> None:
    """Remove nodes and weights that no output needs, such as the head weights that only the separate stage gives."""
    needed, kept = set(outputs), []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
    kept.reverse()
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    made = {name for node in kept for name in node.output}
    shapes = [value for value in graph.value_info if value.name in made]
    for field, values in ((graph.node, kept), (graph.initializer, weights), (graph.value_info, shapes)):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        del field[:]
        field.extend(copies)
