"""What is counted is what a person would count by hand, and two ways of counting agree."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from nerve_bench.measure.cost import (
    bundle_costs,
    gmac_exponents,
    graph_cost,
    method_costs,
    method_specs,
    part_gmac,
    preset_costs,
)
from nerve_bench.measure.method_stages import Problem
from nerve_bench.measure.method_times import measure_method
from nerve_bench.report.plots_cost import draw_cost, draw_cost_sizes, draw_latency, draw_memory, draw_walk
from nerve_export.graphs.sizes import sizes_of
from nerve_export.graphs.stages import TABLE
from nerve_export.plan import make_plan
from nerve_runtime.bundle.manifest import load_manifest
from nerve_runtime.errors import UsageError

pytestmark = pytest.mark.onnx


def unseen(items: Iterable[Any], _description: str, total: float | None = None) -> Iterable[Any]:
    return items


def chain_of_products() -> onnx.ModelProto:
    """x (c, 500) times a weight (500, 1000), then Relu, then the sum over classes."""
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [500, 1000], [0.0] * 500_000)
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Relu", ["product"], ["positive"]),
        helper.make_node("ReduceSum", ["positive"], ["total"], keepdims=0),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["c", 500])
    total = helper.make_tensor_value_info("total", TensorProto.FLOAT, [])
    graph = helper.make_graph(nodes, "chain", [x], [total], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def test_a_graph_costs_what_a_person_counts() -> None:
    cost = graph_cost(chain_of_products())
    assert cost.gmac == round(21 * 500 * 1000 / 1e9, 6)
    assert (cost.parameters, cost.weight_bytes, cost.nodes, cost.unknown_tensors) == (500_000, 2_000_000, 3, 0)
    rows = 21 * 1000 * 4
    assert cost.activation_bytes == 2 * rows + 4
    assert cost.peak_activation_bytes == 2 * rows, "the product lives until its positive part is written"
    assert cost.largest_activation_bytes == rows


def test_a_bundle_costs_what_its_manifest_says(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    *stages, whole = bundle_costs(bundle)
    assert {r["stage"]: r["gmac"] for r in stages} == {name: s.gmac for name, s in manifest.stages.items()}
    for record in stages:
        size = manifest.files[manifest.stages[record["stage"]].onnx].bytes
        assert record["weight_bytes"] < size
        assert record["peak_activation_bytes"] <= record["activation_bytes"]
    assert whole["bytes"] == sum(file.bytes for file in manifest.files.values())


def test_the_dense_form_costs_what_a_person_counts() -> None:
    problem = Problem(side=8, cells=4, classes=21, heads=2, steps=3)
    p, t, d, c = 64, 2, 64, 21
    found = part_gmac("dense", problem)
    assert found["structure"] == t * p * p * d / 1e9
    assert found["mix"] == (t * p * p * c + t * p * p) / 1e9
    assert found["walk"] == 3 * p * p * c / 1e9


@pytest.mark.slow
def test_dense_grows_with_the_square_of_the_tokens_and_pooled_with_the_tokens() -> None:
    slopes = {
        (r["form"], r["keys"]): (r["exponent"], r["walk_exponent"])
        for r in gmac_exponents(list(method_costs((128, 256), unseen)))
    }
    assert slopes["dense", "all"] == (2, 2)
    assert slopes["pooled", "fixed"] == slopes["linear", "none"] == (1, 1)
    assert 1 < slopes["pooled", "growing"][0] < 2


def test_a_preset_without_diffusion_is_refused() -> None:
    with pytest.raises(UsageError, match="--preset names dinov2, expected of: sd21, sd21-fast, edge"):
        next(preset_costs(["dinov2"], (256,), unseen))


@pytest.mark.slow
def test_a_preset_is_counted_as_its_bundle_was_without_its_weights() -> None:
    """1095.35 GMAC is what the graphs of a random bundle of this preset sum up to (docs/figures.md)."""
    (record,) = preset_costs(["sd21"], (512,), unseen)
    assert record["gmac"] == pytest.approx(1095.35, abs=0.01)
    assert (record["tokens"], record["pooled_keys"]) == (4096, 256)


def test_the_doors_of_a_form_are_those_of_the_stages() -> None:
    specs = method_specs("pooled", Problem(16, cells=4))
    assert [tensor.name for tensor in specs["walk"].inputs] == [
        tensor.name
        for tensor in TABLE["walk"].spec(sizes_of(make_plan("tiny").backbones, make_plan("tiny").params)).inputs
    ]
    assert specs["mix"].inputs[0] == specs["structure"].outputs[0]


@pytest.mark.slow
def test_graphs_of_the_methods_own_part_are_timed_in_all_forms() -> None:
    records = list(measure_method((128,), 2, 1, unseen))
    assert {(r["form"], r["part"]) for r in records} >= {(f, p) for f in ("dense", "pooled") for p in ("walk", "all")}
    assert all(r["n"] == 2 and r["p50_ms"] > 0 for r in records)


def is_png(path: Path) -> bool:
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_pictures_are_drawn_from_records_alone(tmp_path: Path, bundle: Path) -> None:
    method = [
        {"bench": "cost_method", "form": form, "keys": keys, "side_px": px, "gmac": px / 9}
        for form, keys in (("dense", "all"), ("pooled", "fixed"), ("pooled", "growing"))
        for px in (256, 512)
    ]
    presets = [{"bench": "cost_preset", "preset": "sd21", "side_px": px, "gmac": px / 2} for px in (256, 512)]
    scaling = [
        {"bench": "walk_scaling", "form": f, "tokens": t, "least_ms": t / 9}
        for f in ("dense", "pooled")
        for t in (64, 256)
    ]
    latency = [
        {
            "bench": "latency",
            "runner": r,
            "stage": "frame",
            "keyframe_every": k,
            "typical_ms": 9,
            "p99_ms": 12,
            "ratio_to_eager": 1.5,
        }
        for r in ("reference_eager", "bundle_ort")
        for k in (1, 8)
    ]
    memory = [{"bench": "memory", "runner": "ort", "peak_bytes": 2e8, "steady_bytes": 1e8}]
    draw_cost(list(bundle_costs(bundle)), tmp_path / "cost.png")
    draw_cost_sizes([*presets, *method], tmp_path / "sizes.png")
    draw_walk([*scaling, {"bench": "walk_exponent", "form": "dense", "exponent": 2.0}], tmp_path / "walk.png")
    draw_latency(latency, tmp_path / "latency.png")
    draw_memory(memory, tmp_path / "memory.png")
    written = sorted(tmp_path.iterdir())
    assert [path.stem for path in written] == ["cost", "latency", "memory", "sizes", "walk"]
    assert all(is_png(path) for path in written)


@pytest.mark.parametrize("draw", [draw_cost, draw_cost_sizes, draw_walk, draw_latency, draw_memory])
def test_a_picture_without_records_is_refused(draw: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no record of '"):
        draw([{"bench": "other"}], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
