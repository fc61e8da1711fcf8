"""What Stable Diffusion's networks need to export well: time folded into biases, and attention processors of ours."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nerve_export.graphs.lowering import attend
from nerve_runtime.errors import UsageError


class _NoTimeEmbedding(nn.Module):
    def forward(self, *_given: Any) -> None:
        """Nothing: the embedding of the one timestep lies in the biases."""


def fold_time(unet: Any, timestep: int) -> None:
    """Fold the time embedding of one timestep into the biases of the convolutions that it was added behind.

    Raises:
        UsageError: a residual block uses the embedding in another way than adding it.
    """
    with torch.no_grad():
        embedded = unet.time_embedding(unet.time_proj(torch.tensor([timestep])))
        for name, block in unet.named_modules():
            if getattr(block, "time_emb_proj", None) is None:
                continue
            if block.time_embedding_norm != "default" or block.skip_time_act:
                raise UsageError(
                    f"UNet block {name} does not add its time embedding; only Stable Diffusion's blocks export"
                )
            block.conv1.bias.add_(block.time_emb_proj(block.nonlinearity(embedded))[0])
            block.time_emb_proj = None
    unet.time_embedding = _NoTimeEmbedding()


class SelfAttention:
    """Attention processor for plain self-attention that may keep its queries and keys for the method."""

    def __init__(self, *, native: bool, batched: bool) -> None:
        self.native, self.batched = native, batched
        self.kept: tuple[Tensor, Tensor] | None = None

    def __call__(self, attn: Any, hidden_states: Tensor, *_others: Any, **_named: Any) -> Tensor:
        """Attend as the layer always does."""
        query, key, value = (
            projection(hidden_states).unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for projection in (attn.to_q, attn.to_k, attn.to_v)
        )
        self.kept = (query.float(), key.float()) if self.batched else (query[0].float(), key[0].float())
        mixed: Tensor = attn.to_out[0](attend(query, key, value, native=self.native).transpose(1, 2).flatten(2))
        return mixed

    def taken(self) -> tuple[Tensor, Tensor]:
        """Queries and keys float32 (n,p,d) of the last call, (b,n,p,d) where it is batched.

        Raises:
            UsageError: the layer never ran.
        """
        if self.kept is None:
            raise UsageError("the UNet never ran a layer that was named; name layers that its forward pass uses")
        return self.kept


class FixedContext(nn.Module):
    """Attention processor for cross-attention to one constant prompt, whose keys and values are computed once."""

    lowered_buffers = ("key", "value")
    key: Tensor
    value: Tensor

    def __init__(self, attn: Any, context: Tensor, *, native: bool, batched: bool) -> None:
        super().__init__()
        self.native, self.batched = native, batched
        with torch.no_grad():
            for name, projection in (("key", attn.to_k), ("value", attn.to_v)):
                self.register_buffer(name, projection(context).unflatten(2, (attn.heads, -1)).transpose(1, 2))
        attn.to_k = attn.to_v = nn.Identity()

    def forward(self, attn: Any, hidden_states: Tensor, *_others: Any, **_named: Any) -> Tensor:
        """Attend to the constant prompt."""
        if self.batched:  # the tokens of all frames see the same keys, so they are those of one
            shape = hidden_states.shape[1:]
            hidden_states = hidden_states.reshape(1, -1, shape[1])
        query = attn.to_q(hidden_states).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        key, value = self.key.to(query.dtype), self.value.to(query.dtype)
        mixed: Tensor = attn.to_out[0](attend(query, key, value, native=self.native).transpose(1, 2).flatten(2))
        return mixed.reshape(-1, *shape) if self.batched else mixed


def install_processors(
    unet: Any, layers: Sequence[str], context: Tensor, *, native: bool, batched: bool = False
) -> list[SelfAttention]:
    """Give every attention of the UNet a processor of ours; returns those of the named layers, in that order."""
    own: dict[str, SelfAttention] = {}
    for name, attn in unet.named_modules():
        if name.endswith("attn1"):
            own[name] = SelfAttention(native=native, batched=batched)
            attn.processor = own[name]
        elif name.endswith("attn2"):
            attn.processor = FixedContext(attn, context, native=native, batched=batched)
    return [own[name] for layer in layers for name in own if name.startswith(f"{layer}.transformer_blocks.")]


class ImageAttention:
    """Attention processor for the autoencoder's attention over pixels (1,e,h,w), with its norm and residual."""

    def __init__(self, *, native: bool) -> None:
        self.native = native

    def __call__(self, attn: Any, hidden_states: Tensor, temb: Tensor | None = None, **_named: Any) -> Tensor:
        """Attend as the layer always does; diffusers looks for an argument called `temb`, always None here."""
        tokens = attn.group_norm(hidden_states.flatten(2)).transpose(1, 2)
        heads = (
            projection(tokens).unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for projection in (attn.to_q, attn.to_k, attn.to_v)
        )
        mixed = attn.to_out[0](attend(*heads, native=self.native).transpose(1, 2).flatten(2))
        summed: Tensor = mixed.transpose(1, 2).unflatten(2, hidden_states.shape[2:]) + hidden_states
        return summed / attn.rescale_output_factor


def set_vae_attention(vae: Any, *, native: bool) -> None:
    """Give every attention over pixels of an autoencoder a processor of ours."""
    for _, attn in vae.named_modules():
        if hasattr(attn, "set_processor") and getattr(attn, "group_norm", None) is not None:
            attn.processor = ImageAttention(native=native)
