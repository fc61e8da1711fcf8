"""Breaks one graph of a bundle on purpose, in the file itself, as a wrong exporter would."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, helper, numpy_helper

from nerve_export.bundle import file_records
from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.bundle.spec import StageName

Edit = Callable[[GraphProto], None]


def damaged_bundle(bundle: Path, manifest: Manifest, to: Path, stage: StageName, edit: Edit) -> Manifest:
    """Copy a bundle with one graph edited; its manifest lists the new bytes, so that only parity can notice."""
    shutil.copytree(bundle, to)
    path = to / manifest.stages[stage].onnx
    model = onnx.load(path)
    edit(model.graph)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return manifest.model_copy(update={"files": file_records(to)})


def behind_input(name: str, *nodes: NodeProto, **constants: NDArray[np.generic]) -> Edit:
    """Nodes that take the graph's input `name` and give "damaged", which every other node then reads instead."""

    def edit(graph: GraphProto) -> None:
        for node in graph.node:
            node.input[:] = ["damaged" if read == name else read for read in node.input]
        _insert(graph, 0, nodes, constants)

    return edit


def before_output(name: str, *nodes: NodeProto, **constants: NDArray[np.generic]) -> Edit:
    """Nodes that take "sound", what was the graph's output `name`, and give the output."""

    def edit(graph: GraphProto) -> None:
        for node in graph.node:
            node.output[:] = ["sound" if made == name else made for made in node.output]
            node.input[:] = ["sound" if read == name else read for read in node.input]
        _insert(graph, len(graph.node), nodes, constants)

    return edit


def scaled(value: str, by: float) -> Edit:
    """A tensor within the graph, or an output of it, that is off by a factor; all that reads it sees the damage."""

    def edit(graph: GraphProto) -> None:
        index = next(index for index, node in enumerate(graph.node) if value in node.output)
        made = list(graph.node[index].output)
        graph.node[index].output[:] = ["sound" if name == value else name for name in made]
        node = helper.make_node("Mul", ["sound", "factor"], [value])
        _insert(graph, index + 1, (node,), {"factor": np.array(by, np.float32)})

    return edit


def broken_head(heads: int, tokens: int, keys: int) -> Edit:
    """The first head looks at random cells."""
    noise = np.random.default_rng(0).random((1, tokens, keys), np.float32)
    return before_output(
        "head_affinity",
        helper.make_node("Slice", ["sound", "first", "last", "axis"], ["others"]),
        helper.make_node("Concat", ["noise", "others"], ["head_affinity"], axis=0),
        first=np.array([1]),
        last=np.array([heads]),
        axis=np.array([0]),
        noise=noise / noise.sum(-1, keepdims=True),
    )


def transposed_weights() -> Edit:
    """Local weights with height and width exchanged."""
    return before_output("local_weights", helper.make_node("Transpose", ["sound"], ["local_weights"], perm=[0, 2, 1]))


def reversed_neighbours() -> Edit:
    """Local weights of the opposite neighbours."""
    return before_output(
        "local_weights",
        helper.make_node("Gather", ["sound", "order"], ["local_weights"], axis=0),
        order=np.arange(8)[::-1].copy(),
    )


def swapped_colors() -> Edit:
    """BGR where RGB was promised."""
    return behind_input(
        "frame", helper.make_node("Gather", ["frame", "order"], ["damaged"], axis=3), order=np.array([2, 1, 0])
    )


def shifted(scalar: str, by: float) -> Edit:
    """A constant of the method that is a little off."""
    return behind_input(scalar, helper.make_node("Add", [scalar, "shift"], ["damaged"]), shift=np.array(by, np.float32))


def swapped_rows(name: str) -> Edit:
    """The first two rows of an input exchanged."""
    return behind_input(name, *_row_swap(name, "damaged"), **_ROWS)


def swapped_results(name: str) -> Edit:
    """The first two rows of an output exchanged."""
    return before_output(name, *_row_swap("sound", name), **_ROWS)


_ROWS: dict[str, NDArray[np.generic]] = {"axis": np.array([0])} | {
    f"at_{name}": np.array([place]) for name, place in (("0", 0), ("1", 1), ("2", 2), ("end", 1 << 30))
}


def _row_swap(name: str, to: str) -> tuple[NodeProto, ...]:
    cuts = (("second", "at_1", "at_2"), ("first", "at_0", "at_1"), ("rest", "at_2", "at_end"))
    slices = [helper.make_node("Slice", [name, start, end, "axis"], [part]) for part, start, end in cuts]
    return (*slices, helper.make_node("Concat", ["second", "first", "rest"], [to], axis=0))


def one_step_less(graph: GraphProto) -> None:
    """The walk ends one step early: the output becomes what the last step started from."""
    last = [node for node in graph.node if node.op_type == "Conv"][-1]
    reshaped = next(node for node in graph.node if last.input[0] in node.output)
    before_output("label_scores", helper.make_node("Identity", [_scores_before(graph, reshaped)], ["label_scores"]))(
        graph
    )


def _scores_before(graph: GraphProto, node: NodeProto) -> str:
    """Follow views backwards to the node that computed."""
    while node.op_type in ("Reshape", "Unsqueeze"):
        source = node.input[0]
        node = next(other for other in graph.node if source in other.output)
    return source


def tempered(factor: float, shape: tuple[int, int, int]) -> Edit:
    """The temperature of the first layer's softmax over pooled keys, rows (any heads, p, m), off by a factor."""

    def edit(graph: GraphProto) -> None:
        index = next(index for index, node in enumerate(graph.node) if _is_softmax(graph, node, shape))
        logits = graph.node[index].input[0]
        graph.node[index].input[0] = "damaged"
        node = helper.make_node("Mul", [logits, "factor"], ["damaged"])
        _insert(graph, index, (node,), {"factor": np.array(1 / factor, np.float32)})

    return edit


def _is_softmax(graph: GraphProto, node: NodeProto, shape: tuple[int, int, int]) -> bool:
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in graph.value_info
    }
    return node.op_type == "Softmax" and shapes.get(node.output[0], ())[1:] == shape[1:]


def _insert(
    graph: GraphProto, index: int, nodes: tuple[NodeProto, ...], constants: dict[str, NDArray[np.generic]]
) -> None:
    for offset, node in enumerate(nodes):
        node.input[:] = [f"damage_{read}" if read in constants else read for read in node.input]
        graph.node.insert(index + offset, node)
    graph.initializer.extend(numpy_helper.from_array(array, f"damage_{name}") for name, array in constants.items())


def constants_of(graph: GraphProto) -> Iterator[tuple[str, int]]:
    """Name and size in bytes of every constant of a graph."""
    for tensor in graph.initializer:
        yield tensor.name, len(numpy_helper.to_array(tensor).tobytes())
