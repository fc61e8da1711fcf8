"""A DINO says which tokens belong together: queries and keys of its last layers (method, section 10: another backbone).

DINOv2, with registers or without, DINOv3 of the ViT kind, and RADIO, whose blocks are those of DINOv2. DINOv3 turns
queries and keys by the places of their patches (RoPE) before it compares them; they are taken as it compares them.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional
from transformers import Dinov2Model, Dinov2WithRegistersModel, DINOv3ViTModel, RadioModel

from nerve_ref.providers.stable_diffusion import LayerHeads
from nerve_ref.weights.architectures import dino_layer_prefix

Rotation: TypeAlias = tuple[Float[Tensor, "p d"], Float[Tensor, "p d"]]
DinoModel: TypeAlias = Dinov2Model | Dinov2WithRegistersModel | DINOv3ViTModel | RadioModel

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Per channel, red green blue, for pixels in 0..1; every DINO but RADIO was trained with them."""


def dino_normalisation(model: DinoModel) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation per channel of a DINO's input: ImageNet's, or those in RADIO's configuration."""
    if isinstance(model, RadioModel):
        return model.config.norm_mean, model.config.norm_std
    return IMAGENET_MEAN, IMAGENET_STD


def dino_pixels(
    frame: UInt8[Tensor, "H W 3"],
    grid_hw: tuple[int, int],
    patch_px: int,
    normalisation: tuple[Sequence[float], Sequence[float]] = (IMAGENET_MEAN, IMAGENET_STD),
) -> Float[Tensor, "1 3 height width"]:
    """Make a DINO's input: one patch per token of the grid, resized bilinearly without antialias, as graphs can."""
    pixels = frame.permute(2, 0, 1)[None].float() / 255
    size_hw = (grid_hw[0] * patch_px, grid_hw[1] * patch_px)
    if tuple(pixels.shape[2:]) != size_hw:
        pixels = functional.interpolate(pixels, size=size_hw, mode="bilinear", align_corners=False)
    mean, deviation = (torch.tensor(channels).view(1, 3, 1, 1) for channels in normalisation)
    return (pixels - mean) / deviation


def dino_heads(
    model: DinoModel,
    pixels: Float[Tensor, "1 3 height width"],
    layers: Sequence[str],
    grid_hw: tuple[int, int],
) -> tuple[LayerHeads, ...]:
    """Queries and keys of the named layers, in the order of the names; blocks behind the last of them do not run.

    Tokens that are no patches (CLS, registers) come first in the sequence and are dropped.

    Args:
        model: position embeddings are interpolated where the input is not of its native size.
        pixels: as made by `dino_pixels`.
        layers: "encoder.layer.0" and on; of DINOv3 "model.layer.0" and on.
        grid_hw: patches in the input.

    Raises:
        ValueError: for a name that is no layer of this model, listing those that are.
    """
    blocks = dino_blocks(model)
    prefix = dino_layer_prefix(model.config.to_dict())
    numbers = [_layer_number(layer, [f"{prefix}{number}" for number in range(len(blocks))]) for layer in layers]
    hidden, turn = model.embeddings(pixels), dino_rotation(model, pixels)
    heads: dict[int, LayerHeads] = {}
    for number, block in enumerate(blocks[: max(numbers) + 1]):
        if number in numbers:
            q, k = (_patch_heads(block, hidden, name, grid_hw, turn) for name in ("q_proj", "k_proj"))
            heads[number] = LayerHeads(f"{prefix}{number}", q, k, grid_hw)
        if number < max(numbers):
            hidden = block(hidden) if turn is None else block(hidden, position_embeddings=turn)
    return tuple(heads[number] for number in numbers)


def dino_blocks(model: DinoModel) -> nn.ModuleList:
    """The transformer blocks of a DINO, in the order in which they run."""
    return model.model.layer if isinstance(model, DINOv3ViTModel) else model.encoder.layer


def dino_rotation(model: DinoModel, pixels: Float[Tensor, "1 3 height width"]) -> Rotation | None:
    """Cosine and sine (p, d) by which DINOv3 turns the queries and keys of patches; None for DINOv2, which does not."""
    return model.rope_embeddings(pixels) if isinstance(model, DINOv3ViTModel) else None


def _layer_number(layer: str, names: Sequence[str]) -> int:
    if layer not in names:
        raise ValueError(f"no self-attention layer {layer!r} in this DINO; it has: {', '.join(names)}")
    return names.index(layer)


def _patch_heads(
    block: Any, hidden: Float[Tensor, "1 q e"], projection: str, grid_hw: tuple[int, int], turn: Rotation | None
) -> Float[Tensor, "n p d"]:
    attention = block.attention
    rows = getattr(attention, projection)(block.norm1(hidden))[0, -grid_hw[0] * grid_hw[1] :]
    heads = rows.unflatten(1, (dino_head_count(attention), -1)).transpose(0, 1)
    return heads if turn is None else turned(heads, turn)


def dino_head_count(attention: Any) -> int:
    """Heads of a block's attention, which DINOv2 and DINOv3 call differently."""
    return int(attention.num_heads if hasattr(attention, "num_heads") else attention.num_attention_heads)


def turned(heads: Float[Tensor, "*n p d"], turn: Rotation) -> Float[Tensor, "*n p d"]:
    """Queries or keys of patches turned by their places: component i with component i + d / 2, as DINOv3 pairs them."""
    cosine, sine = turn
    first, second = heads.chunk(2, dim=-1)
    return heads * cosine + torch.cat([-second, first], dim=-1) * sine
