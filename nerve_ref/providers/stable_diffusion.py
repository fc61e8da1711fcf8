"""Stable Diffusion says which tokens belong together: queries and keys of its self-attention (method, section 4; E2)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from nerve_ref.params import Noise

Autoencoder: TypeAlias = AutoencoderKL | AutoencoderTiny


@dataclass(frozen=True, slots=True)
class LayerHeads:
    """Queries and keys of one self-attention layer, after the head split and before attention.

    Attributes:
        name: the layer, e.g. "up_blocks.3.attentions.0.transformer_blocks.0".
        q: queries of n heads, tokens row-major over `grid_hw`.
        k: keys, likewise.
        grid_hw: token grid of the layer.
    """

    name: str
    q: Float[Tensor, "n p d"]
    k: Float[Tensor, "n p d"]
    grid_hw: tuple[int, int]


class CaptureProcessor:
    """Attention processor that leaves the layer's output as it is and keeps its queries and keys.

    Attributes:
        q: queries (n, p, d) of the last call; None before the first.
        k: keys, likewise.
    """

    def __init__(self) -> None:
        self.q: Tensor | None = None
        self.k: Tensor | None = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attend as the layer always does; names and order of the arguments are diffusers'.

        Raises:
            ValueError: if the layer is not plain self-attention.
        """
        if encoder_hidden_states is not None or attention_mask is not None or not _is_plain(attn):
            raise ValueError(
                "only plain self-attention can be captured (no mask, no context, no norm or residual inside); "
                "name attn1 layers of a UNet2DConditionModel"
            )
        query, key, value = (
            projection(hidden_states).unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for projection in (attn.to_q, attn.to_k, attn.to_v)
        )
        self.q, self.k = query[0], key[0]
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](mixed))


def _is_plain(attn: Any) -> bool:
    norms = (attn.group_norm, attn.spatial_norm, attn.norm_q, attn.norm_k)
    return all(norm is None for norm in norms) and not attn.residual_connection and attn.rescale_output_factor == 1


def latent(vae: Autoencoder, frame: UInt8[Tensor, "H W 3"]) -> Float[Tensor, "1 z h w"]:
    """Encode a working frame: posterior mean times the autoencoder's scaling factor, no sampling.

    Either autoencoder takes pixels in -1..1.
    """
    pixels = frame.permute(2, 0, 1)[None].float() / 127.5 - 1
    encoded = vae.encode(pixels)
    raw = encoded.latents if isinstance(vae, AutoencoderTiny) else encoded.latent_dist.mean
    return raw * vae.config.scaling_factor


def fixed_noise(shape: Sequence[int], noise_seed: int) -> Float[Tensor, "1 z h w"]:
    """The one noise tensor: standard normal float32 from numpy's default generator, so that every back end has it."""
    drawn = np.random.default_rng(noise_seed).standard_normal(tuple(shape), dtype=np.float32)
    return torch.from_numpy(drawn)


def noised(
    latent: Float[Tensor, "1 z h w"],
    alphas_cumprod: Float[Tensor, " steps"],
    timestep: int,
    noise: Noise,
    noise_seed: int,
) -> Float[Tensor, "1 z h w"]:
    """The latent at a timestep: z_t = sqrt(abar) z0 + sqrt(1 - abar) eps, with eps = 0 for noise "none"."""
    abar = alphas_cumprod[timestep]
    signal = abar.sqrt() * latent
    if noise == "none":
        return signal
    return signal + (1 - abar).sqrt() * fixed_noise(latent.shape, noise_seed)


def unet_heads(
    unet: UNet2DConditionModel,
    z_t: Float[Tensor, "1 z h w"],
    timestep: int,
    context: Float[Tensor, "1 l e"],
    layers: Sequence[str],
) -> tuple[LayerHeads, ...]:
    """Run the UNet once and return queries and keys of the named layers, in the order of the names.

    The UNet's attention processors are replaced for the run and put back after it, also after an error.

    Args:
        unet: noise predictor.
        z_t: noised latent.
        timestep: 0 to 999.
        context: embedding of the empty prompt.
        layers: attention modules; each stands for the attn1 of all its transformer blocks.

    Raises:
        ValueError: for a name that is no self-attention layer of this UNet, listing those that are.
    """
    before = unet.attn_processors
    captures = {name: CaptureProcessor() for layer in layers for name in _processor_names(before, layer)}
    try:
        # diffusers empties the dictionary that it is given, hence the copies.
        unet.set_attn_processor({**before, **captures})
        unet(z_t, timestep, encoder_hidden_states=context)
    finally:
        unet.set_attn_processor(dict(before))
    latent_hw = (z_t.shape[2], z_t.shape[3])
    return tuple(_layer_heads(name, capture, latent_hw) for name, capture in captures.items())


def _processor_names(processors: dict[str, Any], layer: str) -> list[str]:
    names = [name for name in processors if name.startswith(f"{layer}.transformer_blocks.") and ".attn1." in name]
    if not names:
        layers = sorted({name.split(".transformer_blocks.")[0] for name in processors if ".attn1." in name})
        raise ValueError(f"no self-attention layer {layer!r} in this UNet; it has: {', '.join(layers) or 'none'}")
    return names


def _layer_heads(name: str, capture: CaptureProcessor, latent_hw: tuple[int, int]) -> LayerHeads:
    if capture.q is None or capture.k is None:
        raise ValueError(f"the UNet never ran {name!r}; name a layer that its forward pass uses")
    grid_hw = _layer_grid_hw(capture.q.shape[1], latent_hw)
    return LayerHeads(name.removesuffix(".attn1.processor"), capture.q, capture.k, grid_hw)


def _layer_grid_hw(tokens: int, latent_hw: tuple[int, int]) -> tuple[int, int]:
    """The grid of a layer: the latent's, halved (rounded up, as the strided convolutions do) until it has the tokens."""
    grid_hw = latent_hw
    while math.prod(grid_hw) > tokens:
        grid_hw = (grid_hw[0] + 1) // 2, (grid_hw[1] + 1) // 2
    if math.prod(grid_hw) != tokens:
        raise ValueError(f"a layer of {tokens} tokens is no halving of a latent of {latent_hw}")
    return grid_hw
