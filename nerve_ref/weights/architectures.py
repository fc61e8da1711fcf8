"""What the networks are: their true configurations as plain values, and the shapes that follow; imports no torch.

Names of networks are those of their publishers' repositories, without the owner; "tiny" is the packaged set.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nerve_ref.params import NerveParams
from nerve_ref.weights.errors import WeightError

TINY = "tiny"
TINY_FOLDER = Path(__file__).parents[1] / "models" / "tiny"
DINOV2_GRID_PX = 16
"""Working pixels under one token of DINOv2: 512 px give 32 x 32 tokens, whatever the patch of the network (ours)."""


@dataclass(frozen=True, slots=True)
class Backbones:
    """Which networks a variant uses.

    Attributes:
        clip: the network that compares pictures with text, e.g. "clip-vit-large-patch14-336".
        affinity: the network whose queries and keys say what belongs together, e.g. "stable-diffusion-2-1-base".
        vae: an autoencoder instead of Stable Diffusion's, e.g. "taesd"; None for Stable Diffusion's, and for DINOv2.
    """

    clip: str
    affinity: str
    vae: str | None = None


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One self-attention layer, by arithmetic on the configuration alone.

    Attributes:
        name: as in `LayerHeads.name`, e.g. "up_blocks.3.attentions.0.transformer_blocks.0".
        heads: how many.
        width: length of each head's queries and keys.
        grid_hw: token grid.
    """

    name: str
    heads: int
    width: int
    grid_hw: tuple[int, int]


def packaged_tiny() -> Path:
    """The folder of the tiny models.

    Raises:
        WeightError: this installation does not carry them.
    """
    if not (TINY_FOLDER / "unet" / "config.json").is_file():
        raise WeightError("the tiny models are not in this checkout; make them: nerve-bench train-tiny")
    return TINY_FOLDER


def _clip(text: dict[str, int], vision: dict[str, int], projection_dim: int) -> dict[str, Any]:
    """OpenAI's CLIP; widths are `hidden_size`, and MLPs are four times as wide."""
    text_config = {
        "vocab_size": 49408,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 49407,
        "intermediate_size": 4 * text["hidden_size"],
        "projection_dim": projection_dim,
        **text,
    }
    vision_config = {
        "hidden_act": "quick_gelu",
        "intermediate_size": 4 * vision["hidden_size"],
        "projection_dim": projection_dim,
        **vision,
    }
    return {"text_config": text_config, "vision_config": vision_config, "projection_dim": projection_dim}


def _clip_large(image_size: int) -> dict[str, Any]:
    text = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
    vision = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14}
    return _clip(text, {**vision, "image_size": image_size}, projection_dim=768)


def _clip_base() -> dict[str, Any]:
    text = {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8}
    vision = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 16}
    return _clip(text, {**vision, "image_size": 224}, projection_dim=512)


def _stable_diffusion_unet(**differences: Any) -> dict[str, Any]:
    """Four levels, two blocks each on the way down and three on the way up; no attention on the coarsest.

    diffusers' `attention_head_dim` is the number of heads, not their width.
    """
    return {
        "sample_size": 64,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "transformer_layers_per_block": 1,
        **differences,
    }


def _stable_diffusion_vae() -> dict[str, Any]:
    return {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "latent_channels": 4,
        "norm_num_groups": 32,
        "sample_size": 512,
        "scaling_factor": 0.18215,
    }


def _text_encoder(
    hidden_size: int, num_hidden_layers: int, num_attention_heads: int, hidden_act: str
) -> dict[str, Any]:
    return {
        "vocab_size": 49408,
        "max_position_embeddings": 77,
        "hidden_size": hidden_size,
        "intermediate_size": 4 * hidden_size,
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": num_attention_heads,
        "hidden_act": hidden_act,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
    }


SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}
"""Noise schedule of Stable Diffusion, all versions before SDXL."""

CONFIGS: dict[str, dict[str, Any]] = {
    "clip-vit-large-patch14-336": {"clip": _clip_large(336)},
    "clip-vit-large-patch14": {"clip": _clip_large(224)},
    "clip-vit-base-patch16": {"clip": _clip_base()},
    "stable-diffusion-2-1-base": {
        "unet": _stable_diffusion_unet(
            cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True
        ),
        "vae": _stable_diffusion_vae(),
        "scheduler": SCHEDULE,
        "text_encoder": _text_encoder(1024, 23, 16, "gelu"),
        "empty_prompt": {"start": 49406, "end": 49407, "pad": 0},
    },
    "stable-diffusion-v1-5": {
        "unet": _stable_diffusion_unet(cross_attention_dim=768, attention_head_dim=8, use_linear_projection=False),
        "vae": _stable_diffusion_vae(),
        "scheduler": SCHEDULE,
        "text_encoder": _text_encoder(768, 12, 12, "quick_gelu"),
        "empty_prompt": {"start": 49406, "end": 49407, "pad": 49407},
    },
    "taesd": {
        "vae": {
            "in_channels": 3,
            "out_channels": 3,
            "encoder_block_out_channels": [64, 64, 64, 64],
            "decoder_block_out_channels": [64, 64, 64, 64],
            "num_encoder_blocks": [1, 3, 3, 3],
            "num_decoder_blocks": [3, 3, 3, 1],
            "latent_channels": 4,
            "scaling_factor": 1.0,
        }
    },
    "dinov2-base": {
        "dinov2": {
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "mlp_ratio": 4,
            "image_size": 518,
            "patch_size": 14,
            "layer_norm_eps": 1e-6,
        }
    },
}
"""Per network and role what transformers' or diffusers' config.json holds, as far as it is not their default.

`empty_prompt` holds the token ids of "" under the pipeline's own tokenizer: start, end, and padding to the full length.
"""


def network_config(name: str, role: str) -> dict[str, Any]:
    """Configuration of a network in a role: "clip", "unet", "vae", "scheduler", "text_encoder" or "dinov2".

    Raises:
        ValueError: if no network of this name plays that role, listing those that do.
    """
    if name == TINY and (TINY_FOLDER / role).is_dir():
        (path,) = [path for path in (TINY_FOLDER / role).glob("*config.json") if "token" not in path.name]
        return json.loads(path.read_text(encoding="utf-8"))
    if role not in CONFIGS.get(name, {}):
        known = [network for network, roles in CONFIGS.items() if role in roles]
        raise ValueError(f"{name!r} is no network with a {role}; expected one of: {', '.join([TINY, *known])}")
    return CONFIGS[name][role]


def clip_patch_px(name: str) -> int:
    """Side of a patch of CLIP's vision tower in pixels; its input's sides are multiples of it."""
    return int(network_config(name, "clip")["vision_config"]["patch_size"])


def text_width(name: str) -> int:
    """Length of CLIP's text embeddings."""
    return int(network_config(name, "clip")["projection_dim"])


def context_length(name: str) -> int:
    """Tokens that CLIP's text tower reads: 77, less for the tiny models."""
    return int(network_config(name, "clip")["text_config"]["max_position_embeddings"])


def is_dinov2(backbones: Backbones) -> bool:
    """Whether the affinity comes from DINOv2 rather than Stable Diffusion."""
    return "dinov2" in CONFIGS.get(backbones.affinity, {})


def layer_shapes(backbones: Backbones, params: NerveParams) -> tuple[LayerShape, ...]:
    """Heads, head width and token grid of every layer in `params.layers`, in their order, without opening a network.

    Raises:
        ValueError: for a network that is not known or a layer that it does not have, listing those that exist.
    """
    if is_dinov2(backbones):
        layers = {name: [shape] for name, shape in _dinov2_layers(backbones.affinity, params.size_hw)}
    else:
        layers = dict(_unet_layers(backbones, params.size_hw))
    for layer in params.layers:
        if layer not in layers:
            raise ValueError(
                f"no self-attention layer {layer!r} in {backbones.affinity}; it has: {', '.join(sorted(layers))}"
            )
    return tuple(shape for layer in params.layers for shape in layers[layer])


def dinov2_grid_hw(size_hw: tuple[int, int]) -> tuple[int, int]:
    """Token grid of DINOv2 for a working size: one token per 16 x 16 pixels."""
    return size_hw[0] // DINOV2_GRID_PX, size_hw[1] // DINOV2_GRID_PX


def _dinov2_layers(name: str, size_hw: tuple[int, int]) -> Iterator[tuple[str, LayerShape]]:
    config = network_config(name, "dinov2")
    heads = int(config["num_attention_heads"])
    for index in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{index}"
        yield layer, LayerShape(layer, heads, config["hidden_size"] // heads, dinov2_grid_hw(size_hw))


def latent_hw(backbones: Backbones, size_hw: tuple[int, int]) -> tuple[int, int]:
    """Grid of the latent: each block of the encoder but one halves the sides."""
    config = network_config(backbones.vae or backbones.affinity, "vae")
    blocks = config.get("encoder_block_out_channels") or config["block_out_channels"]
    factor = 2 ** (len(blocks) - 1)
    return size_hw[0] // factor, size_hw[1] // factor


def _unet_layers(backbones: Backbones, size_hw: tuple[int, int]) -> Iterator[tuple[str, list[LayerShape]]]:
    """All attention modules of a UNet with the shapes of their transformer blocks.

    down_blocks.i and, of n levels, up_blocks.(n-1-i) work on level i; the middle works on the last.
    """
    config = network_config(backbones.affinity, "unet")
    grids = _level_grids(latent_hw(backbones, size_hw), len(config["block_out_channels"]))
    levels = range(len(grids))
    for level in levels:
        if "CrossAttn" in config["down_block_types"][level]:
            for index in range(config["layers_per_block"]):
                yield _unet_layer(config, f"down_blocks.{level}.attentions.{index}", level, grids[level])
    if "CrossAttn" in (config["mid_block_type"] or ""):
        yield _unet_layer(config, "mid_block.attentions.0", levels[-1], grids[-1])
    for block, level in enumerate(reversed(levels)):
        if "CrossAttn" in config["up_block_types"][block]:
            for index in range(config["layers_per_block"] + 1):
                yield _unet_layer(config, f"up_blocks.{block}.attentions.{index}", level, grids[level])


def _unet_layer(
    config: dict[str, Any], layer: str, level: int, grid_hw: tuple[int, int]
) -> tuple[str, list[LayerShape]]:
    heads = _at_level(config["attention_head_dim"], level)
    blocks = _at_level(config["transformer_layers_per_block"], level)
    width = config["block_out_channels"][level] // heads
    names = [f"{layer}.transformer_blocks.{block}" for block in range(blocks)]
    return layer, [LayerShape(name, heads, width, grid_hw) for name in names]


def _at_level(value: int | Sequence[int], level: int) -> int:
    return value if isinstance(value, int) else value[level]


def _level_grids(finest_hw: tuple[int, int], levels: int) -> list[tuple[int, int]]:
    """Each level halves the sides of the one before, rounding up, as a strided convolution with padding does."""
    grids = [finest_hw]
    while len(grids) < levels:
        grids.append(((grids[-1][0] + 1) // 2, (grids[-1][1] + 1) // 2))
    return grids
