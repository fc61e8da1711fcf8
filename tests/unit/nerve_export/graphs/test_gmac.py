"""Costs of graphs against sums made by hand, and against PyTorch's own counter."""

from pathlib import Path
from typing import Any

import pytest
import torch
from onnx import ModelProto, TensorProto, helper
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nerve_export.graphs.export import export_graph
from nerve_export.graphs.gmac import COST_CLASSES, count_gmac
from nerve_runtime.bundle.spec import StageSpec, TensorSpec

pytestmark = pytest.mark.onnx

Shape = list[int | str]


def graph_of(node_type: str, inputs: list[Shape], output: Shape, **attributes: Any) -> ModelProto:
    """A model of one node."""
    values = [helper.make_tensor_value_info(f"in{i}", TensorProto.FLOAT, shape) for i, shape in enumerate(inputs)]
    made = helper.make_tensor_value_info("out", TensorProto.FLOAT, output)
    node = helper.make_node(node_type, [value.name for value in values], ["out"], **attributes)
    return helper.make_model(helper.make_graph([node], "one", values, [made]))


def macs(model: ModelProto) -> float:
    return round(count_gmac(model) * 1e9, 3)


def test_a_convolution_costs_its_outputs_times_its_kernel() -> None:
    model = graph_of("Conv", [[1, 3, 10, 12], [8, 3, 3, 3]], [1, 8, 8, 10])
    assert macs(model) == (8 * 8 * 10) * (3 * 3 * 3)


def test_a_grouped_convolution_sees_one_group_of_channels() -> None:
    model = graph_of("Conv", [[1, 6, 8, 8], [6, 1, 3, 3]], [1, 6, 6, 6], group=6)
    assert macs(model) == (6 * 6 * 6) * 9


def test_a_strided_convolution_costs_by_what_comes_out() -> None:
    model = graph_of("Conv", [[2, 3, 8, 8], [4, 3, 2, 2]], [2, 4, 4, 4], strides=[2, 2])
    assert macs(model) == (2 * 4 * 4 * 4) * (3 * 4)


def test_a_product_of_matrices_costs_rows_times_inner_times_columns() -> None:
    assert macs(graph_of("MatMul", [[5, 7], [7, 11]], [5, 11])) == 5 * 7 * 11
    assert macs(graph_of("MatMul", [[2, 3, 5, 7], [7, 11]], [2, 3, 5, 11])) == 2 * 3 * 5 * 7 * 11


def test_gemm_takes_its_inner_size_from_the_right_side() -> None:
    assert macs(graph_of("Gemm", [[5, 7], [7, 11]], [5, 11])) == 5 * 7 * 11
    assert macs(graph_of("Gemm", [[7, 5], [7, 11]], [5, 11], transA=1)) == 5 * 7 * 11
    assert macs(graph_of("Gemm", [[5, 7], [11, 7]], [5, 11], transB=1)) == 5 * 7 * 11


def test_attention_costs_its_two_products() -> None:
    """Queries against keys, width 16, then weights against values, width 24; three heads."""
    inputs: list[Shape] = [[1, 3, 10, 16], [1, 3, 20, 16], [1, 3, 20, 24]]
    model = graph_of("Attention", inputs, [1, 3, 10, 24])
    assert macs(model) == 3 * (10 * 20 * 16 + 10 * 20 * 24)


def test_elementwise_operations_cost_nothing() -> None:
    assert macs(graph_of("Add", [[100, 100], [100, 100]], [100, 100])) == 0


def test_free_axes_are_counted_at_their_stated_sizes() -> None:
    model = graph_of("MatMul", [["c", 4], [4, 6]], ["c", 6])
    assert macs(model) == COST_CLASSES["c"] * 4 * 6
    assert round(count_gmac(model, {"c": 3}) * 1e9) == 3 * 4 * 6


def test_counting_leaves_the_model_as_it_was() -> None:
    model = graph_of("MatMul", [["c", 4], [4, 6]], ["c", 6])
    before = model.SerializeToString()
    count_gmac(model)
    assert model.SerializeToString() == before


class Small(nn.Module):
    """One of each kind that is counted, but attention."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, padding=1)
        self.linear = nn.Linear(8, 5)

    def forward(self, picture: Tensor) -> Tensor:
        maps = self.convolution(picture).flatten(2)
        return self.linear(maps[0].T) @ torch.ones(5, 4)


def test_an_exported_module_costs_what_pytorch_counts(tmp_path: Path) -> None:
    spec = StageSpec(
        inputs=(TensorSpec(name="picture", dtype="float32", axes=(1, 3, 16, 12)),),
        outputs=(TensorSpec(name="out", dtype="float32", axes=(192, 4)),),
    )
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        Small()(torch.zeros(1, 3, 16, 12))
    model, _ = export_graph(Small(), spec, 23, {}, tmp_path / "small.onnx")
    assert macs(model) == counter.get_total_flops() / 2
