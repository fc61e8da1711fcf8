"""Configurations against published sizes, and shapes by arithmetic against networks that ran."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, Dinov2Config, Dinov2Model

from nerve_export.presets.files import NAMES, presets
from nerve_ref.grids import cell_size_hw
from nerve_ref.params import NerveParams
from nerve_ref.providers.dino import dino_heads
from nerve_ref.providers.provider import AffinityProvider
from nerve_ref.providers.stable_diffusion import LayerHeads, unet_heads
from nerve_ref.weights.architectures import (
    OWN_CLIP,
    Backbones,
    LayerShape,
    clip_patch_px,
    context_length,
    latent_hw,
    layer_shapes,
    network_config,
    text_width,
)
from nerve_ref.weights.configs.own import AnyNetwork
from nerve_ref.weights.configs.published import CONFIGS
from nerve_ref.weights.networks import tiny_models
from tests.contracts.checkout import ROOT, run_python

LARGE, SD21 = "clip-vit-large-patch14-336", "stable-diffusion-2-1-base"
BACKBONES = {name: preset.backbones for name, preset in presets().items()}
PARAMS = {name: preset.params for name, preset in presets().items()}
BUILDERS: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "clip": lambda config: CLIPModel(CLIPConfig(**config)),
    "unet": lambda config: UNet2DConditionModel.from_config(config),
    "vae": lambda config: (AutoencoderKL if "block_out_channels" in config else AutoencoderTiny).from_config(config),
    "text_encoder": lambda config: CLIPTextModel(CLIPTextConfig(**config)),
    "dinov2": lambda config: Dinov2Model(Dinov2Config(**config)),
}


def without_memory(name: AnyNetwork, role: str) -> Any:
    return built(role, json.dumps(network_config(name, role)))


@cache
def built(role: str, config: str) -> Any:
    with torch.device("meta"):
        return BUILDERS[role](json.loads(config))


@pytest.mark.parametrize(
    ("name", "role", "parameters"),
    [
        ("clip-vit-large-patch14-336", "clip", 427_944_193),
        ("clip-vit-large-patch14", "clip", 427_616_513),
        ("clip-vit-base-patch16", "clip", 149_620_737),
        ("stable-diffusion-2-1-base", "unet", 865_910_724),
        ("stable-diffusion-2-1-base", "vae", 83_653_863),
        ("stable-diffusion-2-1-base", "text_encoder", 340_387_840),
        ("stable-diffusion-v1-5", "unet", 859_520_964),
        ("stable-diffusion-v1-5", "text_encoder", 123_060_480),
        ("taesd", "vae", 2_445_063),
        ("dinov2-base", "dinov2", 86_580_480),
    ],
)
def test_a_configuration_has_as_many_parameters_as_the_published_network(name: str, role: str, parameters: int) -> None:
    assert sum(parameter.numel() for parameter in without_memory(name, role).parameters()) == parameters


def shapes(heads: tuple[LayerHeads, ...]) -> tuple[LayerShape, ...]:
    for layer in heads:
        assert layer.q.shape == layer.k.shape
        assert layer.q.shape[1] == layer.grid_hw[0] * layer.grid_hw[1]
    return tuple(LayerShape(layer.name, layer.q.shape[0], layer.q.shape[2], layer.grid_hw) for layer in heads)


def layer_names(unet: UNet2DConditionModel) -> tuple[str, ...]:
    attn1 = (name.partition(".transformer_blocks.")[0] for name, _ in unet.named_modules() if name.endswith("attn1"))
    return tuple(dict.fromkeys(attn1))


def heads_without_memory(backbones: Backbones, size_hw: tuple[int, int]) -> tuple[LayerHeads, ...]:
    """All layers of a true UNet on an empty latent of the true autoencoder, by shape inference."""
    unet = without_memory(backbones.affinity, "unet")
    vae = without_memory(backbones.vae or backbones.affinity, "vae")
    with torch.device("meta"), torch.no_grad():
        latent = vae.encoder(torch.zeros(1, 3, *size_hw))[:, :4]
        context = torch.zeros(1, 77, unet.config.cross_attention_dim)
        return unet_heads(unet, latent, 100, context, layer_names(unet))


@pytest.mark.parametrize("preset", ["sd21", "sd21-fast", "sd15"])
@pytest.mark.parametrize("size_hw", [(512, 512), (384, 640), (64, 320)])
def test_shapes_of_the_true_networks_are_those_of_a_run(preset: str, size_hw: tuple[int, int]) -> None:
    heads = heads_without_memory(BACKBONES[preset], size_hw)
    names = tuple(layer.name.partition(".transformer_blocks.")[0] for layer in heads)
    assert len(names) == 16
    assert layer_shapes(BACKBONES[preset], NerveParams(size_hw=size_hw, layers=names)) == shapes(heads)


def test_each_transformer_block_of_an_attention_is_a_layer_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = {**network_config(SD21, "unet"), "transformer_layers_per_block": [2, 1, 3, 1]}
    monkeypatch.setitem(CONFIGS, SD21, {**CONFIGS[SD21], "unet": deep})
    heads = heads_without_memory(BACKBONES["sd21"], (64, 64))
    names = tuple(dict.fromkeys(layer.name.partition(".transformer_blocks.")[0] for layer in heads))
    assert (len(names), len(heads)) == (16, 16 + 5 + 0 + 2 * 5)
    assert layer_shapes(BACKBONES["sd21"], NerveParams(layers=names, size_hw=(64, 64))) == shapes(heads)


def test_sides_that_cannot_be_halved_are_rounded_up(monkeypatch: pytest.MonkeyPatch) -> None:
    sixteenth = {
        **network_config("taesd", "vae"),
        "encoder_block_out_channels": [64] * 5,
        "num_encoder_blocks": [1] * 5,
    }
    monkeypatch.setitem(CONFIGS, "taesd", {"vae": sixteenth})
    names = ("down_blocks.2.attentions.1", "mid_block.attentions.0", "up_blocks.1.attentions.0")
    heads = heads_without_memory(BACKBONES["sd21-fast"], (64, 192))
    found = [layer for layer in heads if layer.name.partition(".transformer_blocks.")[0] in names]
    assert [layer.grid_hw for layer in found] == [(1, 3), (1, 3), (1, 2)]
    params = NerveParams(size_hw=(64, 192), layers=names)
    assert set(layer_shapes(BACKBONES["sd21-fast"], params)) == set(shapes(tuple(found)))


@pytest.mark.parametrize("size_hw", [(512, 512), (384, 640)])
def test_shapes_of_dinov2_are_those_of_a_run(size_hw: tuple[int, int]) -> None:
    model, grid_hw = without_memory("dinov2-base", "dinov2"), (size_hw[0] // 16, size_hw[1] // 16)
    params = replace(PARAMS["dinov2"], size_hw=size_hw)
    with torch.no_grad():
        pixels = torch.zeros(1, 3, 14 * grid_hw[0], 14 * grid_hw[1], device="meta")
        heads = dino_heads(model, pixels, params.layers, grid_hw)
    assert layer_shapes(BACKBONES["dinov2"], params) == shapes(heads)


@pytest.fixture(scope="module")
def tiny_provider() -> AffinityProvider:
    return tiny_models().provider


@pytest.mark.parametrize("size_hw", [(128, 128), (64, 192)])
def test_shapes_of_the_tiny_networks_are_those_of_a_run(
    tiny_provider: AffinityProvider, size_hw: tuple[int, int]
) -> None:
    layers = ("down_blocks.2.attentions.0", "down_blocks.1.attentions.0", "up_blocks.1.attentions.1")
    params = replace(PARAMS["tiny"], size_hw=size_hw, layers=layers)
    with torch.no_grad():
        latent, heads = tiny_provider.observe(torch.zeros(*size_hw, 3, dtype=torch.uint8), params)
    assert isinstance(latent, Tensor)
    assert tuple(latent.shape[2:]) == latent_hw(BACKBONES["tiny"], size_hw)
    assert layer_shapes(BACKBONES["tiny"], params) == shapes(heads)


@pytest.mark.parametrize("size_hw", [None, (384, 640)])
@pytest.mark.parametrize("name", NAMES)
def test_the_cells_of_every_preset_divide_the_grids_of_its_layers(name: str, size_hw: tuple[int, int] | None) -> None:
    preset = PARAMS[name]
    size_hw = size_hw or preset.size_hw
    pooled_hw = tuple(
        round(cells * side / own) for cells, side, own in zip(preset.pooled_hw, size_hw, preset.size_hw, strict=True)
    )
    clip_hw = size_hw if BACKBONES[name].affinity == OWN_CLIP else preset.clip_size_hw
    for layer in layer_shapes(BACKBONES[name], replace(preset, size_hw=size_hw, clip_size_hw=clip_hw)):
        # Coarser layers take a cell per token, which the method then splits evenly.
        cells_hw = (min(layer.grid_hw[0], pooled_hw[0]), min(layer.grid_hw[1], pooled_hw[1]))
        assert min(cell_size_hw(layer.grid_hw, cells_hw)) >= 1
        assert min(cell_size_hw((pooled_hw[0], pooled_hw[1]), cells_hw)) >= 1


@pytest.mark.parametrize("name", NAMES)
def test_the_input_of_clip_is_a_multiple_of_its_patch(name: str) -> None:
    patch = clip_patch_px(BACKBONES[name].clip)
    assert [side % patch for side in PARAMS[name].clip_size_hw] == [0, 0]


def test_clip_says_its_patch_its_width_and_its_length() -> None:
    found = {name: (clip_patch_px(name), text_width(name), context_length(name)) for name in (LARGE, "tiny")}
    assert found == {LARGE: (14, 768, 77), "tiny": (16, 128, 40)}
    assert (clip_patch_px("clip-vit-base-patch16"), text_width("clip-vit-base-patch16")) == (16, 512)


@pytest.mark.parametrize(
    ("preset", "listed"),
    [
        ("sd21", r"up_blocks\.9.* in stable-diffusion-2-1-base; it has: down_blocks\.0\.attentions\.0, .*mid_block"),
        ("dinov2", r"up_blocks\.9.* in dinov2-base; it has: encoder\.layer\.0, encoder\.layer\.1, "),
    ],
)
def test_a_layer_that_does_not_exist_is_refused_listing_those_that_do(preset: str, listed: str) -> None:
    with pytest.raises(ValueError, match=listed):
        layer_shapes(BACKBONES[preset], NerveParams(layers=("up_blocks.9",)))


def test_an_unknown_network_is_refused_listing_those_of_its_role() -> None:
    with pytest.raises(ValueError, match=r"'clip-huge' is no network with a clip; expected one of: tiny, clip-vit-l"):
        clip_patch_px("clip-huge")
    with pytest.raises(ValueError, match=r"'taesd' is no network with a unet; expected one of: tiny, stable-diff"):
        layer_shapes(Backbones(LARGE, "taesd"), NerveParams())


def test_shapes_are_known_without_torch() -> None:
    code = (
        "import sys\n"
        "from nerve_ref.weights.architectures import Backbones, layer_shapes\n"
        "from nerve_ref.params import NerveParams\n"
        f"assert len(layer_shapes(Backbones({LARGE!r}, {SD21!r}), NerveParams())) == 2\n"
        "assert not {'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules), 'heavy'\n"
    )
    assert run_python("-c", code, cwd=ROOT).returncode == 0
    assert run_python("-c", "import numpy\n" + code, cwd=ROOT).returncode == 1
