"""Networks that no shipped preset names are built from a file of one's own, and agree with the reference."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from nerve_export.build import BuildResult, build
from nerve_export.parity.reference import reference_of_bundle
from nerve_export.plan import make_plan, plan_key, plan_weights
from nerve_export.presets.files import PRESET_NAME, bundle_preset
from nerve_ref.weights.architectures import Backbones
from nerve_ref.weights.configs.own import Network
from nerve_ref.weights.files import WeightChoice
from nerve_ref.weights.random import random_autoencoder, random_clip, random_unet, synthetic_tokenizer
from nerve_runtime import Segmenter
from nerve_runtime.bundle.manifest import load_manifest
from tests.data.own_presets import DIFFUSION, EVERY_KIND, written

pytestmark = [pytest.mark.slow, pytest.mark.onnx]

IN_EVERY_RUN = ("diffusion", "dinov3", "one-tower")
"""The kinds that `make test-slow` builds: one of each provider; `make presets` builds the rest."""


def agreed(result: BuildResult) -> None:
    assert result.parity is not None
    assert result.parity.passed
    floats = [tap.cosine for tap in result.parity.taps if tap.cosine is not None]
    assert len(floats) >= 15
    assert min(floats) > 0.99999


@pytest.mark.parametrize(
    "name", [name if name in IN_EVERY_RUN else pytest.param(name, marks=pytest.mark.presets) for name in EVERY_KIND]
)
def test_a_file_builds_a_bundle_that_agrees_and_can_be_compared_again(name: str, tmp_path: Path) -> None:
    preset = written(tmp_path, EVERY_KIND[name])
    plan = make_plan(str(preset), random_seed=3, out=tmp_path / "bundle")
    result = build(plan, ())
    agreed(result)
    assert (result.manifest.preset, result.manifest.geometry.heads) == ("mine", 4)
    preset.unlink()
    again = make_plan(bundle_preset(plan.out, "mine"), random_seed=3)
    assert plan_key(again, None) == load_manifest(plan.out).plan_key
    taps = tmp_path / "taps"
    taps.mkdir()
    reference_of_bundle(plan.out, WeightChoice(), 1, taps)
    assert any(taps.iterdir())


@pytest.mark.parametrize(
    "name", [name if name in IN_EVERY_RUN else pytest.param(name, marks=pytest.mark.presets) for name in EVERY_KIND]
)
def test_every_kind_takes_several_frames_in_a_run(name: str, tmp_path: Path) -> None:
    """At opset 20 in one of two, which has no attention operation."""
    opset = 20 if list(EVERY_KIND).index(name) % 2 else 23
    plan = make_plan(
        str(written(tmp_path, EVERY_KIND[name])), random_seed=3, opset=opset, max_batch=2, out=tmp_path / "bundle"
    )
    result = build(plan, ())
    agreed(result)
    assert result.manifest.geometry.max_batch == 2
    assert result.parity is not None
    assert {tap.frame for tap in result.parity.taps if tap.stage == "frame"} == {0, 1, 2}, "one alone, two in a run"


@pytest.mark.presets
@pytest.mark.parametrize("name", ["diffusion", "dinov3", "one-tower"])
def test_half_precision_of_several_frames_agrees(name: str, tmp_path: Path) -> None:
    preset = str(written(tmp_path, EVERY_KIND[name]))
    result = build(make_plan(preset, random_seed=3, precision="fp16", max_batch=2, out=tmp_path / "bundle"), ())
    assert result.parity is not None
    assert result.parity.passed


@pytest.mark.presets
@pytest.mark.parametrize("name", ["dinov3", "one-tower"])
def test_half_precision_turns_queries_and_keys_too(name: str, tmp_path: Path) -> None:
    plan = make_plan(str(written(tmp_path, EVERY_KIND[name])), random_seed=3, precision="fp16", out=tmp_path / "bundle")
    result = build(plan, ())
    assert result.parity is not None
    assert result.parity.passed


def saved(folder: Path, config: Mapping[str, Any], model: nn.Module, file: str) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / file, {"format": "pt"}
    )


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A CLIP and a diffusion pipeline on disk, as the hub lays them out, with weights out of a seed."""
    backbones = make_plan(str(written(tmp_path, DIFFUSION, "first")), random_seed=5).backbones
    clip, affinity = network(backbones, "clip"), network(backbones, "affinity")
    saved(tmp_path / "clip", {"model_type": "clip", **clip.config("clip")}, random_clip(clip, 5), "model.safetensors")
    synthetic_tokenizer(512, 64).save(str(tmp_path / "clip" / "tokenizer.json"))
    pipeline, file = tmp_path / "pipeline", "diffusion_pytorch_model.safetensors"
    unet = {"_class_name": "UNet2DConditionModel", **affinity.config("unet")}
    saved(pipeline / "unet", unet, random_unet(affinity, 5), file)
    saved(pipeline / "vae", affinity.config("vae"), random_autoencoder(affinity, 5), file)
    text = {"model_type": "clip_text_model", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 32,
            "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 7,
            "bos_token_id": 38, "eos_token_id": 39}  # fmt: skip
    torch.manual_seed(5)
    saved(pipeline / "text_encoder", text, CLIPTextModel(CLIPTextConfig(**text)), "model.safetensors")
    (pipeline / "scheduler").mkdir()
    (pipeline / "scheduler" / "scheduler_config.json").write_text('{"beta_schedule": "linear", "beta_end": 0.02}')
    (pipeline / "tokenizer").mkdir()
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "!"}
    (pipeline / "tokenizer" / "special_tokens_map.json").write_text(json.dumps(tokens))
    (pipeline / "tokenizer" / "vocab.json").write_text(json.dumps({"!": 0, "<s>": 38, "</s>": 39}))
    return tmp_path


def network(backbones: Backbones, part: str) -> Network:
    found = getattr(backbones, part)
    assert isinstance(found, Network)
    return found


def test_weights_of_local_folders_are_built_and_label_a_frame(folders: Path) -> None:
    method = DIFFUSION[DIFFUSION.index("[method]") :]
    text = f'about = "local"\n[networks.clip]\npath = "clip"\nlicence = "MIT"\n[networks.affinity]\npath = "pipeline"\n{method}'
    plan = make_plan(str(written(folders, text)), out=folders / "bundle")
    result = build(plan, ())
    agreed(result)
    manifest = result.manifest
    assert {record.role for record in manifest.weights} == {"clip", "unet", "vae", "text_encoder"}
    assert str(folders) not in (plan.out / PRESET_NAME).read_text()
    assert plan_key(plan, plan_weights(plan, lambda _line: None)) == manifest.plan_key
    with Segmenter.open(plan.out, classes=["a", "b", "c"], backend="ort") as segmenter:
        labels = segmenter.segment(torch.randint(0, 256, (40, 60, 3), dtype=torch.uint8).numpy()).labels
    assert labels.shape == (40, 60)
    assert set(labels.ravel()) <= {0, 1, 2}
