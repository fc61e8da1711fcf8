"""Where queries and keys come from in an experiment: the preset's UNet, CLIP itself, bare colours, or DINOv2."""

from collections.abc import Callable, Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nerve_bench.measure.accuracy import World
from nerve_bench.world import Scene
from nerve_ref.clip_scores import clip_pixels
from nerve_ref.grids import resize_maps
from nerve_ref.params import NerveParams
from nerve_ref.pipeline import Observation, observe_affinity, observe_clip
from nerve_ref.providers.provider import Dino
from nerve_ref.providers.stable_diffusion import LayerHeads
from nerve_ref.weights.architectures import network_config
from nerve_ref.weights.checkpoints import read_dino

DOWN_32, DOWN_16 = "down_blocks.1.attentions.0", "down_blocks.2.attentions.0"
UP_32A, UP_32B = "up_blocks.1.attentions.0", "up_blocks.1.attentions.1"
ALL_LAYERS = (DOWN_32, DOWN_16, UP_32A, UP_32B)
"""Every self-attention layer of the tiny UNet: one run gives them all, so that sets of layers share it."""
COLOUR_SCALES = (4.0, 8.0, 16.0, 32.0)
"""Colours become four heads, from blurred to sharp: logits are minus the squared distance of colours times these."""
DINOV2_NAME = "dinov2-base"
DINOV2_LAYERS = ("encoder.layer.10", "encoder.layer.11")
DINOV2_TOKEN_PX = 16
"""Pixels of the working frame per token of DINOv2: the frame is enlarged until its tokens are those of the walk."""

Heads = tuple[LayerHeads, ...]
Provider = Callable[[World, Tensor, NerveParams, tuple[int, int]], Heads]


class Observer:
    """Runs the networks, each scene once per timestep and provider; kept in memory, 2 MB a scene.

    Attributes:
        world: networks, vocabulary, constants.
        providers: by name; "sd" is the preset's own.
    """

    def __init__(self, world: World, dinov2: Path | None = None) -> None:
        """Open DINOv2 if its folder or file is given; nothing is downloaded."""
        self.world = world
        self.providers: dict[str, Provider] = {"clip": clip_heads, "rgb": colour_heads}
        if dinov2 is not None:
            self.providers["dinov2"] = dinov2_provider(dinov2)
        self._kept: dict[Hashable, Any] = {}

    def observation(self, scene_key: Hashable, scene: Scene, params: NerveParams, provider: str) -> Observation:
        """What CLIP and a provider say of a scene; of "sd", only the layers of the parameters."""
        frame = torch.from_numpy(scene.rgb)
        features = self._once(
            (scene_key, "features", params.clip_mode), lambda: observe_clip(self.world.models, frame, params)
        )
        seen = (scene_key, params.timestep, params.noise, params.noise_seed)
        latent, layers = self._once(
            seen, lambda: observe_affinity(self.world.models, frame, replace(params, layers=ALL_LAYERS))
        )
        heads = tuple(layer for name in params.layers for layer in layers if layer.name.startswith(f"{name}."))
        if provider != "sd":
            grid_hw = max(layer.grid_hw for layer in heads)
            make = self.providers[provider]
            heads = self._once((scene_key, provider), lambda: make(self.world, frame, params, grid_hw))
        return Observation(frame, features, latent, heads)

    def _once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        if key not in self._kept:
            with torch.no_grad():
                self._kept[key] = compute()
        return self._kept[key]


def clip_heads(world: World, frame: Tensor, params: NerveParams, grid_hw: tuple[int, int]) -> Heads:
    """Queries and keys of CLIP's last block over its patches, resized bilinearly to the token grid."""
    model, pixels = world.models.clip, clip_pixels(frame, params.clip_size_hw)
    vision = model.vision_model
    hidden = vision.embeddings(pixels, interpolate_pos_encoding=tuple(pixels.shape[2:]) != _native_hw(vision))
    hidden = vision.pre_layrnorm(hidden)
    *before, last = vision.encoder.layers
    for block in before:
        output = block(hidden, None)
        hidden = output[0] if isinstance(output, tuple) else output
    patch_px = model.config.vision_config.patch_size
    patches_hw = (pixels.shape[2] // patch_px, pixels.shape[3] // patch_px)
    normed = last.layer_norm1(hidden)[0, 1:]
    q, k = (_split(projection(normed), last.self_attn.num_heads) for projection in _projections(last))
    return (resized_heads(LayerHeads("clip", q, k, patches_hw), grid_hw),)


def _native_hw(vision: Any) -> tuple[int, int]:
    return (vision.embeddings.image_size,) * 2


def _projections(block: Any) -> tuple[Any, Any]:
    return block.self_attn.q_proj, block.self_attn.k_proj


def _split(rows: Tensor, heads: int) -> Tensor:
    return rows.unflatten(1, (heads, -1)).transpose(0, 1)


def colour_heads(world: World, frame: Tensor, params: NerveParams, grid_hw: tuple[int, int]) -> Heads:
    """Mean colours of tokens as queries and keys, so that q k / sqrt(d) = -scale |x - y|^2 up to a row's constant.

    With q = 2 x and k = (x, |x|^2), q k - |y|^2 is minus the squared distance; d = 4, one head per `COLOUR_SCALES`.
    """
    colours = functional.adaptive_avg_pool2d(frame.permute(2, 0, 1).float() / 255, grid_hw).flatten(1).T
    squares = colours.square().sum(1, keepdim=True)
    query = torch.cat([2 * colours, -torch.ones_like(squares)], dim=1)
    key = torch.cat([colours, squares], dim=1)
    scales = torch.tensor(COLOUR_SCALES)[:, None, None] * query.shape[1] ** 0.5
    return (LayerHeads("rgb", scales * query, key.expand(len(scales), -1, -1), grid_hw),)


def dinov2_provider(path: Path) -> Provider:
    """Queries and keys of the last two layers of the DINOv2 base in a folder or file.

    Raises:
        ValueError: if there is none, naming what is missing.
    """
    dinov2 = Dino(read_dino(path, network_config(DINOV2_NAME, "dinov2")).eval().requires_grad_(False))

    def heads(world: World, frame: Tensor, params: NerveParams, grid_hw: tuple[int, int]) -> Heads:
        enlarged_hw = (grid_hw[0] * DINOV2_TOKEN_PX, grid_hw[1] * DINOV2_TOKEN_PX)
        pixels = functional.interpolate(frame.permute(2, 0, 1)[None].float(), size=enlarged_hw, mode="bilinear")
        enlarged = pixels[0].permute(1, 2, 0).round().to(torch.uint8)
        _, layers = dinov2.observe(enlarged, replace(params, size_hw=enlarged_hw, layers=DINOV2_LAYERS))
        return layers

    return heads


def resized_heads(layer: LayerHeads, grid_hw: tuple[int, int]) -> LayerHeads:
    """Queries and keys on another grid, bilinear."""
    q, k = (_resized(rows, layer.grid_hw, grid_hw) for rows in (layer.q, layer.k))
    return LayerHeads(layer.name, q, k, grid_hw)


def _resized(rows: Tensor, grid_hw: tuple[int, int], to_hw: tuple[int, int]) -> Tensor:
    maps = resize_maps(rows.transpose(1, 2).flatten(0, 1), grid_hw, to_hw)
    return maps.unflatten(0, (len(rows), -1)).transpose(1, 2)
