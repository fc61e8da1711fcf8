"""Where model weights come from: local folders in the layout of the hub, or the tiny models that are packaged."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDPMScheduler, UNet2DConditionModel
from jaxtyping import Float
from tokenizers import Tokenizer
from torch import Tensor
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from nerve_ref.sd_attention import Autoencoder

TINY_FOLDER = Path(__file__).parent / "models" / "tiny"
TINY_CONTEXT_TOKENS = 4
"""The tiny UNet was trained with this many zero vectors as its only context."""


@dataclass(frozen=True, slots=True)
class WeightSource:
    """One set of weights on disk.

    Attributes:
        role: "clip", "vae", "unet" or "text_encoder".
        folder: where it lies.
    """

    role: str
    folder: Path

    def sha256(self) -> dict[str, str]:
        """Hash of each weight and config file by its name; reads all of them, seconds per gigabyte."""
        files = sorted([*self.folder.glob("*.safetensors"), *self.folder.glob("*.json")])
        return {path.name: _sha256(path) for path in files}


@dataclass(frozen=True, slots=True)
class Models:
    """The networks of one variant: float32, in evaluation mode, without gradients.

    Attributes:
        clip: text and vision towers.
        tokenizer: of CLIP; pads and truncates to its text length.
        vae: full or tiny autoencoder.
        unet: noise predictor.
        alphas_cumprod: abar of each timestep.
        context: embedding of the empty prompt.
        sources: where the weights came from.
    """

    clip: CLIPModel
    tokenizer: Tokenizer
    vae: Autoencoder
    unet: UNet2DConditionModel
    alphas_cumprod: Float[Tensor, " steps"]
    context: Float[Tensor, "1 l d"]
    sources: tuple[WeightSource, ...]


def tiny_models() -> Models:
    """The packaged models of preset `tiny`.

    Raises:
        ValueError: if this installation does not carry them.
    """
    if not (TINY_FOLDER / "unet" / "config.json").is_file():
        raise ValueError("the tiny models are not in this checkout; make them: python benchmarks/run.py train-tiny")
    return load_models(TINY_FOLDER / "clip", TINY_FOLDER, context_tokens=TINY_CONTEXT_TOKENS)


def load_models(
    clip_path: Path,
    sd_path: Path,
    vae_path: Path | None = None,
    unet_path: Path | None = None,
    context_tokens: int | None = None,
) -> Models:
    """Load CLIP and Stable Diffusion from local folders; nothing is downloaded and nothing is unpickled.

    Args:
        clip_path: a transformers CLIP with its tokenizer.json.
        sd_path: a diffusers pipeline: vae/, unet/, scheduler/, text_encoder/, tokenizer/.
        vae_path: another autoencoder, AutoencoderKL or AutoencoderTiny, instead of sd_path/vae.
        unet_path: another UNet, instead of sd_path/unet.
        context_tokens: for a UNet trained without a text encoder: that many zero vectors are its empty prompt.

    Raises:
        ValueError: if a folder is missing or holds no safetensors, naming it.
    """
    vae_path, unet_path = vae_path or sd_path / "vae", unet_path or sd_path / "unet"
    sources = [WeightSource("clip", clip_path), WeightSource("vae", vae_path), WeightSource("unet", unet_path)]
    if context_tokens is None:
        sources.append(WeightSource("text_encoder", sd_path / "text_encoder"))
    for source in sources:
        _check_folder(source)
    with _without_progress_bar():
        clip = CLIPModel.from_pretrained(clip_path, dtype=torch.float32, local_files_only=True, use_safetensors=True)
    unet = UNet2DConditionModel.from_pretrained(unet_path, **_DIFFUSERS_OPTIONS)
    vae = _autoencoder(vae_path)
    if context_tokens is None:
        context = empty_prompt(sd_path)
    else:
        context = torch.zeros(1, context_tokens, unet.config.cross_attention_dim)
    for model in (clip, vae, unet):
        model.eval().requires_grad_(False)
    tokenizer = prepared_tokenizer(clip_path, clip.config.text_config.max_position_embeddings)
    return Models(clip, tokenizer, vae, unet, alphas_cumprod(sd_path), context, tuple(sources))


_DIFFUSERS_OPTIONS: dict[str, Any] = {
    "low_cpu_mem_usage": False,
    "torch_dtype": torch.float32,
    "local_files_only": True,
    "use_safetensors": True,
}


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    """Keep transformers from drawing a bar over ours for files that are read in milliseconds."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _check_folder(source: WeightSource) -> None:
    if not (source.folder / "config.json").is_file():
        raise ValueError(
            f"no {source.role} at {source.folder}: expected a local folder with config.json and *.safetensors; "
            "weights are not downloaded here, fetch them first and give their path"
        )
    if not any(source.folder.glob("*.safetensors")):
        raise ValueError(f"{source.folder} holds no *.safetensors; other formats are refused because they can run code")


def _autoencoder(folder: Path) -> Autoencoder:
    """Load whichever of the two autoencoders the folder's config names."""
    kinds: dict[str, Any] = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
    name = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_class_name")
    if name not in kinds:
        raise ValueError(f"{folder} holds a {name}, expected one of {', '.join(kinds)}")
    return kinds[name].from_pretrained(folder, **_DIFFUSERS_OPTIONS)


def prepared_tokenizer(clip_path: Path, length: int) -> Tokenizer:
    """The tokenizer of a CLIP folder, made to truncate and pad with its end token to the length of the text tower.

    Raises:
        ValueError: if the folder has no tokenizer.json.
    """
    path = clip_path / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"no tokenizer.json in {clip_path}; save one with transformers' CLIPTokenizerFast")
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    end = tokenizer.encode("").ids[-1]
    tokenizer.enable_padding(pad_id=end, pad_token=tokenizer.id_to_token(end), length=length)
    tokenizer.enable_truncation(length)
    return tokenizer


def alphas_cumprod(sd_path: Path) -> Float[Tensor, " steps"]:
    """Cumulative products abar of the noise schedule in a pipeline's scheduler/ folder, whatever its sampler.

    Raises:
        ValueError: if there is no schedule.
    """
    path = sd_path / "scheduler" / "scheduler_config.json"
    if not path.is_file():
        raise ValueError(f"no noise schedule at {path}; give the folder of a whole Stable Diffusion pipeline")
    config = json.loads(path.read_text(encoding="utf-8"))
    names = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
    schedule: Tensor = DDPMScheduler(**{name: config[name] for name in names if name in config}).alphas_cumprod
    return schedule


def empty_prompt(sd_path: Path) -> Float[Tensor, "1 l d"]:
    """The embedding of "" by a pipeline's own text encoder and tokenizer, padded as its tokenizer pads."""
    tokenizer = CLIPTokenizer.from_pretrained(sd_path / "tokenizer", local_files_only=True)
    encoder = CLIPTextModel.from_pretrained(
        sd_path / "text_encoder", dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    length = encoder.config.max_position_embeddings
    ids = tokenizer("", padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        return encoder.eval()(ids).last_hidden_state


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
