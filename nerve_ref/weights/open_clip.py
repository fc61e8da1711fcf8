"""CLIPs in the names of OpenCLIP's checkpoints, renamed to those of transformers; the numbers stay the same."""

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

MARK = "visual.transformer.resblocks.0.attn.in_proj_weight"
"""A tensor that every ViT of OpenCLIP has and no network of transformers."""
_WHOLE = {
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
_TURNED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
"""Products that OpenCLIP writes from the right."""
_IN_BLOCKS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)[._](weight|bias)$")
_NOT_NEEDED = ("attn_mask",)


def from_open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in transformers' names, whichever of the two ways they are named in.

    Raises:
        ValueError: an OpenCLIP checkpoint has a tensor that CLIP has no place for.
    """
    if MARK not in tensors:
        return dict(tensors)
    return {
        new: part.contiguous()
        for name, tensor in tensors.items()
        if name not in _NOT_NEEDED
        for new, part in _renamed(name, tensor)
    }


def _renamed(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    if name in _WHOLE:
        yield _WHOLE[name], tensor
        return
    if name in _TURNED:
        yield _TURNED[name], tensor.T
        return
    block = _BLOCK.match(name)
    layer, kind = (block[3], block[4]) if block else ("", "")
    place = f"{'vision' if block and block[1] else 'text'}_model.encoder.layers.{block[2] if block else ''}"
    if layer == "attn.in_proj":
        for projection, part in zip("qkv", tensor.chunk(3), strict=True):
            yield f"{place}.self_attn.{projection}_proj.{kind}", part
    elif layer in _IN_BLOCKS:
        yield f"{place}.{_IN_BLOCKS[layer]}.{kind}", tensor
    else:
        raise ValueError(f"the checkpoint has {name!r}, for which CLIP has no place; it is another kind of network")
