"""Networks of the libraries around a configuration, whatever its sizes; weights are as the library begins them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    RadioConfig,
    RadioModel,
)

from nerve_ref.providers.dino import DinoModel
from nerve_ref.providers.stable_diffusion import Autoencoder

DINO_CLASSES: Mapping[str, tuple[Any, Any]] = {
    "dinov2": (Dinov2Config, Dinov2Model),
    "dinov2_with_registers": (Dinov2WithRegistersConfig, Dinov2WithRegistersModel),
    "dinov3_vit": (DINOv3ViTConfig, DINOv3ViTModel),
    "radio": (RadioConfig, RadioModel),
}
"""Configuration and network of each `model_type` of a DINO."""
_UNUSABLE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
)
"""What the libraries raise for sizes that do not fit each other or values of another type."""


def clip_around(config: Mapping[str, Any]) -> CLIPModel:
    """CLIP around a configuration, its weights as the library begins them.

    Raises:
        ValueError: the library cannot make it, as for a width that its heads do not divide; so do the others here.
    """
    with _told("CLIP"):
        return CLIPModel(CLIPConfig(**config))


def unet_around(config: Mapping[str, Any]) -> UNet2DConditionModel:
    """UNet, likewise."""
    with _told("UNet"):
        return UNet2DConditionModel.from_config(dict(config))


def autoencoder_around(config: Mapping[str, Any]) -> Autoencoder:
    """Full or tiny autoencoder, likewise."""
    with _told("autoencoder"):
        return (AutoencoderTiny if "encoder_block_out_channels" in config else AutoencoderKL).from_config(dict(config))


def dino_around(config: Mapping[str, Any]) -> DinoModel:
    """DINOv2, DINOv3 or RADIO, likewise."""
    make_config, make = DINO_CLASSES[config.get("model_type", "dinov2")]
    with _told("DINO"):
        return make(make_config(**config))


@contextmanager
def _told(network: str) -> Iterator[None]:
    """Turn whatever a library raises for a configuration that makes no network into one sentence."""
    try:
        yield
    except _UNUSABLE as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"no {network} can be made of its configuration: {reason}; correct its config") from error
