"""Reading networks from disk: folders in the layout of the hub, or single safetensors files; nothing is unpickled.

Weights may be stored in half precision; they are widened to float32. A weight that a file lacks is an error, as the
libraries would go on with a random one; so is one that the network has no place for, as it would be dropped.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    Dinov2Model,
    Dinov2WithRegistersModel,
    RadioModel,
)
from transformers.utils import logging as transformers_logging

from nerve_ref.providers.dino import DinoModel
from nerve_ref.providers.stable_diffusion import Autoencoder
from nerve_ref.weights.builders import DINO_CLASSES
from nerve_ref.weights.open_clip import from_open_clip

Tensors: TypeAlias = dict[str, Tensor]

LDM_UNET, LDM_VAE = "model.diffusion_model.", "first_stage_model."
LDM_TEXT, LDM_OPEN_CLIP_TEXT = "cond_stage_model.transformer.", "cond_stage_model.model."
"""Where the original checkpoints of Stable Diffusion keep their networks; the last two are those of 1 and 2."""
OLD_ATTENTION_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Autoencoders published before diffusers 0.16 name their attention so."""
POSITION_IDS = "position_ids"
"""Numbers of positions, which transformers before 4.31 saved beside the weights."""
NOT_OF_THE_TEXT_ENCODER = ("text_projection", "text_projection.weight", "logit_scale", POSITION_IDS)
_CLASSIFIER = ("classifier.weight", "classifier.bias")
LEFT_IN_THE_FILE: Mapping[type, tuple[str, ...]] = {
    CLIPTextModel: NOT_OF_THE_TEXT_ENCODER,
    Dinov2Model: _CLASSIFIER,
    Dinov2WithRegistersModel: _CLASSIFIER,
    RadioModel: ("video_patch_projection.weight",),
}
"""How the names end of what files hold beside a network that is read here: heads for other purposes."""
NAMES_SHOWN = 4


def read_clip(path: Path, config: Mapping[str, Any]) -> CLIPModel:
    """CLIP from a transformers folder, or a single file in transformers' or OpenCLIP's names with the given configuration.

    Raises:
        ValueError: if it cannot be read or has other weights.
    """
    return _transformer(CLIPModel, path, lambda: (CLIPConfig(**config), from_open_clip(_tensors(path))))


def read_dino(path: Path, config: Mapping[str, Any]) -> DinoModel:
    """DINOv2, DINOv3 or RADIO, as the configuration says, likewise.

    Raises:
        ValueError: if it cannot be read or has other weights.
    """
    make_config, kind = DINO_CLASSES[config.get("model_type", "dinov2")]
    return _transformer(kind, path, lambda: (make_config(**config), _tensors(path)))


def read_text_encoder(path: Path, config: Mapping[str, Any]) -> CLIPTextModel:
    """Stable Diffusion's text encoder, likewise; a single file may also be an original checkpoint.

    Raises:
        ValueError: if it cannot be read or has other weights.
    """

    def single_file() -> tuple[CLIPTextConfig, Tensors]:
        text_config = CLIPTextConfig(**config)
        return text_config, _text_tensors(path, text_config)

    return _transformer(CLIPTextModel, path, single_file)


def read_unet(path: Path, config: Mapping[str, Any]) -> UNet2DConditionModel:
    """A UNet from a diffusers folder, or a single file in diffusers' or the original names.

    Raises:
        ValueError: if it cannot be read or has other weights.
    """
    if path.is_dir():
        return _diffuser(UNet2DConditionModel, path)
    tensors = _tensors(path, LDM_UNET)
    if any(name.startswith(LDM_UNET) for name in tensors):
        tensors = convert_ldm_unet_checkpoint(tensors, config=_complete(UNet2DConditionModel, config))
    return _filled(UNet2DConditionModel, config, tensors, path)


def read_autoencoder(path: Path, config: Mapping[str, Any], tiny_config: Mapping[str, Any]) -> Autoencoder:
    """The full or the tiny autoencoder: a folder's configuration or the tensor names of a single file tell which.

    Args:
        path: a diffusers folder, or a single file in diffusers' or the original names.
        config: of a full autoencoder, for a single file.
        tiny_config: of TAESD, for a single file.

    Raises:
        ValueError: if it cannot be read, has other weights, or is another kind.
    """
    if path.is_dir():
        return _diffuser(_autoencoder_kind(path), path)
    tensors = _tensors(path, LDM_VAE)
    if any(name.startswith("encoder.layers.") for name in tensors):
        return _filled(AutoencoderTiny, tiny_config, tensors, path)
    if not any(name.startswith("encoder.down_blocks.") for name in tensors):
        tensors = convert_ldm_vae_checkpoint(tensors, config=_complete(AutoencoderKL, config))
    return _filled(AutoencoderKL, config, _with_new_attention_names(tensors), path)


def _autoencoder_kind(folder: Path) -> Any:
    kinds: dict[str, Any] = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
    name = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_class_name")
    if name not in kinds:
        raise ValueError(f"{folder} holds a {name}, expected one of {', '.join(kinds)}")
    return kinds[name]


def _with_new_attention_names(tensors: Tensors) -> Tensors:
    renamed = {}
    for name, tensor in tensors.items():
        for old, new in OLD_ATTENTION_NAMES.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    return renamed


def _text_tensors(path: Path, config: CLIPTextConfig) -> Tensors:
    """Tensors of a text encoder in transformers' names, whichever of three ways they are named in the file."""
    tensors = _tensors(path, LDM_TEXT, LDM_OPEN_CLIP_TEXT)
    if any(name.startswith(LDM_OPEN_CLIP_TEXT) for name in tensors):
        with torch.device("meta"):
            model = CLIPTextModel(config)
        tensors = convert_open_clip_checkpoint(model, tensors, prefix=LDM_OPEN_CLIP_TEXT)
    named = {name.removeprefix(LDM_TEXT): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in named.items() if not name.endswith(NOT_OF_THE_TEXT_ENCODER)}


def _tensors(path: Path, *prefixes: str) -> Tensors:
    """Tensors of a single file in float32: those of the first prefix that occurs, all where none does."""
    with _readable(path), safe_open(path, framework="pt") as file:
        names = list(file.keys())
        for prefix in prefixes:
            if any(name.startswith(prefix) for name in names):
                names = [name for name in names if name.startswith(prefix)]
        return {name: _float32(file.get_tensor(name)) for name in names}


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _complete(kind: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the defaults of its class, as diffusers' converters want it."""
    with torch.device("meta"):
        return dict(kind.from_config(dict(config)).config)


def _filled(kind: Any, config: Mapping[str, Any], tensors: Tensors, path: Path) -> Any:
    """A diffusers network around given tensors, without a second copy of them.

    Not `from_single_file`, which leaves a weight that the file lacks at random, without a word.
    """
    with torch.device("meta"):
        model = kind.from_config(dict(config))
    names = set(model.state_dict())
    _refuse_other_weights(path, kind, names - set(tensors), set(tensors) - names)
    with _readable(path):
        model.load_state_dict(tensors, strict=False, assign=True)
    return model


def _diffuser(kind: Any, folder: Path) -> Any:
    with _readable(folder):
        model, report = kind.from_pretrained(
            folder,
            low_cpu_mem_usage=False,
            torch_dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    _refuse_other_weights(folder, kind, report["missing_keys"], report["unexpected_keys"])
    return model


def _transformer(kind: Any, path: Path, single_file: Any) -> Any:
    """A transformers network from a folder, or from what `single_file` returns: its configuration and tensors."""
    options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True}
    with _readable(path), _quietly():
        if path.is_dir():
            model, report = kind.from_pretrained(path, local_files_only=True, use_safetensors=True, **options)
        else:
            config, tensors = single_file()
            model, report = kind.from_pretrained(None, config=config, state_dict=tensors, **options)
    _refuse_other_weights(path, kind, report["missing_keys"], report["unexpected_keys"])
    return model


def _refuse_other_weights(path: Path, kind: Any, missing: Collection[str], unexpected: Collection[str]) -> None:
    """Refuse a file whose weights are not those of the network, but for what is known to be no part of it."""
    if missing:
        raise ValueError(
            f"{path} lacks {len(missing)} weights of a {kind.__name__}, such as {_shown(missing)}; "
            "it is another network or an incomplete copy: fetch it again or give another path"
        )
    left = (*LEFT_IN_THE_FILE.get(kind, ()), POSITION_IDS)
    if without_place := [name for name in unexpected if not name.endswith(left)]:
        raise ValueError(
            f"{path} has {len(without_place)} weights that a {kind.__name__} of this configuration has no place for, "
            f"such as {_shown(without_place)}; it is another network: give another path, or the preset that it is for"
        )


def _shown(names: Collection[str]) -> str:
    return ", ".join(sorted(names)[:NAMES_SHOWN])


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what the libraries raise for unusable files, or tensors of other shapes, into one sentence."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} does not hold the expected network: {reason}; give another path") from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep transformers from drawing a bar over ours, and from a table of weights that are refused or known to be left."""
    was_enabled, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if was_enabled:
            transformers_logging.enable_progress_bar()
