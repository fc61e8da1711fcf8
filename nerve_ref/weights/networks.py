"""The networks of a variant, opened at first use: from files, at random, or the tiny models that are packaged."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import DDPMScheduler
from jaxtyping import Float
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import CLIPModel

from nerve_ref.providers.provider import AffinityProvider, Clip, Dino, StableDiffusion
from nerve_ref.weights import architectures
from nerve_ref.weights.architectures import (
    TINY,
    TINY_CONTEXT_TOKENS,
    Backbones,
    context_length,
    context_tokens,
    is_dino,
    is_own_clip,
    network_config,
    packaged_tiny,
    vae_network,
)
from nerve_ref.weights.checkpoints import read_autoencoder, read_clip, read_dino, read_text_encoder, read_unet
from nerve_ref.weights.configs.own import AnyNetwork
from nerve_ref.weights.digests import file_sha256
from nerve_ref.weights.local import role_files
from nerve_ref.weights.random import (
    random_autoencoder,
    random_clip,
    random_context,
    random_dino,
    random_unet,
    synthetic_tokenizer,
)

Network = TypeVar("Network", bound=nn.Module)

STABLE_DIFFUSION = "stable-diffusion-2-1-base"
"""Whose full autoencoder a single file is, where a preset names a tiny one and `--vae` brings another."""
HIGHEST_ID_ENDS = 2
"""What published CLIPs name as their end token and mean the highest id by; a slip that transformers keeps alive."""
SAME_IN_CONFIGS = {
    "unet": (
        "block_out_channels",
        "attention_head_dim",
        "cross_attention_dim",
        "down_block_types",
        "mid_block_type",
        "up_block_types",
        "layers_per_block",
    ),
    "vae": ("latent_channels",),
    "dinov2": ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size"),
    "text_config": ("hidden_size", "num_hidden_layers", "max_position_embeddings", "vocab_size"),
    "vision_config": ("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size"),
}
"""What a network on disk must share with the one that it stands for: a plan is made from the latter's configuration."""


@dataclass(frozen=True, slots=True)
class WeightSource:
    """One set of weights on disk.

    Attributes:
        role: "clip", "vae", "unet", "text_encoder" or "dinov2".
        path: folder, or single safetensors file.
    """

    role: str
    path: Path

    def sha256(self) -> dict[str, str]:
        """Hash of each weight and config file by its name; reads all of them, seconds per gigabyte."""
        files = [*self.path.glob("*.safetensors"), *self.path.glob("*.json")] if self.path.is_dir() else [self.path]
        return {path.name: file_sha256(path) for path in sorted(files)}


class Models:
    """The networks of one variant: float32, in evaluation mode, without gradients.

    Each is opened when it is first asked for and then kept, so that a process which needs one of them loads one.

    Attributes:
        sources: where the weights came from; empty for random ones.
        random_seed: seed of random weights; None for real ones.
    """

    def __init__(
        self,
        clip: Callable[[], CLIPModel],
        tokenizer: Callable[[], Tokenizer],
        provider: Callable[[], AffinityProvider],
        sources: tuple[WeightSource, ...] = (),
        random_seed: int | None = None,
    ) -> None:
        """Take functions that open the networks; none is called yet."""
        self._open_clip = clip
        self._open_tokenizer = tokenizer
        self._open_provider = provider
        self.sources = sources
        self.random_seed = random_seed

    @classmethod
    def ready(
        cls,
        clip: CLIPModel,
        tokenizer: Tokenizer,
        provider: AffinityProvider,
        sources: tuple[WeightSource, ...] = (),
    ) -> "Models":
        """Networks that are open already."""
        return cls(lambda: clip, lambda: tokenizer, lambda: provider, sources)

    @cached_property
    def clip(self) -> CLIPModel:
        """Text and vision towers."""
        return _frozen(self._open_clip())

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Tokenizer of CLIP; pads and truncates to its text length."""
        return self._open_tokenizer()

    @cached_property
    def provider(self) -> AffinityProvider:
        """The networks that say what belongs together."""
        provider = self._open_provider()
        for network in (getattr(provider, name, None) for name in ("vae", "unet", "model")):
            if network is not None:
                _frozen(network)
        return provider


def _frozen(network: Network) -> Network:
    return network.eval().requires_grad_(False)


def tiny_models(affinity: AnyNetwork = TINY) -> Models:
    """The packaged models of preset `tiny`.

    Args:
        affinity: where affinity comes from, "tiny" (its UNet) or "clip" (its CLIP).

    Raises:
        WeightError: if this installation does not carry them.
    """
    folder = packaged_tiny()
    files = {role: folder / role for role in ("clip", "vae", "unet", "scheduler")}
    return open_models(Backbones(TINY, affinity), files, context_tokens=TINY_CONTEXT_TOKENS)


def random_models(backbones: Backbones, seed: int, tokenizer_path: Path | None = None) -> Models:
    """The true architectures with random weights, which depend on the seed alone; labels from them mean nothing.

    Args:
        backbones: which architectures.
        seed: any number.
        tokenizer_path: tokenizer.json, or a folder with one; a synthetic vocabulary by default.

    Raises:
        ValueError: for an unknown architecture.
    """
    text = network_config(backbones.clip, "clip")["text_config"]
    length = context_length(backbones.clip)
    if tokenizer_path is None and backbones.clip == TINY:
        tokenizer_path = architectures.TINY_FOLDER / "clip"
    if tokenizer_path is not None:
        tokenizer = partial(prepared_tokenizer, tokenizer_path, length)
    elif text["eos_token_id"] in (HIGHEST_ID_ENDS, text["vocab_size"] - 1):
        tokenizer = partial(synthetic_tokenizer, text["vocab_size"], length)
    else:
        raise ValueError(
            f"{backbones.clip}: text_config.eos_token_id is {text['eos_token_id']}, expected the last of its "
            f"{text['vocab_size']} ids, where a synthetic vocabulary ends; give --tokenizer"
        )
    return Models(
        clip=partial(random_clip, backbones.clip, seed),
        tokenizer=tokenizer,
        provider=partial(_random_provider, backbones, seed),
        random_seed=seed,
    )


def _random_provider(backbones: Backbones, seed: int) -> AffinityProvider:
    name = backbones.affinity
    if is_own_clip(backbones):
        return Clip(random_clip(backbones.clip, seed))
    if is_dino(backbones):
        return Dino(random_dino(name, seed))
    unet = random_unet(name, seed)
    return StableDiffusion(
        vae=random_autoencoder(vae_network(backbones), seed),
        unet=unet,
        alphas_cumprod=_alphas_cumprod(network_config(name, "scheduler")),
        context=random_context(context_tokens(name), unet.config.cross_attention_dim, seed),
    )


def open_models(backbones: Backbones, files: Mapping[str, Path], context_tokens: int | None = None) -> Models:
    """Networks from local files; nothing is downloaded and nothing is unpickled.

    Args:
        backbones: what the files hold; their shapes are compared with it when they are opened.
        files: folder or single safetensors file by role: "clip"; "unet", "vae" and "text_encoder", or "dinov2". A
            single checkpoint of Stable Diffusion may be given for all of its roles. "tokenizer" (tokenizer.json or a
            folder with one) may be left out where CLIP's folder has it, "scheduler" where the schedule is the usual.
        context_tokens: for a UNet trained without a text encoder: that many zero vectors are its empty prompt.

    Raises:
        ValueError: if a file is missing, refused or damaged, naming it.
    """
    roles = ["clip", *_provider_roles(backbones, context_tokens)]
    sources = tuple(_source(files, role) for role in roles)
    tokenizer_path = files.get("tokenizer", files["clip"])
    return Models(
        clip=partial(_open_clip, backbones, files),
        tokenizer=partial(prepared_tokenizer, tokenizer_path, context_length(backbones.clip)),
        provider=partial(_open_provider, backbones, files, context_tokens),
        sources=sources,
    )


def _provider_roles(backbones: Backbones, context_tokens: int | None) -> list[str]:
    if is_own_clip(backbones):
        return []
    if is_dino(backbones):
        return ["dinov2"]
    return ["vae", "unet"] + (["text_encoder"] if context_tokens is None else [])


def _source(files: Mapping[str, Path], role: str) -> WeightSource:
    """The folder or file of a role, checked before any library opens it."""
    if role not in files:
        raise ValueError(f"no weights for {role} were given, only for: {', '.join(files)}; give its folder or file")
    role_files(role, files[role])
    return WeightSource(role, files[role])


def _open_clip(backbones: Backbones, files: Mapping[str, Path]) -> CLIPModel:
    expected = network_config(backbones.clip, "clip")
    clip = read_clip(files["clip"], expected)
    for tower in ("text_config", "vision_config"):
        _refuse_other(getattr(clip.config, tower), expected[tower], tower, files["clip"], backbones.clip)
    return clip


def _open_provider(backbones: Backbones, files: Mapping[str, Path], context_tokens: int | None) -> AffinityProvider:
    name = backbones.affinity
    if is_own_clip(backbones):
        return Clip(_open_clip(backbones, files))
    if is_dino(backbones):
        expected = network_config(name, "dinov2")
        dinov2 = read_dino(files["dinov2"], expected)
        _refuse_other(dinov2.config, expected, "dinov2", files["dinov2"], name)
        return Dino(dinov2)
    expected = network_config(name, "unet")
    unet = read_unet(files["unet"], expected)
    _refuse_other(unet.config, expected, "unet", files["unet"], name)
    vae_name = vae_network(backbones)
    vae_config = network_config(vae_name, "vae")
    is_tiny = "encoder_block_out_channels" in vae_config
    full_config = network_config(STABLE_DIFFUSION, "vae") if is_tiny else vae_config
    vae = read_autoencoder(files["vae"], full_config, vae_config if is_tiny else network_config("taesd", "vae"))
    _refuse_other(vae.config, vae_config, "vae", files["vae"], vae_name)
    if context_tokens is None:
        context = empty_prompt(name, files["text_encoder"])
    else:
        context = torch.zeros(1, context_tokens, unet.config.cross_attention_dim)
    return StableDiffusion(vae, unet, _alphas_cumprod(_schedule(name, files.get("scheduler"))), context)


def _refuse_other(config: Any, expected: Mapping[str, Any], role: str, path: Path, name: AnyNetwork) -> None:
    """Refuse a network of other shapes than the one that it stands for."""
    levels = len(expected.get("block_out_channels", ()))
    for key in SAME_IN_CONFIGS[role]:
        if key in expected and _per_level(getattr(config, key), levels) != _per_level(expected[key], levels):
            raise ValueError(
                f"{path} is no {role} of {name}: {key} is {getattr(config, key)}, expected {expected[key]}; "
                "give its weights, or choose the preset that uses the network at hand"
            )


def _per_level(value: Any, levels: int) -> Any:
    """One number for all levels of a UNet is the same as the number at each level."""
    if isinstance(value, list | tuple):
        return list(value)
    return [value] * levels if levels and isinstance(value, int) else value


def prepared_tokenizer(path: Path, length: int) -> Tokenizer:
    """The tokenizer of a CLIP, made to truncate and pad with its end token to the length of the text tower.

    Args:
        path: tokenizer.json, or a folder that has one.
        length: tokens that the text tower reads.

    Raises:
        ValueError: if there is no tokenizer.json.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file() or file.suffix != ".json":
        raise ValueError(
            f"no tokenizer.json at {path}; save one with transformers' CLIPTokenizerFast and give its path"
        )
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    end = tokenizer.encode("").ids[-1]
    tokenizer.enable_padding(pad_id=end, pad_token=tokenizer.id_to_token(end), length=length)
    tokenizer.enable_truncation(length)
    return tokenizer


def _schedule(name: AnyNetwork, path: Path | None) -> Mapping[str, Any]:
    """Noise schedule: of a scheduler/ folder or its file; the network's usual one where none is given."""
    if path is None:
        return network_config(name, "scheduler")
    file = path / "scheduler_config.json" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"no noise schedule at {file}; give the folder of a whole Stable Diffusion pipeline")
    return json.loads(file.read_text(encoding="utf-8"))


def _alphas_cumprod(schedule: Mapping[str, Any]) -> Float[Tensor, " steps"]:
    """Cumulative products abar of a noise schedule, whatever its sampler."""
    names = (
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "trained_betas",
        "rescale_betas_zero_snr",
    )
    products: Tensor = DDPMScheduler(**{name: schedule[name] for name in names if name in schedule}).alphas_cumprod
    return products


def empty_prompt(name: AnyNetwork, path: Path) -> Float[Tensor, "1 l d"]:
    """The embedding of "" by a pipeline's own text encoder.

    The ids of "" are known, so its tokenizer is not needed: start, end, then padding to the full length, which is "!"
    (0) for Stable Diffusion 2 and the end token for 1.

    Args:
        name: of the Stable Diffusion.
        path: folder or single file of the text encoder.

    Raises:
        ValueError: if the encoder cannot be read or has other weights.
    """
    encoder = read_text_encoder(path, network_config(name, "text_encoder")).eval()
    tokens = network_config(name, "empty_prompt")
    ids = torch.full((1, encoder.config.max_position_embeddings), tokens["pad"])
    ids[0, :2] = torch.tensor([tokens["start"], tokens["end"]])
    with torch.no_grad():
        return encoder(ids).last_hidden_state
