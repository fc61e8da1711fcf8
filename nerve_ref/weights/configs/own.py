"""Networks that a preset brings along: each by its own configuration, completed and checked; imports no torch."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from nerve_ref.weights.configs.published import DINO_TYPES, LIBRARY_DEFAULTS, SCHEDULE

Config: TypeAlias = Mapping[str, Any]
UNKNOWN_LICENCE = "not known; see the page of its weights"
_UNET_BLOCKS = ("CrossAttnDownBlock2D", "DownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D")
_UNET_MIDDLES = ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None)
_PLAIN_UNET: dict[str, Any] = {
    "addition_embed_type": None,
    "attention_type": "default",
    "center_input_sample": False,
    "class_embed_type": None,
    "cross_attention_norm": None,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "reverse_transformer_layers_per_block": None,
    "time_embedding_type": "positional",
}
"""What a UNet must have in these fields, or leave out: it is run with an image, a timestep and a prompt, nothing else."""
_PLAIN_AUTOENCODER: dict[str, Any] = {"in_channels": 3, "latents_mean": None, "latents_std": None}
_SCALAR_UNET_FIELDS = ("cross_attention_dim", "in_channels")


@dataclass(frozen=True, slots=True)
class Network:
    """A network with a configuration of its own.

    Attributes:
        name: what messages call it, such as "openai/clip-vit-base-patch32".
        configs: by role, its config.json as text: "clip"; "vae"; "dinov2", for every DINO; or "unet", "vae",
            "text_encoder", "scheduler" and "empty_prompt" of a diffusion pipeline.
        repository: "owner/name" on the hub; None where its weights are local or random.
        revision: commit of 40 hex digits on the hub; None likewise.
        licence: under which its weights may be used.
    """

    name: str
    configs: tuple[tuple[str, str], ...]
    repository: str | None = None
    revision: str | None = None
    licence: str = UNKNOWN_LICENCE

    def __str__(self) -> str:
        """Its name, as messages have it."""
        return self.name

    def roles(self) -> tuple[str, ...]:
        """The roles that it has a configuration for."""
        return tuple(role for role, _ in self.configs)

    def config(self, role: str) -> dict[str, Any]:
        """Its configuration in a role.

        Raises:
            ValueError: it has none for it.
        """
        texts = dict(self.configs)
        if role not in texts:
            raise ValueError(f"{self.name} has no configuration for {role}, only for: {', '.join(texts)}; add it")
        return json.loads(texts[role])


AnyNetwork: TypeAlias = str | Network
"""A network by its name in the lock, or one that brings its configuration."""


def own_network(
    name: str,
    configs: Mapping[str, Config],
    *,
    repository: str | None = None,
    revision: str | None = None,
    licence: str = UNKNOWN_LICENCE,
) -> Network:
    """A network around the content of its config.json, one for each role; fields left out are the library's defaults.

    Raises:
        ValueError: the method cannot read a network of this kind; names the field, what it is and what is expected.
    """
    completed = {role: _COMPLETE[role](config, f"{name}: {role}") for role, config in configs.items()}
    if "unet" in completed:
        completed.setdefault("scheduler", SCHEDULE)
        width, text = completed["unet"]["cross_attention_dim"], completed.get("text_encoder")
        if text is not None and text["hidden_size"] != width:
            raise ValueError(
                f"{name}: text_encoder.hidden_size is {text['hidden_size']}, expected the UNet's cross_attention_dim "
                f"{width}; give the text encoder of this UNet"
            )
    texts = tuple((role, json.dumps(config, sort_keys=True)) for role, config in sorted(completed.items()))
    return Network(name, texts, repository, revision, licence)


def _clip(config: Config, where: str) -> dict[str, Any]:
    kind = config.get("model_type", "clip")
    if str(kind).startswith("siglip"):
        raise ValueError(
            f"{where}.model_type is {kind!r}, expected 'clip': SigLIP compares words with one vector a picture, which "
            "its attention pooling makes; its patches are not in the space of words, so they cannot be scores; name a "
            "CLIP"
        )
    _require(kind == "clip", f"{where}.model_type", kind, "'clip'")
    completed = {**LIBRARY_DEFAULTS["clip"], **config}
    for tower in ("text_config", "vision_config"):
        given = config.get(tower)
        _require(isinstance(given, Mapping), f"{where}.{tower}", given, "a table")
        completed[tower] = {**LIBRARY_DEFAULTS[tower], **(given or {})}
        _require_heads(completed[tower], f"{where}.{tower}")
    _require_patch(completed["vision_config"], f"{where}.vision_config")
    return completed


def _dino(config: Config, where: str) -> dict[str, Any]:
    kind = config.get("model_type", "dinov2")
    _require(kind in DINO_TYPES, f"{where}.model_type", kind, f"one of {', '.join(DINO_TYPES)}")
    completed = {"model_type": kind, **LIBRARY_DEFAULTS[kind], **config}
    _require_heads(completed, where)
    _require_patch(completed, where)
    _require_count(completed["num_hidden_layers"], f"{where}.num_hidden_layers")
    width = completed["hidden_size"] // completed["num_attention_heads"]
    if kind == "dinov3_vit":
        _require(
            width % 4 == 0, f"{where}.hidden_size", completed["hidden_size"], "heads of a multiple of 4, to be turned"
        )
    return completed


def _unet(config: Config, where: str) -> dict[str, Any]:
    _require_class(config, where, ("UNet2DConditionModel",))
    completed = {**LIBRARY_DEFAULTS["unet"], **config}
    for field, plain in _PLAIN_UNET.items():
        value = completed.get(field, plain)
        _require(value == plain, f"{where}.{field}", value, f"{plain!r}: only plain Stable Diffusion UNets can be read")
    for field in _SCALAR_UNET_FIELDS:
        _require(isinstance(completed[field], int), f"{where}.{field}", completed[field], "one number")
    levels = _require_widths(completed["block_out_channels"], f"{where}.block_out_channels")
    for field in ("down_block_types", "up_block_types"):
        types = completed[field]
        expected = f"{levels} of {', '.join(_UNET_BLOCKS)}, one for each of block_out_channels"
        _require(len(types) == levels and set(types) <= set(_UNET_BLOCKS), f"{where}.{field}", types, expected)
    middle = completed["mid_block_type"]
    _require(middle in _UNET_MIDDLES, f"{where}.mid_block_type", middle, f"one of {_UNET_MIDDLES}")
    for field in ("layers_per_block", "transformer_layers_per_block", "attention_head_dim"):
        _require_levels(completed[field], levels, f"{where}.{field}")
    return completed


def _require_widths(value: Any, where: str) -> int:
    """Number of levels of a network, one width each."""
    whole = isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(width, int) for width in value)
    _require(whole, where, value, "a list of widths, one a level")
    return len(value)


def _require_count(value: Any, where: str) -> None:
    _require(isinstance(value, int) and value > 0, where, value, "a number above 0")


def _require_levels(value: Any, levels: int, where: str) -> None:
    each = value if isinstance(value, list | tuple) else [value] * levels
    whole = len(each) == levels and all(isinstance(number, int) and number > 0 for number in each)
    _require(whole, where, value, f"a number above 0, or a list of {levels} of them, one a level")


def _autoencoder(config: Config, where: str) -> dict[str, Any]:
    is_tiny = "encoder_block_out_channels" in config
    kind = config.get("_class_name", "AutoencoderTiny" if is_tiny else "AutoencoderKL")
    _require_class({"_class_name": kind}, where, ("AutoencoderKL", "AutoencoderTiny"))
    completed = {**LIBRARY_DEFAULTS[kind], **config, "_class_name": kind}
    for field, plain in _PLAIN_AUTOENCODER.items():
        value = completed.get(field, plain)
        _require(value == plain, f"{where}.{field}", value, repr(plain))
    widths = "encoder_block_out_channels" if kind == "AutoencoderTiny" else "block_out_channels"
    _require_widths(completed[widths], f"{where}.{widths}")
    _require_count(completed["latent_channels"], f"{where}.latent_channels")
    shift = completed.get("shift_factor")
    _require(not shift, f"{where}.shift_factor", shift, "0 or none: the latents of Stable Diffusion are only scaled")
    return completed


def _text_encoder(config: Config, where: str) -> dict[str, Any]:
    kind = config.get("model_type", "clip_text_model")
    _require(kind == "clip_text_model", f"{where}.model_type", kind, "'clip_text_model'")
    return {**LIBRARY_DEFAULTS["text_encoder"], **config}


def _empty_prompt(config: Config, where: str) -> dict[str, Any]:
    ids = {"start", "end", "pad"}
    whole = set(config) == ids and all(isinstance(number, int) for number in config.values())
    _require(whole, where, dict(config), f"the token ids {', '.join(sorted(ids))}")
    return dict(config)


_COMPLETE: dict[str, Callable[[Config, str], dict[str, Any]]] = {
    "clip": _clip,
    "dinov2": _dino,
    "unet": _unet,
    "vae": _autoencoder,
    "text_encoder": _text_encoder,
    "scheduler": lambda config, _where: dict(config),
    "empty_prompt": _empty_prompt,
}


def _require_class(config: Config, where: str, classes: tuple[str, ...]) -> None:
    kind = config.get("_class_name", classes[0])
    _require(kind in classes, f"{where}._class_name", kind, " or ".join(classes))


def _require_heads(config: Config, where: str) -> None:
    width, heads = config["hidden_size"], config["num_attention_heads"]
    whole = isinstance(width, int) and isinstance(heads, int) and heads > 0 and width % heads == 0
    _require(whole, f"{where}.hidden_size", width, f"a multiple of num_attention_heads, {heads}")


def _require_patch(config: Config, where: str) -> None:
    patch = config["patch_size"]
    _require(isinstance(patch, int) and patch > 0, f"{where}.patch_size", patch, "one number of pixels above 0")


def _require(holds: bool, field: str, value: Any, expected: str) -> None:
    if not holds:
        raise ValueError(f"{field} is {value!r}, expected {expected}")
