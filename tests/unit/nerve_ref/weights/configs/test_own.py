"""Networks by their own configuration: completed as the libraries complete them, and refused where none can be read."""

import inspect
import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPConfig, CLIPTextConfig, Dinov2Config, Dinov2WithRegistersConfig, DINOv3ViTConfig

from nerve_ref.params import NerveParams
from nerve_ref.providers.dino import dino_heads
from nerve_ref.providers.stable_diffusion import unet_heads
from nerve_ref.weights.architectures import Backbones, LayerShape, all_layer_shapes, context_tokens, layer_shapes
from nerve_ref.weights.builders import autoencoder_around, dino_around, unet_around
from nerve_ref.weights.configs.own import Network, own_network
from nerve_ref.weights.configs.published import LIBRARY_DEFAULTS

UNET: dict[str, Any] = {
    "block_out_channels": [8, 16, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": [1, 2, 1],
    "transformer_layers_per_block": [1, 1, 2],
    "attention_head_dim": [1, 2, 4],
    "cross_attention_dim": 12,
    "norm_num_groups": 4,
}
VAE: dict[str, Any] = {
    "block_out_channels": [8, 8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "norm_num_groups": 4,
}
CLIP: dict[str, Any] = {"text_config": {}, "vision_config": {}}


@pytest.mark.parametrize("name", ["AutoencoderKL", "AutoencoderTiny", "unet"])
def test_what_is_left_out_has_diffusers_defaults(name: str) -> None:
    kinds = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny, "unet": UNet2DConditionModel}
    signature = inspect.signature(kinds[name].__init__).parameters
    defaults = {field: signature[field].default for field in LIBRARY_DEFAULTS[name]}
    assert {field: list(v) if isinstance(v, tuple) else v for field, v in defaults.items()} == LIBRARY_DEFAULTS[name]


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("dinov2", Dinov2Config()),
        ("dinov2_with_registers", Dinov2WithRegistersConfig()),
        ("dinov3_vit", DINOv3ViTConfig()),
        ("text_config", CLIPConfig().text_config),
        ("vision_config", CLIPConfig().vision_config),
        ("clip", CLIPConfig()),
        ("text_encoder", CLIPTextConfig()),
    ],
)
def test_what_is_left_out_has_transformers_defaults(name: str, config: Any) -> None:
    assert {field: getattr(config, field) for field in LIBRARY_DEFAULTS[name]} == LIBRARY_DEFAULTS[name]


@pytest.mark.parametrize("middle", ["UNetMidBlock2DCrossAttn", None])
@pytest.mark.parametrize("size_hw", [(64, 64), (64, 192)])
def test_all_layers_of_another_unet_have_the_shapes_of_a_run(middle: str | None, size_hw: tuple[int, int]) -> None:
    unet = unet_around({**UNET, "mid_block_type": middle}).eval()
    backbones = Backbones("tiny", own_network("mine", {"unet": {**UNET, "mid_block_type": middle}, "vae": VAE}))
    known = all_layer_shapes(backbones, size_hw)
    with torch.no_grad():
        latent = autoencoder_around(VAE).encode(torch.zeros(1, 3, *size_hw)).latent_dist.mean
        heads = unet_heads(unet, latent, 0, torch.zeros(1, 77, 12), tuple(known))
    found = tuple(LayerShape(layer.name, layer.q.shape[0], layer.q.shape[2], layer.grid_hw) for layer in heads)
    assert layer_shapes(backbones, NerveParams(size_hw=size_hw, layers=tuple(known))) == found
    attentions = {name.partition(".transformer_blocks")[0] for name, _ in unet.named_modules() if "attn1" in name}
    assert set(known) == attentions


@pytest.mark.parametrize("kind", ["dinov2", "dinov2_with_registers", "dinov3_vit"])
def test_all_layers_of_another_dino_have_the_shapes_of_a_run(kind: str) -> None:
    config = {"model_type": kind, "hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 3, "patch_size": 8}
    backbones = Backbones("tiny", own_network("mine", {"dinov2": config}))
    known = all_layer_shapes(backbones, (64, 128))
    with torch.no_grad():
        heads = dino_heads(dino_around(config).eval(), torch.zeros(1, 3, 32, 64), tuple(known), (4, 8))
    found = tuple(LayerShape(layer.name, layer.q.shape[0], layer.q.shape[2], layer.grid_hw) for layer in heads)
    assert len(found) == 3
    assert layer_shapes(backbones, NerveParams(size_hw=(64, 128), layers=tuple(known))) == found


def test_a_network_is_told_apart_by_its_configuration_and_says_its_name() -> None:
    first, second = (own_network("mine", {"dinov2": {"hidden_size": width}}) for width in (768, 24))
    assert first == own_network("mine", {"dinov2": {"hidden_size": 768}})
    assert first != second
    assert len({first, second}) == 2
    assert str(first) == "mine"
    with pytest.raises(ValueError, match="mine has no configuration for unet, only for: dinov2; add it"):
        first.config("unet")


def test_the_empty_prompt_is_as_long_as_the_text_encoder_reads() -> None:
    assert context_tokens(own_network("mine", {"unet": UNET})) == 77
    text = {"hidden_size": 12, "max_position_embeddings": 9}
    assert context_tokens(own_network("mine", {"unet": UNET, "text_encoder": text})) == 9


def test_a_configuration_of_the_hub_is_read_as_it_is() -> None:
    published = {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.10",
        "dual_cross_attention": False,
        **UNET,
    }
    network = own_network("mine", {"unet": published, "scheduler": {"beta_start": 0.1}})
    assert network.config("unet")["_diffusers_version"] == "0.10"
    assert network.config("scheduler") == {"beta_start": 0.1}
    assert own_network("mine", {"unet": UNET}).config("scheduler")["beta_start"] == 0.00085


@pytest.mark.parametrize(
    ("role", "config", "message"),
    [
        ("clip", {"model_type": "siglip2"}, "clip.model_type is 'siglip2', expected 'clip': SigLIP compares words with one"),
        ("clip", {"model_type": "bert"}, "clip.model_type is 'bert', expected 'clip'"),
        ("clip", {"text_config": {}}, "clip.vision_config is None, expected a table"),
        ("clip", {**CLIP, "vision_config": {"patch_size": 0}}, "vision_config.patch_size is 0, expected one number of pixels"),
        ("clip", {**CLIP, "text_config": {"num_attention_heads": 7}}, "text_config.hidden_size is 512, expected a multiple of num_attention_heads, 7"),
        ("dinov2", {"model_type": "vit"}, "dinov2.model_type is 'vit', expected one of dinov2, dinov2_with"),
        ("dinov2", {"num_attention_heads": 5}, "dinov2.hidden_size is 768, expected a multiple of num_attention_heads, 5"),
        ("dinov2", {"patch_size": [14, 14]}, r"dinov2.patch_size is \[14, 14\], expected one number"),
        ("unet", {"_class_name": "UNet3DConditionModel"}, "unet._class_name is 'UNet3DConditionModel', expected UNet2D"),
        ("unet", {"addition_embed_type": "text_time"}, "unet.addition_embed_type is 'text_time', expected None: only plain"),
        ("unet", {"only_cross_attention": True}, "unet.only_cross_attention is True, expected False"),
        ("unet", {"cross_attention_dim": [768]}, r"unet.cross_attention_dim is \[768\], expected one number"),
        ("unet", {"down_block_types": ["DownBlock2D"]}, r"unet.down_block_types is \['DownBlock2D'\], expected 4 of CrossAttnDown"),
        ("unet", {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "unet.mid_block_type is 'UNetMidBlock2DSimple"),
        ("unet", {"layers_per_block": [2, 2]}, r"unet.layers_per_block is \[2, 2\], expected a number above 0, or a list of 4"),
        ("unet", {"transformer_layers_per_block": [[1]] * 4}, "unet.transformer_layers_per_block is .*, expected a number"),
        ("vae", {"_class_name": "AsymmetricAutoencoderKL"}, "vae._class_name is 'Asymm.*', expected AutoencoderKL or Auto"),
        ("dinov2", {"num_hidden_layers": 0}, "dinov2.num_hidden_layers is 0, expected a number above 0"),
        ("dinov2", {"model_type": "dinov3_vit", "hidden_size": 12}, "dinov2.hidden_size is 12, expected heads of a multiple of 4"),
        ("unet", {"block_out_channels": 5}, "unet.block_out_channels is 5, expected a list of widths"),
        ("vae", {"block_out_channels": []}, r"vae.block_out_channels is \[\], expected a list of widths"),
        ("vae", {"latent_channels": "4"}, "vae.latent_channels is '4', expected a number above 0"),
        ("vae", {"shift_factor": 0.1}, "vae.shift_factor is 0.1, expected 0 or none"),
        ("vae", {"latents_mean": [0.0]}, r"vae.latents_mean is \[0.0\], expected None"),
        ("text_encoder", {"model_type": "t5"}, "text_encoder.model_type is 't5', expected 'clip_text_model'"),
        ("empty_prompt", {"start": 1}, r"empty_prompt is \{'start': 1\}, expected the token ids end, pad, start"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_its_field(role: str, config: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^mine: .*{message}"):
        own_network("mine", {role: config})


def test_a_text_encoder_of_another_width_than_the_unet_reads_is_refused() -> None:
    with pytest.raises(ValueError, match=r"text_encoder.hidden_size is 8, expected the UNet's cross_attention_dim 12"):
        own_network("mine", {"unet": UNET, "text_encoder": {"hidden_size": 8}})


def test_a_network_is_plain_values() -> None:
    network = own_network("mine", {"dinov2": {}}, repository="a/b", revision="c" * 40, licence="MIT")
    assert network == Network("mine", network.configs, "a/b", "c" * 40, "MIT")
    assert all(isinstance(json.loads(text), dict) for _, text in network.configs)
