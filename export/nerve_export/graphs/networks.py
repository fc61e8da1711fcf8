"""The networks as torch modules that export well: dead code cut off, constants folded, precision written in.

They take the reference's layers, for good: what is folded or lowered cannot be used by the reference any more, so a
graph is exported from models of its own. Every constant of a preset is gone from the graph: the time embedding lies in
the biases of convolutions, keys and values of the empty prompt are constants, positions are interpolated beforehand.

Letters as in the method: p tokens, t heads, d width, q tokens with CLS, e width of a tower.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPModel, RadioModel

from nerve_export.graphs.diffusion import SelfAttention, fold_time, install_processors, set_vae_attention
from nerve_export.graphs.lowering import attend, probabilities
from nerve_ref.clip_scores import CLIP_MEAN, CLIP_STD, NEIGHBOURHOOD_STD
from nerve_ref.params import ClipMode, NerveParams
from nerve_ref.providers.dino import (
    DinoModel,
    dino_blocks,
    dino_head_count,
    dino_normalisation,
    dino_rotation,
    turned,
)
from nerve_ref.providers.provider import AffinityProvider, Clip, Dino, StableDiffusion
from nerve_ref.providers.stable_diffusion import fixed_noise
from nerve_runtime.errors import UsageError

FUSION_FLOOR = 1e-12
MASKED_LOGIT = -1e4
LayerMaps: TypeAlias = tuple[Tensor, Tensor, tuple[int, int]]
"""Queries and keys float32 (n,p,d) of one layer, and its grid. Batched networks take frames (b,H,W,3), and what they give
has the axis b in front."""


def scaled_pixels(frame: Tensor, size_hw: tuple[int, int], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Frame uint8 (1,H,W,3) to (1,3,h,w): resized bilinearly without antialias, mean and deviation taken out."""
    pixels = frame.to(torch.float32).permute(0, 3, 1, 2)
    if tuple(pixels.shape[2:]) != size_hw:
        pixels = functional.interpolate(pixels, size=size_hw, mode="bilinear", align_corners=False)
    shift, scale = torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).view(1, 3, 1, 1)
    return pixels * (1 / (255 * scale)) - shift / scale


def split_heads(block: Any, normed: Tensor, *names: str) -> list[Tensor]:
    """Named projections of CLIP's normalised tokens (..., q, e), split into heads (..., n, q, d)."""
    attention = block.self_attn
    projected = [getattr(attention, name)(normed) for name in names]
    return [rows.unflatten(-1, (attention.num_heads, -1)).transpose(-2, -3) for rows in projected]


def merge_heads(block: Any, heads: Tensor) -> Tensor:
    """Heads (..., n, q, d) back to tokens, through the output projection."""
    merged: Tensor = block.self_attn.out_proj(heads.transpose(-2, -3).flatten(-2))
    return merged


class TextTower(nn.Module):
    """Token ids int64 (n,l) to pooled text features (n,d): CLIP's causal tower, read at the first end token."""

    mask: Tensor

    def __init__(self, clip: CLIPModel, *, native: bool) -> None:
        super().__init__()
        text, self.native = clip.text_model, native
        self.embeddings, self.blocks = text.embeddings, text.encoder.layers
        self.norm, self.projection = text.final_layer_norm, clip.text_projection
        self.end, length = text.eos_token_id, clip.config.text_config.max_position_embeddings
        self.register_buffer("mask", torch.full((length, length), MASKED_LOGIT).triu(1))

    def forward(self, token_ids: Tensor) -> Tensor:
        """Embed prompts."""
        hidden = self.embeddings(input_ids=token_ids).float()  # sums of the residual stream are float32
        for block in self.blocks:
            heads = split_heads(block, block.layer_norm1(hidden), "q_proj", "k_proj", "v_proj")
            hidden = hidden + merge_heads(block, attend(*heads, native=self.native, mask=self.mask))
            hidden = hidden + block.mlp(block.layer_norm2(hidden))
        # Published CLIPs name 2 as the end token and mean the highest id: a slip that transformers keeps alive.
        is_end = token_ids if self.end == 2 else (token_ids == self.end)
        place = is_end.to(torch.int32).argmax(1)
        ends = hidden[torch.arange(hidden.shape[0], device=hidden.device), place]
        pooled: Tensor = self.projection(self.norm(ends))
        return pooled.float()


def without_cls(tokens: Tensor) -> Tensor:
    """Tokens (..., q, e) but the first."""
    return tokens[(slice(None),) * (tokens.ndim - 2) + (slice(1, None),)]


class DenseClip(nn.Module):
    """Frame uint8 (1,H,W,3) to unit patch features float32 (p,d): CLIP's vision tower with its last block reread."""

    lowered_buffers = ("first", "positions")
    positions: Tensor
    first: Tensor
    near: Tensor

    def __init__(
        self, clip: CLIPModel, mode: ClipMode, clip_hw: tuple[int, int], *, native: bool, batched: bool = False
    ) -> None:
        super().__init__()
        vision, self.mode, self.native, self.clip_hw = clip.vision_model, mode, native, clip_hw
        self.batched = batched
        patch = clip.config.vision_config.patch_size
        self.grid_hw = (clip_hw[0] // patch, clip_hw[1] // patch)
        self.patches, self.before = vision.embeddings.patch_embedding, vision.pre_layrnorm
        self.blocks, self.last = vision.encoder.layers[:-1], vision.encoder.layers[-1]
        self.after, self.projection = vision.post_layernorm, clip.visual_projection
        positions = _clip_positions(vision.embeddings, clip_hw)
        self.register_buffer("first", vision.embeddings.class_embedding.detach() + positions[:, :1])
        self.register_buffer("positions", positions[:, 1:])
        if mode == "naclip":
            self.register_buffer("near", functional.pad(_gaussian_neighbourhood(self.grid_hw), (1, 0, 1, 0)))

    def forward(self, frame: Tensor) -> Any:
        """Unit features of the patches, row-major."""
        return self.features_and_heads(frame, ())[0]

    def features_and_heads(self, frame: Tensor, numbers: Sequence[int]) -> tuple[Tensor, list[LayerMaps]]:
        """Unit features of the patches, and queries and keys of the patches in the blocks of these numbers."""
        pixels = scaled_pixels(frame, self.clip_hw, CLIP_MEAN, CLIP_STD)
        taken: dict[int, LayerMaps] = {}
        hidden = self.before(self._tokens(pixels)).float()  # (q,e), sums are float32
        total: Tensor | None = None
        for number, block in enumerate(self.blocks):
            query, key, value = split_heads(block, block.layer_norm1(hidden), "q_proj", "k_proj", "v_proj")
            taken[number] = (without_cls(query).float(), without_cls(key).float(), self.grid_hw)
            if self.mode == "early_fusion":  # the one mode that needs probabilities, and so cannot stay one operation
                looks = probabilities(query, key)
                mean = looks.mean(looks.ndim - 3)
                total = mean if total is None else total + mean
                mixed = looks.to(value.dtype) @ value
            else:
                mixed = self._attend(query, key, value)
            hidden = hidden + merge_heads(block, mixed)
            hidden = hidden + block.mlp(block.layer_norm2(hidden))
        query, key = split_heads(self.last, self.last.layer_norm1(hidden), "q_proj", "k_proj")
        taken[len(self.blocks)] = (without_cls(query).float(), without_cls(key).float(), self.grid_hw)
        features = self.projection(self.after(self._last_block(hidden, total)))
        return functional.normalize(features.float(), dim=-1), [taken[number] for number in numbers]

    def _tokens(self, pixels: Tensor) -> Tensor:
        """CLS and patches with their positions (q,e)."""
        if not self.batched:
            patches = self.patches(pixels).flatten(2).transpose(1, 2)[0] + self.positions[0]
            return torch.cat([self.first[0].to(patches.dtype), patches])
        patches = self.patches(pixels).flatten(2).transpose(1, 2) + self.positions
        return torch.cat([self.first.to(patches.dtype).expand(patches.shape[0], -1, -1), patches], dim=1)

    def _attend(self, *heads: Tensor) -> Tensor:
        if self.batched:
            return attend(*heads, native=self.native)
        return attend(*(head[None] for head in heads), native=self.native)[0]

    def _last_block(self, hidden: Tensor, total: Tensor | None) -> Tensor:
        """Patch tokens (p,e) out of the last block, read as the mode says."""
        block, normed = self.last, self.last.layer_norm1(hidden)
        if self.mode == "maskclip":
            values: Tensor = block.self_attn.out_proj(block.self_attn.v_proj(normed))
            return without_cls(values)
        if self.mode == "vanilla":
            heads = split_heads(block, normed, "q_proj", "k_proj", "v_proj")
            hidden = hidden + merge_heads(block, self._attend(*heads))
            return without_cls(hidden + block.mlp(block.layer_norm2(hidden)))
        if self.mode == "naclip":
            key, value = split_heads(block, normed, "k_proj", "v_proj")
            mixed = probabilities(key, key, self.near).to(value.dtype) @ value
            return without_cls(merge_heads(block, mixed))
        if total is None:
            raise UsageError(
                "clip_mode 'early_fusion' needs a CLIP of two vision blocks or more, got one; use 'naclip'"
            )
        (value,) = split_heads(block, normed, "v_proj")
        if self.batched:
            fused = _fusion_matrix(total[:, 1:, 1:])[:, None].to(value.dtype)
        else:
            fused = _fusion_matrix(total[1:, 1:]).to(value.dtype)
        return merge_heads(block, fused @ without_cls(value))


def _clip_positions(embeddings: Any, clip_hw: tuple[int, int]) -> Tensor:
    """Position embeddings (1,q,e) at an input size, CLS first; interpolated where it is not the native one."""
    table = embeddings.position_embedding.weight.detach()[None]
    if clip_hw == (embeddings.image_size, embeddings.image_size):
        return table
    patches = clip_hw[0] // embeddings.patch_size * (clip_hw[1] // embeddings.patch_size)
    interpolated: Tensor = embeddings.interpolate_pos_encoding(
        table.new_zeros(1, patches + 1, table.shape[2]), *clip_hw
    )
    return interpolated.detach()


def _gaussian_neighbourhood(grid_hw: tuple[int, int]) -> Tensor:
    """exp(-distance^2 / (2 std^2)) between all patches (p,p), as outer products of the two axes."""
    axes = []
    for side in grid_hw:
        places = torch.arange(side, dtype=torch.float32)
        axes.append(torch.exp(-((places[:, None] - places[None]) ** 2) / (2 * NEIGHBOURHOOD_STD**2)))
    return torch.kron(axes[0], axes[1])


def _fusion_matrix(attention: Tensor) -> Tensor:
    """Column-normalise, row-normalise, symmetrise, subtract the column mean, clamp at 0, row-normalise (p,p) or (b,p,p)."""
    rows, columns = attention.ndim - 2, attention.ndim - 1
    balanced = attention / attention.sum(rows, keepdim=True)
    balanced = balanced / balanced.sum(columns, keepdim=True)
    turned_over = balanced.transpose(1, 2) if attention.ndim > 2 else balanced.T
    symmetric = (balanced + turned_over) / 2
    above = (symmetric - symmetric.mean(rows, keepdim=True)).clamp_min(0) + FUSION_FLOOR
    return above / above.sum(columns, keepdim=True)


class ClipHeads(DenseClip):
    """Frame uint8 (1,H,W,3) to unit patch features float32 (p,d), and queries and keys of the tower's layers in use."""

    def __init__(self, provider: Clip, params: NerveParams, *, native: bool, batched: bool = False) -> None:
        super().__init__(provider.model, params.clip_mode, params.clip_size_hw, native=native, batched=batched)
        self.numbers = [int(name.rpartition(".")[2]) for name in params.layers]
        self.tap_names = _layer_taps(len(self.numbers))

    def forward(self, frame: Tensor) -> tuple[Tensor, list[LayerMaps]]:
        """One run of the tower gives both."""
        return self.features_and_heads(frame, self.numbers)


class DiffusionHeads(nn.Module):
    """Frame uint8 (1,H,W,3) to the clean latent float32 (1,4,h,w) and queries and keys of the layers in use."""

    noise: Tensor
    context: Tensor

    def __init__(self, provider: StableDiffusion, params: NerveParams, *, native: bool, batched: bool = False) -> None:
        super().__init__()
        self.vae, self.unet, self.timestep = provider.vae, provider.unet, params.timestep
        self.is_tiny_vae = isinstance(self.vae, AutoencoderTiny)
        self._drop_decoder()
        set_vae_attention(self.vae, native=native)
        fold_time(self.unet, params.timestep)
        self.captures = install_processors(self.unet, params.layers, provider.context, native=native, batched=batched)
        channels = self.vae.config.get("block_out_channels") or self.vae.config.encoder_block_out_channels
        factor = 2 ** (len(channels) - 1)
        self.latent_hw = (params.size_hw[0] // factor, params.size_hw[1] // factor)
        shape = (1, self.vae.config.latent_channels, *self.latent_hw)
        abar = provider.alphas_cumprod[params.timestep]
        noise = fixed_noise(shape, params.noise_seed) if params.noise == "fixed" else torch.zeros(shape)
        self.signal = float(abar.sqrt())
        self.register_buffer("noise", (1 - abar).sqrt() * noise)
        self.register_buffer("context", provider.context)
        self.tap_names = ("latent", *_layer_taps(len(self.captures)))

    def _drop_decoder(self) -> None:
        self.vae.decoder = nn.Identity()
        if not self.is_tiny_vae:
            self.vae.post_quant_conv = nn.Identity()

    def latent(self, frame: Tensor) -> Tensor:
        """Posterior mean times the autoencoder's scaling factor."""
        pixels = frame.to(torch.float32).permute(0, 3, 1, 2) / 127.5 - 1
        encoded = self.vae.encode(pixels)
        raw = encoded.latents if self.is_tiny_vae else encoded.latent_dist.mean
        scaled: Tensor = raw.float() * self.vae.config.scaling_factor
        return scaled

    def forward(self, frame: Tensor) -> tuple[Tensor, list[LayerMaps]]:
        """One step of the UNet; all of it behind the last used layer is dead code for the exporter."""
        latent = self.latent(frame)
        self.unet(latent * self.signal + self.noise, self.timestep, encoder_hidden_states=self.context)
        return latent, [(*capture.taken(), self._layer_hw(capture)) for capture in self.captures]

    def _layer_hw(self, capture: SelfAttention) -> tuple[int, int]:
        tokens, layer_hw = capture.taken()[0].shape[-2], self.latent_hw
        while layer_hw[0] * layer_hw[1] > tokens:
            layer_hw = (layer_hw[0] + 1) // 2, (layer_hw[1] + 1) // 2
        return layer_hw


class DinoHeads(nn.Module):
    """Frame uint8 (1,H,W,3) to queries and keys of a DINO's layers in use; it has no latent."""

    lowered_buffers = ("first", "positions", "cosine", "sine")
    first: Tensor
    positions: Tensor
    cosine: Tensor
    sine: Tensor

    def __init__(self, provider: Dino, params: NerveParams, *, native: bool, batched: bool = False) -> None:
        super().__init__()
        model, self.native, self.batched = provider.model, native, batched
        self.grid_hw = provider.grid_hw(params)
        patch = model.config.patch_size
        self.input_hw = (self.grid_hw[0] * patch, self.grid_hw[1] * patch)
        self.numbers = [int(name.rpartition(".")[2]) for name in params.layers]
        self.blocks: Any = dino_blocks(model)[: max(self.numbers) + 1]
        self.patches, self.normalisation = _dino_patches(model), dino_normalisation(model)
        first, positions = _dino_tokens(model.embeddings, self.grid_hw, self.input_hw)
        self.register_buffer("first", first.detach())  # CLS and registers, which come before the patches
        self.register_buffer("positions", positions.detach())
        turn = dino_rotation(model, first.new_empty(1, 3, *self.input_hw))
        self.turns = turn is not None
        for name, table in zip(("cosine", "sine"), turn or (torch.ones(1, 1), torch.zeros(1, 1)), strict=True):
            self.register_buffer(name, table)
        self.tap_names = _layer_taps(len(self.numbers))

    def forward(self, frame: Tensor) -> tuple[None, list[LayerMaps]]:
        """The blocks up to the last named one, whose output nobody reads."""
        pixels = scaled_pixels(frame, self.input_hw, *self.normalisation)
        patches = self.patches(pixels).flatten(2).transpose(1, 2) + self.positions
        first, before = self.first.to(patches.dtype), self.first.shape[1]
        if self.batched:
            first = first.expand(patches.shape[0], -1, -1)
        hidden, taken = torch.cat([first, patches], dim=1).float(), {}  # sums are float32
        for number, block in enumerate(self.blocks):
            attention = block.attention
            projected = [getattr(attention, name)(block.norm1(hidden)) for name in ("q_proj", "k_proj", "v_proj")]
            query, key, value = (
                rows.unflatten(2, (dino_head_count(attention), -1)).transpose(1, 2) for rows in projected
            )
            query, key = self._turned(query), self._turned(key)
            places = (slice(None) if self.batched else 0, slice(None), slice(before, None))
            taken[number] = (query[places].float(), key[places].float(), self.grid_hw)
            mixed = attention.o_proj(attend(query, key, value, native=self.native).transpose(1, 2).flatten(2))
            hidden = hidden + block.layer_scale1(mixed)
            hidden = hidden + block.layer_scale2(block.mlp(block.norm2(hidden)))
        return None, [taken[number] for number in self.numbers]

    def _turned(self, heads: Tensor) -> Tensor:
        """Queries or keys (1,n,q,d), those of patches turned by their places where the network does so (DINOv3)."""
        if not self.turns:
            return heads
        others, patches = heads.split((self.first.shape[1], self.cosine.shape[0]), dim=2)
        turn = (self.cosine.to(heads.dtype), self.sine.to(heads.dtype))
        return torch.cat([others, turned(patches, turn)], dim=2)


def _dino_patches(model: DinoModel) -> nn.Module:
    """The convolution that makes patches into tokens; RADIO has its weights as a product with unfolded patches."""
    if not isinstance(model, RadioModel):
        patches = model.embeddings.patch_embeddings
        return getattr(patches, "projection", patches)
    config, weight = model.config, model.embeddings.patch_projection.weight
    side = config.patch_size
    convolution = nn.Conv2d(config.num_channels, config.hidden_size, side, stride=side, bias=False)
    convolution.weight = nn.Parameter(weight.detach().unflatten(1, (config.num_channels, side, side)), False)
    return convolution


def _dino_tokens(embeddings: Any, grid_hw: tuple[int, int], input_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The tokens before the patches (1,f,e), and what is added to patches for their places, (1,p,e) or zero (1,1,e)."""
    if hasattr(embeddings, "cls_register_token"):  # RADIO's
        table = embeddings._interpolate_position_embedding(grid_hw, embeddings.position_embedding.dtype)
        return embeddings.cls_register_token[None], table
    cls, registers = embeddings.cls_token, getattr(embeddings, "register_tokens", None)
    positions = cls.new_zeros(1, 1, cls.shape[2])
    if hasattr(embeddings, "interpolate_pos_encoding"):
        empty = cls.new_zeros(1, grid_hw[0] * grid_hw[1] + 1, cls.shape[2])
        table = embeddings.interpolate_pos_encoding(empty, *input_hw)
        cls, positions = cls + table[:, :1], table[:, 1:]
    return (cls if registers is None else torch.cat([cls, registers], dim=1)), positions


def provider_heads(
    provider: AffinityProvider, params: NerveParams, *, native: bool, batched: bool = False
) -> DiffusionHeads | DinoHeads | ClipHeads:
    """The network module for whichever provider of affinities the models have.

    Raises:
        UsageError: there is none for this provider.
    """
    if isinstance(provider, StableDiffusion):
        return DiffusionHeads(provider, params, native=native, batched=batched)
    if isinstance(provider, Dino):
        return DinoHeads(provider, params, native=native, batched=batched)
    if isinstance(provider, Clip):
        return ClipHeads(provider, params, native=native, batched=batched)
    raise UsageError(f"{type(provider).__name__} has no graph, expected StableDiffusion, Dino or Clip")


def _layer_taps(layers: int) -> tuple[str, ...]:
    return tuple(f"{name}{index}" for index in range(layers) for name in "qk")
