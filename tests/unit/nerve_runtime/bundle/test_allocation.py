"""A graph of a few bytes that asks for gigabytes is refused before a library opens it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nerve_runtime.bundle.allocation import ELEMENTS_LIMIT, FACTOR_LIMIT
from nerve_runtime.errors import BundleError
from tests.unit.nerve_runtime.bundle.test_graph_check import accepts, check, model_of, onnx, save

pytestmark = pytest.mark.onnx
HUGE = [60_000, 60_000]


def constant(name: str, values: Any, dtype: type = np.int64) -> Any:
    return onnx.helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(np.array(values, dtype)))


def node(operator: str, *inputs: str, **attributes: Any) -> Any:
    return onnx.helper.make_node(operator, list(inputs), ["y"], name="greedy", **attributes)


GREEDY = {
    "a shape": [constant("s", HUGE), node("ConstantOfShape", "s")],
    "a shape, computed": [
        constant("a", HUGE),
        constant("b", [1, 1]),
        onnx.helper.make_node("Mul", ["a", "b"], ["s"]),
        node("ConstantOfShape", "s"),
    ],
    "an expansion": [constant("s", HUGE), node("Expand", "x", "s")],
    "an expansion, passed on": [
        constant("a", HUGE),
        onnx.helper.make_node("Identity", ["a"], ["s"]),
        node("Expand", "x", "s"),
    ],
    "repeats": [constant("s", HUGE), node("Tile", "x", "s")],
    "pads of an input": [constant("s", [0, 10**9, 0, 0]), node("Pad", "x", "s")],
    "pads of a node": [node("MaxPool", "x", kernel_shape=[1, 1], pads=[0, 10**9, 0, 0])],
    "scales": [constant("s", [1e5, 1e5], np.float32), node("Resize", "x", "", "s")],
    "scales that are no number": [constant("s", [np.nan, 1], np.float32), node("Resize", "x", "", "s")],
    "a size": [constant("s", HUGE), node("Resize", "x", "", "", "s")],
    "a depth": [constant("d", 10**9), constant("v", [0, 1]), node("OneHot", "x", "d", "v")],
    "a step": [constant("d", 1e-9, np.float32), node("Range", "x", "x", "d")],
    "constants that broadcast": [
        constant("a", np.zeros((60_000, 1))),
        constant("b", np.zeros((1, 60_000))),
        node("Add", "a", "b"),
    ],
    "constants that are gathered": [
        constant("a", np.zeros((1, 60_000))),
        constant("b", np.zeros(60_000)),
        node("Gather", "a", "b"),
    ],
    "constants that double": [constant("a", np.zeros(1000)), node("Concat", "a", "a", axis=0)],
}


@pytest.mark.parametrize("nodes", GREEDY.values(), ids=GREEDY)
def test_a_graph_that_allocates_from_constants_is_refused(nodes: list[Any], tmp_path: Path) -> None:
    save(tmp_path, model_of(nodes=nodes))
    with pytest.raises(
        BundleError, match=r"g\.onnx has a node .* that (takes sizes|pads by|makes up to|has constants)"
    ):
        check(tmp_path)


def test_many_tensors_that_are_large_together_are_refused(tmp_path: Path) -> None:
    each = [constant("s", [ELEMENTS_LIMIT // 8])]
    expansions = [onnx.helper.make_node("Expand", ["x", "s"], [f"y{index}"], name=f"e{index}") for index in range(9)]
    assert accepts(model_of(nodes=[*each, *expansions[:8]]).SerializeToString(), tmp_path)
    save(tmp_path, model_of(nodes=[*each, *expansions]))
    with pytest.raises(BundleError, match="'e8'"):
        check(tmp_path)


def test_what_the_exporter_writes_passes(tmp_path: Path) -> None:
    nodes = [
        constant("s", [2, 3]),
        constant("pads", [0, 1, 0, FACTOR_LIMIT]),
        onnx.helper.make_node("Cast", ["w"], ["half"], to=onnx.TensorProto.FLOAT16),
        onnx.helper.make_node("Gather", ["w", "s"], ["rows"]),
        onnx.helper.make_node("Expand", ["x", "s"], ["e"]),
        onnx.helper.make_node("Resize", ["e", "", "", "runtime"], ["r"]),
        node("Pad", "r", "pads"),
    ]
    assert accepts(model_of(nodes=nodes).SerializeToString(), tmp_path)


def test_weights_without_a_name_are_no_sizes_of_a_node_that_takes_none(tmp_path: Path) -> None:
    model = model_of(onnx.numpy_helper.from_array(np.ones((5, 5), np.float32)), [node("Relu", "x")])
    assert accepts(model.SerializeToString(), tmp_path)


def test_negative_sizes_in_typed_fields_are_read_with_their_sign(tmp_path: Path) -> None:
    shape = onnx.helper.make_tensor("s", onnx.TensorProto.INT64, [2], [-1, 3])
    nodes = [onnx.helper.make_node("Constant", [], ["s"], value=shape), node("Expand", "x", "s")]
    assert accepts(model_of(nodes=nodes).SerializeToString(), tmp_path)


def test_a_node_that_lost_its_inputs_is_left_to_the_library(tmp_path: Path) -> None:
    assert accepts(model_of(nodes=[onnx.helper.make_node("Cast", [], ["y"], to=1)]).SerializeToString(), tmp_path)
