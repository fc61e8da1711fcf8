"""Networks of the libraries around a configuration, whatever its sizes; weights are as the library begins them."""

from collections.abc import Mapping
from typing import Any

from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
)

from nerve_ref.providers.dino import DinoModel
from nerve_ref.providers.stable_diffusion import Autoencoder

DINO_CLASSES: Mapping[str, tuple[Any, Any]] = {
    "dinov2": (Dinov2Config, Dinov2Model),
    "dinov2_with_registers": (Dinov2WithRegistersConfig, Dinov2WithRegistersModel),
    "dinov3_vit": (DINOv3ViTConfig, DINOv3ViTModel),
}
"""Configuration and network of each `model_type` of a DINO."""


def clip_around(config: Mapping[str, Any]) -> CLIPModel:
    """CLIP around a configuration, its weights as the library begins them."""
    return CLIPModel(CLIPConfig(**config))


def unet_around(config: Mapping[str, Any]) -> UNet2DConditionModel:
    """UNet, likewise."""
    return UNet2DConditionModel.from_config(dict(config))


def autoencoder_around(config: Mapping[str, Any]) -> Autoencoder:
    """Full or tiny autoencoder, likewise."""
    return (AutoencoderTiny if "encoder_block_out_channels" in config else AutoencoderKL).from_config(dict(config))


def dino_around(config: Mapping[str, Any]) -> DinoModel:
    """DINOv2 or DINOv3, likewise."""
    make_config, make = DINO_CLASSES[config.get("model_type", "dinov2")]
    return make(make_config(**config))
