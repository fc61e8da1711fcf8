"""What a stage costs before it is built is what its graph costs once it is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nerve_export.graphs.program import COSTLY_STAGES, fixed_axes, program_cost, stage_costs
from nerve_export.graphs.sizes import sizes_of
from nerve_export.graphs.stages import TABLE
from nerve_export.plan import make_plan
from nerve_export.presets.files import load_preset, presets
from nerve_runtime.bundle.manifest import load_manifest
from nerve_runtime.errors import CompatibilityError
from tests.data.own_presets import DIFFUSION, DINOV2_REGISTERS, DINOV3, written
from tests.data.tiny_bundle import tiny_bundle_folder

pytestmark = pytest.mark.onnx


@pytest.fixture(scope="module")
def bundle() -> Path:
    return tiny_bundle_folder()


def test_the_costly_stages_cost_what_their_graphs_do(bundle: Path) -> None:
    tiny, manifest = presets()["tiny"], load_manifest(bundle)
    costs = stage_costs(tiny.backbones, tiny.params)
    assert tuple(costs) == COSTLY_STAGES
    for stage, cost in costs.items():
        record = manifest.stages[stage]
        assert cost.gmac == pytest.approx(record.gmac, rel=1e-3), stage
    for stage in ("text", "scores", "attention"):
        # The graph's file also holds its nodes.
        assert costs[stage].weight_bytes == pytest.approx(manifest.files[f"{stage}.onnx"].bytes, rel=0.05), stage


@pytest.mark.parametrize(("text", "layers"), [(DINOV3, 3), (DINOV2_REGISTERS, 3), (DIFFUSION, None)])
def test_networks_that_no_preset_names_are_counted(text: str, layers: int | None, tmp_path: Path) -> None:
    preset = load_preset(written(tmp_path, text))
    costs = stage_costs(preset.backbones, preset.params, ("attention",))
    assert costs["attention"].gmac > 0
    if layers is not None:
        # Of each whole block four products of the attention and those of the MLP; of the last only queries and keys.
        width = 32 * 32
        whole = 4 * width + (3 * 32 * 48 if text == DINOV3 else 2 * 4 * width)
        least = 4 * ((layers - 1) * whole + 2 * width)
        patches = 4 * 3 * 32 * (16 * 16)
        assert costs["attention"].weight_bytes == pytest.approx(least + patches, rel=0.15)


@pytest.mark.parametrize("stage", ["mix", "walk"])
def test_the_traced_program_costs_what_the_graph_costs(stage: Any, bundle: Path) -> None:
    plan = make_plan("tiny")
    sizes = sizes_of(plan.backbones, plan.params)
    module = TABLE[stage].module(None, plan.params, sizes, True)
    inputs = TABLE[stage].spec(sizes).inputs
    found = program_cost(module, [torch.empty(fixed_axes(tensor.axes)) for tensor in inputs]).gmac
    assert found == pytest.approx(load_manifest(bundle).stages[stage].gmac, abs=1e-6)


class WithDeadCode(nn.Module):
    """One product that is used, and one, checked by a cast, that is not."""

    def forward(self, x: Tensor) -> Tensor:
        (x @ x).to(torch.float64)
        return x @ x


def test_dead_code_is_not_counted() -> None:
    assert program_cost(WithDeadCode(), [torch.empty(100, 100)]).gmac == pytest.approx(100**3 / 1e9)


class WithEinsum(nn.Module):
    """A product that is not among those counted."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("ij,jk->ik", x, x)


def test_a_product_that_is_not_known_is_refused() -> None:
    with pytest.raises(CompatibilityError, match=r"aten\.einsum\.default, a product that is not counted"):
        program_cost(WithEinsum(), [torch.empty(4, 4)])


class WithUnusedWeight(nn.Module):
    """A product with one of two weights."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Parameter(torch.zeros(4, 5)), nn.Parameter(torch.zeros(400, 5))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.used


def test_only_weights_that_are_used_are_counted() -> None:
    assert program_cost(WithUnusedWeight(), [torch.empty(3, 4)]).weight_bytes == 4 * 5 * 4
