"""CLIP says what: dense image features, and seed scores G by comparison with text (method, section 3; E1)."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel

from nerve_ref.grids import Scalar
from nerve_ref.params import ClipMode

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Per channel, red green blue, for pixels in 0..1; published with CLIP."""
NEIGHBOURHOOD_STD = 5.0
"""Width in tokens of the Gaussian that `naclip` adds to its attention logits (peer)."""
FUSION_FLOOR = 1e-12
"""Added before the last normalisation of `early_fusion`: a row in which nothing exceeds the mean becomes uniform."""


def clip_pixels(frame: UInt8[Tensor, "H W 3"], size_hw: tuple[int, int]) -> Float[Tensor, "1 3 h w"]:
    """Make CLIP's input from an RGB frame: 0..1, resized bilinearly without antialias, CLIP's mean and deviation.

    The resize is the one that graphs can express; the frame comes at working size, so little is lost without antialias.
    """
    pixels = frame.permute(2, 0, 1)[None].float() / 255
    if pixels.shape[2:] != size_hw:
        pixels = functional.interpolate(pixels, size=size_hw, mode="bilinear", align_corners=False)
    mean = torch.tensor(CLIP_MEAN).view(1, 3, 1, 1)
    return (pixels - mean) / torch.tensor(CLIP_STD).view(1, 3, 1, 1)


def dense_features(model: CLIPModel, pixels: Float[Tensor, "1 3 H W"], mode: ClipMode) -> Float[Tensor, "hc wc d"]:
    """Unit feature vectors of CLIP's patches, in the space of its text embeddings.

    Args:
        model: CLIP; position embeddings are interpolated where the input is not of its native size.
        pixels: as made by `clip_pixels`, sides multiples of the patch.
        mode: how the last block is read; see `params.ClipMode` and the functions below.

    Raises:
        ValueError: if the sides are not multiples of the patch, or the mode is unknown.
    """
    grid_hw = _patch_grid_hw(model, pixels)
    hidden, earlier = _before_last_block(model, pixels, with_attention=mode == "early_fusion")
    last = model.vision_model.encoder.layers[-1]
    if mode == "vanilla":
        dense = _hidden(last(hidden, None))[:, 1:]
    elif mode == "maskclip":
        dense = last.self_attn.out_proj(last.self_attn.v_proj(last.layer_norm1(hidden)))[:, 1:]
    elif mode == "naclip":
        dense = _neighbourhood_attention(last, hidden, grid_hw)
    elif mode == "early_fusion":
        dense = _fused_attention(last, hidden, earlier)
    else:
        raise ValueError(f"clip_mode is {mode!r}, expected early_fusion, naclip, maskclip or vanilla")
    projected = model.visual_projection(model.vision_model.post_layernorm(dense))
    return functional.normalize(projected, dim=-1)[0].unflatten(0, grid_hw)


def _patch_grid_hw(model: CLIPModel, pixels: Float[Tensor, "1 3 H W"]) -> tuple[int, int]:
    patch = model.config.vision_config.patch_size
    height, width = pixels.shape[2:]
    if height % patch or width % patch:
        raise ValueError(f"CLIP's input is {height} x {width} pixels, expected multiples of its patch of {patch}")
    return height // patch, width // patch


def _before_last_block(
    model: CLIPModel, pixels: Float[Tensor, "1 3 H W"], with_attention: bool
) -> tuple[Float[Tensor, "1 q e"], Float[Tensor, "q q"] | None]:
    """Run all blocks but the last; on request also sum their softmax attention, averaged over heads."""
    vision = model.vision_model
    native = vision.embeddings.image_size
    resized = tuple(pixels.shape[2:]) != (native, native)
    hidden = vision.pre_layrnorm(vision.embeddings(pixels, interpolate_pos_encoding=resized))
    total = None
    for layer in vision.encoder.layers[:-1]:
        if with_attention:
            queries, keys = _split_heads(layer, hidden, "q_proj", "k_proj")
            attention = torch.softmax(queries @ keys.transpose(1, 2) * layer.self_attn.scale, dim=-1).mean(0)
            total = attention if total is None else total + attention
        hidden = _hidden(layer(hidden, None))
    return hidden, total


def _neighbourhood_attention(
    block: Any, hidden: Float[Tensor, "1 q e"], grid_hw: tuple[int, int]
) -> Float[Tensor, "1 p e"]:
    """`naclip`: softmax(K K^T * scale + Gaussian of the distance) V, attention output only.

    The CLS token stays among the keys and gets no Gaussian; its own row is dropped.
    """
    keys, values = _split_heads(block, hidden, "k_proj", "v_proj")
    logits = keys @ keys.transpose(1, 2) * block.self_attn.scale
    near = functional.pad(_gaussian_neighbourhood(grid_hw), (1, 0, 1, 0))
    mixed = torch.softmax(logits + near, dim=-1) @ values
    return block.self_attn.out_proj(mixed.transpose(0, 1).flatten(1))[None, 1:]


def _gaussian_neighbourhood(grid_hw: tuple[int, int]) -> Float[Tensor, "p p"]:
    """exp(-distance^2 / (2 std^2)) between all pairs of tokens, distances in tokens."""
    ys, xs = torch.meshgrid(torch.arange(grid_hw[0]), torch.arange(grid_hw[1]), indexing="ij")
    positions = torch.stack([ys.flatten(), xs.flatten()], dim=1).float()
    squared = (positions[:, None] - positions[None]).square().sum(-1)
    return torch.exp(-squared / (2 * NEIGHBOURHOOD_STD**2))


def _fused_attention(
    block: Any, hidden: Float[Tensor, "1 q e"], earlier: Float[Tensor, "q q"] | None
) -> Float[Tensor, "1 p e"]:
    """`early_fusion`: the blocks before the last decide which token attends to which, attention output only.

    CLS is left out of the matrix, on both sides: it carries the whole picture, and a dense feature should not (ours).

    Raises:
        ValueError: if CLIP has one block only.
    """
    if earlier is None:
        raise ValueError("clip_mode 'early_fusion' needs a CLIP of two vision blocks or more, got one; use 'naclip'")
    (values,) = _split_heads(block, hidden, "v_proj")
    mixed = _fusion_matrix(earlier[1:, 1:]) @ values[:, 1:]
    return block.self_attn.out_proj(mixed.transpose(0, 1).flatten(1))[None]


def _fusion_matrix(attention: Float[Tensor, "p p"]) -> Float[Tensor, "p p"]:
    """Column-normalise, row-normalise, symmetrise, subtract the column mean, clamp at 0, row-normalise (peer)."""
    balanced = attention / attention.sum(0, keepdim=True)
    balanced = balanced / balanced.sum(1, keepdim=True)
    symmetric = (balanced + balanced.T) / 2
    above_mean = (symmetric - symmetric.mean(0, keepdim=True)).clamp_min(0) + FUSION_FLOOR
    return above_mean / above_mean.sum(1, keepdim=True)


def _split_heads(block: Any, hidden: Float[Tensor, "1 q e"], *names: str) -> list[Float[Tensor, "n q d"]]:
    """The block's named projections of its normalised input, split into heads."""
    attention, normed = block.self_attn, block.layer_norm1(hidden)[0]
    projected = [getattr(attention, name)(normed) for name in names]
    return [rows.unflatten(1, (attention.num_heads, -1)).transpose(0, 1) for rows in projected]


def _hidden(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Transformers returns a block's output bare or in a tuple, depending on its version."""
    return output[0] if isinstance(output, tuple) else output


def seed_scores(
    features: Float[Tensor, "hc wc d"],
    embeddings: Float[Tensor, "r d"],
    class_rows: Int[Tensor, "c k"],
    class_mask: Bool[Tensor, " c"],
    tau: Scalar,
    grid_hw: tuple[int, int],
) -> Float[Tensor, "c p"]:
    """Seed scores G: for each token a distribution over the classes in use.

    The method takes a softmax over all rows, then the maximum over the rows of a class, then renormalises. The
    softmax's denominator cancels in the last step, so the maximum is taken on the logits here: the same numbers,
    and no 0 / 0 where the rows of unused slots outshine all others.

    Args:
        features: unit vectors from `dense_features`.
        embeddings: unit vectors from `text_embeddings`.
        class_rows: rows of each class.
        class_mask: classes in use, at least one; the others get exactly 0.
        tau: factor on the cosines.
        grid_hw: token grid; logits are resized to it bilinearly (align_corners False).

    Source: E1.
    """
    logits = (tau * (features @ embeddings.T)).permute(2, 0, 1)[None]
    logits = functional.interpolate(logits, size=grid_hw, mode="bilinear", align_corners=False)[0].flatten(1)
    best = logits[class_rows].amax(1)
    return torch.softmax(best.masked_fill(~class_mask[:, None], -torch.inf), dim=0)
