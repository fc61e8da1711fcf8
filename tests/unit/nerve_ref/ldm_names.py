"""Networks of diffusers and transformers under the names of the original Stable Diffusion checkpoints.

Written from the layout of those checkpoints, against which the reading of single files is tested.
"""

import re

import torch
from torch import Tensor

Tensors = dict[str, Tensor]

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "conv_in.": "input_blocks.0.0.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
}
_MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def original_unet(tensors: Tensors, layers_per_block: int, with_attention: tuple[bool, ...]) -> Tensors:
    """A UNet's tensors; `with_attention` says of each block on the way up whether it has attention."""
    return {f"model.diffusion_model.{_unet(name, layers_per_block, with_attention)}": t for name, t in tensors.items()}


def _unet(name: str, per_block: int, with_attention: tuple[bool, ...]) -> str:
    for start, original in _UNET_ENDS.items():
        if name.startswith(start):
            return original + name.removeprefix(start)
    block, _, rest = name.partition(".")
    if block == "mid_block":
        part, inner = re.fullmatch(r"(\w+\.\d)\.(.*)", rest).groups()  # type: ignore[union-attr]  # a test's own input
        return f"middle_block.{_MIDDLE[part]}.{_resnet(part, inner)}"
    level, part, index, inner = re.fullmatch(r"(\d)\.(\w+)\.(\d)\.(.*)", rest).groups()  # type: ignore[union-attr]
    first = int(level) * (per_block + 1)
    if block == "down_blocks":
        if part == "downsamplers":
            return f"input_blocks.{1 + first + per_block}.0.op.{inner.removeprefix('conv.')}"
        return f"input_blocks.{1 + first + int(index)}.{int(part == 'attentions')}.{_resnet(part, inner)}"
    if part == "upsamplers":
        return f"output_blocks.{first + per_block}.{1 + with_attention[int(level)]}.{inner}"
    return f"output_blocks.{first + int(index)}.{int(part == 'attentions')}.{_resnet(part, inner)}"


def _resnet(part: str, inner: str) -> str:
    name, dot, last = inner.rpartition(".")
    return f"{_RESNET[name]}{dot}{last}" if part.startswith("resnets") else inner


def original_autoencoder(tensors: Tensors, levels: int) -> Tensors:
    """An autoencoder's tensors; its attention is stored as convolutions of one pixel."""
    return {f"first_stage_model.{_vae(name, levels)}": _as_convolution(name, t) for name, t in tensors.items()}


def _as_convolution(name: str, tensor: Tensor) -> Tensor:
    return tensor[..., None, None] if ".attentions." in name and tensor.ndim == 2 else tensor


def _vae(name: str, levels: int) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.", lambda found: f"up.{levels - 1 - int(found[1])}.block.", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda found: f"up.{levels - 1 - int(found[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    for new, old in _VAE_ATTENTION.items():
        name = name.replace(f"mid_block.attentions.0.{new}.", f"mid.attn_1.{old}.")
    return name


def original_text_encoder(tensors: Tensors) -> Tensors:
    """A text encoder's tensors as Stable Diffusion 1 keeps them."""
    return {f"cond_stage_model.transformer.text_model.{_bare(name)}": tensor for name, tensor in tensors.items()}


def original_open_clip(tensors: Tensors, layers: int) -> Tensors:
    """A text encoder's tensors as Stable Diffusion 2 keeps them: OpenCLIP's names, one matrix for Q, K and V."""
    bare = {_bare(name): tensor for name, tensor in tensors.items()}
    named = {
        "token_embedding.weight": bare["embeddings.token_embedding.weight"],
        "positional_embedding": bare["embeddings.position_embedding.weight"],
        "ln_final.weight": bare["final_layer_norm.weight"],
        "ln_final.bias": bare["final_layer_norm.bias"],
    }
    parts = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for index in range(layers):
        ours, theirs = f"encoder.layers.{index}", f"transformer.resblocks.{index}"
        for kind in ("weight", "bias"):
            for their, our in {**parts, "attn.out_proj": "self_attn.out_proj"}.items():
                named[f"{theirs}.{their}.{kind}"] = bare[f"{ours}.{our}.{kind}"]
            split = [bare[f"{ours}.self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
            named[f"{theirs}.attn.in_proj_{kind}"] = torch.cat(split)
    width = len(named["ln_final.bias"])
    named["text_projection"] = torch.zeros(width, width)
    return {f"cond_stage_model.model.{name}": tensor for name, tensor in named.items()}


def _bare(name: str) -> str:
    return name.removeprefix("text_model.")
