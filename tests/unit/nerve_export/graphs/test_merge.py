"""Graphs joined by the names of their inputs and outputs: the merged graph computes what its parts compute in a row."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from nerve_export.graphs.merge import merged_graph
from nerve_runtime.bundle.spec import StageSpec, TensorSpec
from nerve_runtime.errors import CompatibilityError

pytestmark = pytest.mark.onnx


def value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [3])


def scaled(source: str, target: str, by: float, opset: int = 23, unused: bool = False) -> onnx.ModelProto:
    """target = 2 * (source * by); the inner names are the same in every graph."""
    nodes = [helper.make_node("Mul", [source, "w"], ["inner"]), helper.make_node("Add", ["inner", "inner"], [target])]
    outputs = [value(target)]
    if unused:
        nodes.append(helper.make_node("Neg", ["inner"], ["spare"]))
        outputs.append(value("spare"))
    weight = numpy_helper.from_array(np.array([by] * 3, np.float32), "w")
    graph = helper.make_graph(nodes, "g", [value(source)], outputs, [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def signature(inputs: tuple[str, ...], outputs: tuple[str, ...]) -> StageSpec:
    def specs(names: tuple[str, ...]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name=name, dtype="float32", axes=(3,)) for name in names)

    return StageSpec(inputs=specs(inputs), outputs=specs(outputs))


X = np.array([1, 2, 3], np.float32)


def test_the_merged_graph_computes_its_parts_in_a_row() -> None:
    merged = merged_graph([("a", scaled("x", "y", 3.0)), ("b", scaled("y", "z", 5.0))], signature(("x",), ("z",)))
    onnx.checker.check_model(merged, full_check=True)
    (found,) = ReferenceEvaluator(merged).run(None, {"x": X})
    np.testing.assert_array_equal(found, 60 * X)
    assert [entry.name for entry in merged.graph.input] == ["x"]


def test_names_within_the_parts_do_not_collide() -> None:
    merged = merged_graph([("a", scaled("x", "y", 3.0)), ("b", scaled("y", "z", 5.0))], signature(("x",), ("z",)))
    assert sorted(tensor.name for tensor in merged.graph.initializer) == ["a.w", "b.w"]
    made = [name for node in merged.graph.node for name in node.output]
    assert len(made) == len(set(made))


def test_what_no_output_needs_is_dropped() -> None:
    parts = [("a", scaled("x", "y", 3.0, unused=True)), ("b", scaled("y", "z", 5.0))]
    merged = merged_graph(parts, signature(("x",), ("z",)))
    assert [node.op_type for node in merged.graph.node] == ["Mul", "Add", "Mul", "Add"]


def test_external_data_stays_where_it_is(tmp_path: Path) -> None:
    first = scaled("x", "y", 3.0)
    onnx.save_model(
        first, tmp_path / "first.onnx", save_as_external_data=True, location="first.onnx.data", size_threshold=0
    )
    bare = onnx.load(str(tmp_path / "first.onnx"), load_external_data=False)
    merged = merged_graph([("a", bare), ("b", scaled("y", "z", 5.0))], signature(("x",), ("z",)))
    path = tmp_path / "merged.onnx"
    path.write_bytes(merged.SerializeToString())
    onnx.checker.check_model(str(path), full_check=True)
    (found,) = ReferenceEvaluator(onnx.load(path)).run(None, {"x": X})
    np.testing.assert_array_equal(found, 60 * X)


def test_parts_of_two_opsets_are_refused() -> None:
    parts = [("a", scaled("x", "y", 3.0, opset=20)), ("b", scaled("y", "z", 5.0))]
    with pytest.raises(CompatibilityError, match=r"graphs of opsets .*20.*23.* cannot be merged; export them with one"):
        merged_graph(parts, signature(("x",), ("z",)))


def test_a_door_that_no_part_has_is_named() -> None:
    with pytest.raises(CompatibilityError, match=r"the merged graph has no \['q'\]"):
        merged_graph([("a", scaled("x", "y", 3.0))], signature(("x",), ("q",)))
