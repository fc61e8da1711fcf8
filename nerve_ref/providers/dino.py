"""DINOv2 says which tokens belong together: queries and keys of its last layers (method, section 10: another backbone)."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional
from transformers import Dinov2Model

from nerve_ref.providers.stable_diffusion import LayerHeads

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Per channel, red green blue, for pixels in 0..1; DINOv2 was trained with them."""
LAYER_PREFIX = "encoder.layer."


def dino_pixels(
    frame: UInt8[Tensor, "H W 3"], grid_hw: tuple[int, int], patch_px: int
) -> Float[Tensor, "1 3 height width"]:
    """Make DINOv2's input: one patch per token of the grid, resized bilinearly without antialias, as graphs can."""
    pixels = frame.permute(2, 0, 1)[None].float() / 255
    size_hw = (grid_hw[0] * patch_px, grid_hw[1] * patch_px)
    if tuple(pixels.shape[2:]) != size_hw:
        pixels = functional.interpolate(pixels, size=size_hw, mode="bilinear", align_corners=False)
    return (pixels - torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)) / torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)


def dino_heads(
    model: Dinov2Model,
    pixels: Float[Tensor, "1 3 height width"],
    layers: Sequence[str],
    grid_hw: tuple[int, int],
) -> tuple[LayerHeads, ...]:
    """Queries and keys of the named layers, in the order of the names; blocks behind the last of them do not run.

    Tokens that are no patches (CLS, registers) come first in the sequence and are dropped.

    Args:
        model: position embeddings are interpolated where the input is not of its native size.
        pixels: as made by `dino_pixels`.
        layers: "encoder.layer.0" and on.
        grid_hw: patches in the input.

    Raises:
        ValueError: for a name that is no layer of this model, listing those that are.
    """
    numbers = [_layer_number(model, layer) for layer in layers]
    hidden = model.embeddings(pixels)
    heads: dict[int, LayerHeads] = {}
    for number, block in enumerate(model.encoder.layer[: max(numbers) + 1]):
        if number in numbers:
            q, k = (_patch_heads(block, hidden, name, grid_hw) for name in ("q_proj", "k_proj"))
            heads[number] = LayerHeads(f"{LAYER_PREFIX}{number}", q, k, grid_hw)
        if number < max(numbers):
            hidden = block(hidden)
    return tuple(heads[number] for number in numbers)


def _layer_number(model: Dinov2Model, layer: str) -> int:
    names = [f"{LAYER_PREFIX}{number}" for number in range(len(model.encoder.layer))]
    if layer not in names:
        raise ValueError(f"no self-attention layer {layer!r} in this DINOv2; it has: {', '.join(names)}")
    return names.index(layer)


def _patch_heads(
    block: Any, hidden: Float[Tensor, "1 q e"], projection: str, grid_hw: tuple[int, int]
) -> Float[Tensor, "n p d"]:
    attention = block.attention
    rows = getattr(attention, projection)(block.norm1(hidden))[0, -grid_hw[0] * grid_hw[1] :]
    return rows.unflatten(1, (attention.num_attention_heads, -1)).transpose(0, 1)
