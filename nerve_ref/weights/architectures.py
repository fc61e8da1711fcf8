"""What the networks are, and the shapes that follow from their configurations; imports no torch.

Names of networks are those of their publishers' repositories, without the owner; "tiny" is the packaged set. A network
that no lock lists brings its configuration along.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nerve_ref.params import NerveParams
from nerve_ref.weights.configs.own import AnyNetwork, Network
from nerve_ref.weights.configs.published import CONFIGS, LIBRARY_DEFAULTS
from nerve_ref.weights.errors import WeightError

TINY = "tiny"
OWN_CLIP = "clip"
"""Named as the affinity network: the CLIP itself, whose vision tower then says both."""
CLIP_LAYER_PREFIX = "vision_model.encoder.layers."
TINY_FOLDER = Path(__file__).parents[1] / "models" / "tiny"
TINY_CONTEXT_TOKENS = 4
"""The tiny UNet was trained with this many zero vectors as its only context."""
DINO_GRID_PX = 16
"""Working pixels under one token of a DINO: 512 px give 32 x 32 tokens, whatever the patch of the network (ours)."""


@dataclass(frozen=True, slots=True)
class Backbones:
    """Which networks a variant uses.

    Attributes:
        clip: the network that compares pictures with text, e.g. "clip-vit-large-patch14-336".
        affinity: the network whose queries and keys say what belongs together, e.g. "stable-diffusion-2-1-base", or
            "clip" for the CLIP itself.
        vae: an autoencoder instead of Stable Diffusion's, e.g. "taesd"; None for Stable Diffusion's, and for DINO.
    """

    clip: AnyNetwork
    affinity: AnyNetwork
    vae: AnyNetwork | None = None

    def names(self) -> tuple[str, ...]:
        """The names of all of them, for messages."""
        return tuple(str(network) for network in (self.clip, self.affinity, self.vae) if network is not None)


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


def network_config(name: AnyNetwork, role: str) -> dict[str, Any]:
    """Configuration of a network in a role: "clip", "unet", "vae", "scheduler", "text_encoder" or "dinov2" (any DINO).

    Raises:
        ValueError: if no network of this name plays that role, listing those that do.
    """
    if isinstance(name, Network):
        return name.config(role)
    if name == TINY and (TINY_FOLDER / role).is_dir():
        (path,) = [path for path in (TINY_FOLDER / role).glob("*config.json") if "token" not in path.name]
        return json.loads(path.read_text(encoding="utf-8"))
    if role not in CONFIGS.get(name, {}):
        raise ValueError(f"{name!r} is no network with a {role}; expected one of: {', '.join(known_networks(role))}")
    return CONFIGS[name][role]


def known_networks(*roles: str) -> list[str]:
    """The networks of the lock, and tiny, that play any of these roles; tiny is listed for each."""
    return [TINY, *(network for network, own in CONFIGS.items() if not set(roles).isdisjoint(own))]


def clip_patch_px(name: AnyNetwork) -> int:
    """Side of a patch of CLIP's vision tower in pixels; its input's sides are multiples of it."""
    return int(network_config(name, "clip")["vision_config"]["patch_size"])


def text_width(name: AnyNetwork) -> int:
    """Length of CLIP's text embeddings."""
    return int(network_config(name, "clip")["projection_dim"])


def context_length(name: AnyNetwork) -> int:
    """Tokens that CLIP's text tower reads: 77, less for the tiny models."""
    return int(network_config(name, "clip")["text_config"]["max_position_embeddings"])


def is_dino(backbones: Backbones) -> bool:
    """Whether the affinity comes from a DINO rather than Stable Diffusion."""
    network = backbones.affinity
    return "dinov2" in (network.roles() if isinstance(network, Network) else CONFIGS.get(network, {}))


def is_own_clip(backbones: Backbones) -> bool:
    """Whether the affinity comes from the CLIP itself, so that one tower says both."""
    return backbones.affinity == OWN_CLIP


def context_tokens(network: AnyNetwork) -> int:
    """Tokens of the empty prompt that a UNet attends to."""
    if network == TINY:
        return TINY_CONTEXT_TOKENS
    if isinstance(network, Network) and "text_encoder" not in network.roles():
        return int(LIBRARY_DEFAULTS["text_encoder"]["max_position_embeddings"])
    return int(network_config(network, "text_encoder")["max_position_embeddings"])


def vae_network(backbones: Backbones) -> AnyNetwork:
    """The network whose autoencoder makes the latent; of Stable Diffusion only."""
    return backbones.affinity if backbones.vae is None else backbones.vae


def layer_shapes(backbones: Backbones, params: NerveParams) -> tuple[LayerShape, ...]:
    """Heads, head width and token grid of every layer in `params.layers`, in their order, without opening a network.

    Raises:
        ValueError: for a network that is not known or a layer that it does not have, listing those that exist.
    """
    if is_own_clip(backbones):
        layers = dict(_clip_layers(backbones.clip, params.clip_size_hw))
    else:
        layers = all_layer_shapes(backbones, params.size_hw)
    for layer in params.layers:
        if layer not in layers:
            raise ValueError(f"no self-attention layer {layer!r} in {backbones.affinity}; it has: {', '.join(layers)}")
    return tuple(shape for layer in params.layers for shape in layers[layer])


def all_layer_shapes(backbones: Backbones, size_hw: tuple[int, int]) -> dict[str, list[LayerShape]]:
    """Every self-attention layer that queries and keys can be taken from, by name, with its transformer blocks' shapes.

    Raises:
        ValueError: for a network that is not known.
    """
    shapes = _dino_layers(backbones.affinity, size_hw) if is_dino(backbones) else _unet_layers(backbones, size_hw)
    return dict(shapes)


def _clip_layers(network: AnyNetwork, size_hw: tuple[int, int]) -> Iterator[tuple[str, list[LayerShape]]]:
    config, patch_px = network_config(network, "clip")["vision_config"], clip_patch_px(network)
    heads, grid_hw = int(config["num_attention_heads"]), (size_hw[0] // patch_px, size_hw[1] // patch_px)
    for index in range(config["num_hidden_layers"]):
        layer = f"{CLIP_LAYER_PREFIX}{index}"
        yield layer, [LayerShape(layer, heads, config["hidden_size"] // heads, grid_hw)]


def dino_grid_hw(size_hw: tuple[int, int]) -> tuple[int, int]:
    """Token grid of a DINO for a working size: one token per 16 x 16 pixels."""
    return size_hw[0] // DINO_GRID_PX, size_hw[1] // DINO_GRID_PX


def dino_layer_prefix(config: Mapping[str, Any]) -> str:
    """What the names of a DINO's blocks begin with, as the library has them: "encoder.layer.", of DINOv3 "model.layer."."""
    return "model.layer." if config.get("model_type") == "dinov3_vit" else "encoder.layer."


def _dino_layers(network: AnyNetwork, size_hw: tuple[int, int]) -> Iterator[tuple[str, list[LayerShape]]]:
    config = network_config(network, "dinov2")
    heads = int(config["num_attention_heads"])
    for index in range(config["num_hidden_layers"]):
        layer = f"{dino_layer_prefix(config)}{index}"
        yield layer, [LayerShape(layer, heads, config["hidden_size"] // heads, dino_grid_hw(size_hw))]


def latent_hw(backbones: Backbones, size_hw: tuple[int, int]) -> tuple[int, int]:
    """Grid of the latent: each block of the encoder but one halves the sides."""
    config = network_config(vae_network(backbones), "vae")
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
            for index in range(_at_level(config["layers_per_block"], level)):
                yield _unet_layer(config, f"down_blocks.{level}.attentions.{index}", level, grids[level])
    if "CrossAttn" in (config["mid_block_type"] or ""):
        yield _unet_layer(config, "mid_block.attentions.0", levels[-1], grids[-1])
    for block, level in enumerate(reversed(levels)):
        if "CrossAttn" in config["up_block_types"][block]:
            for index in range(_at_level(config["layers_per_block"], level) + 1):
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
