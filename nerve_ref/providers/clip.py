"""CLIP itself says which tokens belong together: queries and keys of its vision tower, so that one network says both.

That one backbone can serve for words and affinity is RADSeg's result (arXiv 2511.19704); which layers are taken is ours.
"""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers import CLIPModel

from nerve_ref.providers.stable_diffusion import LayerHeads
from nerve_ref.weights.architectures import CLIP_LAYER_PREFIX


def clip_heads(
    model: CLIPModel, pixels: Float[Tensor, "1 3 height width"], layers: Sequence[str]
) -> tuple[LayerHeads, ...]:
    """Queries and keys of the named layers over the patches, in the order of the names; CLS is dropped.

    Args:
        model: position embeddings are interpolated where the input is not of its native size.
        pixels: as made by `clip_pixels`, sides multiples of the patch.
        layers: "vision_model.encoder.layers.0" and on.

    Raises:
        ValueError: for a name that is no layer of this tower, listing those that are.
    """
    vision, patch_px = model.vision_model, model.config.vision_config.patch_size
    names = [f"{CLIP_LAYER_PREFIX}{number}" for number in range(len(vision.encoder.layers))]
    for layer in layers:
        if layer not in names:
            raise ValueError(f"no self-attention layer {layer!r} in this CLIP; it has: {', '.join(names)}")
    grid_hw = (pixels.shape[2] // patch_px, pixels.shape[3] // patch_px)
    resized = tuple(pixels.shape[2:]) != (vision.embeddings.image_size,) * 2
    hidden = vision.pre_layrnorm(vision.embeddings(pixels, interpolate_pos_encoding=resized))
    heads: dict[str, LayerHeads] = {}
    for name, block in zip(names, vision.encoder.layers, strict=True):
        if name in layers:
            q, k = (_patch_heads(block, hidden, projection) for projection in ("q_proj", "k_proj"))
            heads[name] = LayerHeads(name, q, k, grid_hw)
        output = block(hidden, None)
        hidden = output[0] if isinstance(output, tuple) else output  # depends on the version of transformers
    return tuple(heads[layer] for layer in layers)


def _patch_heads(block: Any, hidden: Float[Tensor, "1 q e"], projection: str) -> Float[Tensor, "n p d"]:
    attention = block.self_attn
    rows = getattr(attention, projection)(block.layer_norm1(hidden))[0, 1:]
    return rows.unflatten(1, (attention.num_heads, -1)).transpose(0, 1)
