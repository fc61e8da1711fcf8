"""What `make true-size` built: size, cost, and that nothing unused is carried. Reads the bundles and the builders' JSON."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from nerve_export.graphs.export import export_graph
from nerve_export.graphs.gmac import count_gmac
from nerve_export.graphs.sizes import sizes_of
from nerve_export.graphs.stages import TABLE, stages_of
from nerve_export.isolation import run_isolated
from nerve_export.presets.files import presets
from nerve_ref.weights.networks import random_models
from nerve_runtime.bundle.manifest import Manifest, load_manifest
from tests.contracts.checkout import ROOT

pytestmark = pytest.mark.true_size
FOLDER = ROOT / "build" / "true-size"
UNCUT_GMAC = 558 + 402 + 191
"""The whole encoder, the whole UNet and CLIP, as counted in the design notes."""
EXPECTED_GMAC = {"sd21": {"attention": 558 + 352, "scores": 191}, "sd21-fast": {"attention": 61 + 321, "scores": 191}}
BEHIND = {
    "sd21": ("up_blocks.3.attentions.2", "up_blocks.3.resnets.2", "conv_norm_out", "conv_out"),
    "sd21-fast": (
        "up_blocks.3.attentions.1",
        "up_blocks.3.attentions.2",
        "up_blocks.3.resnets.1",
        "up_blocks.3.resnets.2",
        "conv_norm_out",
        "conv_out",
    ),
}


@pytest.fixture(params=["sd21", "sd21-fast"])
def preset(request: pytest.FixtureRequest) -> str:
    if not (FOLDER / request.param / "manifest.json").is_file():
        pytest.skip(f"{FOLDER.name}/{request.param} is missing; make true-size builds it")
    return str(request.param)


def manifest_of(preset: str) -> Manifest:
    return load_manifest(FOLDER / preset)


def lines_of(preset: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / f"{preset}.jsonl").read_text().splitlines()]


def parameters_of(preset: str, stage: str) -> list[str]:
    model = onnx.load(str(FOLDER / preset / f"{stage}.onnx"), load_external_data=False)
    return [tensor.name for tensor in model.graph.initializer]


def test_every_stage_has_its_engine_and_the_peak_is_below_14_gb(preset: str) -> None:
    lines = lines_of(preset)
    assert [line["stage"] for line in lines if line["kind"] == "engine"] == list(stages_of(presets()[preset].params))
    assert max(line["peak_rss_mb"] for line in lines) < 14_000
    assert all((FOLDER / preset / Path(line["path"]).name).exists() for line in lines if line["kind"] == "onnx")


def whole_tower_gmac(folder: Path) -> float:
    """What the same counter finds for CLIP L/14@336 with its last block run whole."""
    preset = presets()["sd21"]
    params = replace(preset.params, clip_mode="vanilla")
    sizes, row = sizes_of(preset.backbones, params), TABLE["scores"]
    module = row.module(random_models(preset.backbones, 0), params, sizes, True)
    model, _ = export_graph(module, row.spec(sizes), 23, {}, folder / "scores.onnx")
    return count_gmac(model)


def test_the_cost_of_attention_is_that_of_the_design_notes_within_3_percent(preset: str) -> None:
    assert manifest_of(preset).stages["attention"].gmac == pytest.approx(EXPECTED_GMAC[preset]["attention"], rel=0.03)


def test_scores_cost_the_design_notes_clip_less_what_early_fusion_leaves_out(preset: str, tmp_path: Path) -> None:
    """185.0, which is 3.1 % below the notes' 191: of the last block only values and their projection are of use."""
    tower = run_isolated("counting the whole tower", whole_tower_gmac, tmp_path)
    assert tower == pytest.approx(EXPECTED_GMAC[preset]["scores"], rel=0.03)
    width, tokens = 1024, 577
    mlp_queries_and_keys = 10 * width**2 * tokens / 1e9
    assert manifest_of(preset).stages["scores"].gmac == pytest.approx(tower - mlp_queries_and_keys, rel=0.005)


def test_fast_costs_about_half() -> None:
    fast, full = (manifest_of(name).stages["frame"].gmac for name in ("sd21-fast", "sd21"))
    assert fast <= 0.53 * full
    assert fast <= 0.50 * UNCUT_GMAC


@pytest.mark.parametrize("stage", ["attention", "frame"])
def test_nothing_behind_the_last_used_layer_is_carried(preset: str, stage: str) -> None:
    unet = [name.rpartition("unet.")[2] for name in parameters_of(preset, stage) if "unet." in name]
    assert any(name.startswith("up_blocks.3.attentions.0") for name in unet)
    assert [name for name in unet if name.startswith(BEHIND[preset])] == []
    folded = re.compile(r"time_emb|attn2\.to_[kv]|decoder")
    assert [name for name in parameters_of(preset, stage) if folded.search(name)] == []


def test_attention_of_the_unet_is_one_operation(preset: str) -> None:
    model = onnx.load(str(FOLDER / preset / "attention.onnx"), load_external_data=False)
    kinds = [node.op_type for node in model.graph.node]
    # Self- and cross-attention of every transformer before the last used one, and the full autoencoder's own.
    assert kinds.count("Attention") == {"sd21": 29, "sd21-fast": 26}[preset]
    assert kinds.count("Softmax") <= 3


def test_large_weights_lie_beside_the_graphs_and_are_shared(preset: str) -> None:
    manifest = manifest_of(preset)
    assert manifest.stages["attention"].external_data == ("attention.onnx.data",)
    assert set(manifest.stages["frame"].external_data) == {"attention.onnx.data", "scores.onnx.data"}
    assert manifest.files["frame.onnx"].bytes < 5_000_000
