"""The files of the repositories that `edge` is built from: true configurations, tensor names, shapes and types.

The numbers in the tensors are random. What is held against the lock (`tests/parity/test_rehearsal.py`): of four of the
five configurations the SHA-256, of the safetensors the size to the byte, which the lengths of all names, shapes and
offsets make. Of `pytorch_model.bin` and of TAESD's config.json no such proof is possible; see docs/real-weights.md.
"""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel

CLIP, SD, TAESD, TOKENIZER = "clip-vit-base-patch16", "stable-diffusion-2-1-base", "taesd", "clip-tokenizer"
OLD_ATTENTION = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
"""diffusers before 0.16, which wrote the autoencoder, named its attention so."""
_CLIP_DEFAULTS: dict[str, Any] = {
    "_name_or_path": "", "add_cross_attention": False, "architectures": None, "attention_dropout": 0.0,
    "bad_words_ids": None, "chunk_size_feed_forward": 0, "decoder_start_token_id": None, "diversity_penalty": 0.0,
    "do_sample": False, "dropout": 0.0, "early_stopping": False, "encoder_no_repeat_ngram_size": 0,
    "finetuning_task": None, "forced_bos_token_id": None, "forced_eos_token_id": None, "hidden_act": "quick_gelu",
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "initializer_factor": 1.0, "initializer_range": 0.02,
    "is_decoder": False, "is_encoder_decoder": False, "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "layer_norm_eps": 1e-5,
    "length_penalty": 1.0, "max_length": 20, "min_length": 0, "no_repeat_ngram_size": 0, "num_beam_groups": 1,
    "num_beams": 1, "num_return_sequences": 1, "output_attentions": False, "output_hidden_states": False,
    "output_scores": False, "prefix": None, "problem_type": None, "projection_dim ": 512, "pruned_heads": {},
    "remove_invalid_values": False, "repetition_penalty": 1.0, "return_dict": True, "return_dict_in_generate": False,
    "sep_token_id": None, "task_specific_params": None, "temperature": 1.0, "tie_encoder_decoder": False,
    "tie_word_embeddings": True, "tokenizer_class": None, "top_k": 50, "top_p": 1.0, "torch_dtype": None,
    "torchscript": False, "transformers_version": "4.12.0.dev0", "use_bfloat16": False,
}  # fmt: skip
"""`projection_dim` was added by hand, with a space before its colon."""
_ATTENTION = ["CrossAttnDownBlock2D"] * 3, ["CrossAttnUpBlock2D"] * 3
CONFIGS: dict[str, dict[str, dict[str, Any]]] = {
    CLIP: {
        "config.json": {
            "architectures": ["CLIPModel"], "initializer_factor": 1.0, "logit_scale_init_value": 2.6592,
            "model_type": "clip", "projection_dim": 512, "text_config_dict": None, "torch_dtype": "float32",
            "transformers_version": None, "vision_config_dict": {"patch_size": 16},
            "text_config": {
                **_CLIP_DEFAULTS, "bos_token_id": 0, "eos_token_id": 2, "hidden_size": 512, "intermediate_size": 2048,
                "max_position_embeddings": 77, "model_type": "clip_text_model", "num_attention_heads": 8,
                "num_hidden_layers": 12, "pad_token_id": 1, "vocab_size": 49408,
            },
            "vision_config": {
                **_CLIP_DEFAULTS, "bos_token_id": None, "eos_token_id": None, "hidden_size": 768, "image_size": 224,
                "intermediate_size": 3072, "model_type": "clip_vision_model", "num_attention_heads": 12,
                "num_hidden_layers": 12, "pad_token_id": None, "patch_size": 16,
            },
        }
    },
    SD: {
        "scheduler/scheduler_config.json": {
            "_class_name": "PNDMScheduler", "_diffusers_version": "0.10.0.dev0", "beta_end": 0.012,
            "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": False, "num_train_timesteps": 1000,
            "prediction_type": "epsilon", "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1,
            "trained_betas": None,
        },
        "text_encoder/config.json": {
            "_name_or_path": "stabilityai/stable-diffusion-2", "architectures": ["CLIPTextModel"],
            "attention_dropout": 0.0, "bos_token_id": 0, "dropout": 0.0, "eos_token_id": 2, "hidden_act": "gelu",
            "hidden_size": 1024, "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": 4096,
            "layer_norm_eps": 1e-5, "max_position_embeddings": 77, "model_type": "clip_text_model",
            "num_attention_heads": 16, "num_hidden_layers": 23, "pad_token_id": 1, "projection_dim": 512,
            "torch_dtype": "float32", "transformers_version": "4.25.0.dev0", "vocab_size": 49408,
        },
        "unet/config.json": {
            "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.10.0.dev0", "act_fn": "silu",
            "attention_head_dim": [5, 10, 20, 20], "block_out_channels": [320, 640, 1280, 1280],
            "center_input_sample": False, "cross_attention_dim": 1024,
            "down_block_types": [*_ATTENTION[0], "DownBlock2D"], "downsample_padding": 1, "dual_cross_attention": False,
            "flip_sin_to_cos": True, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2,
            "mid_block_scale_factor": 1, "norm_eps": 1e-5, "norm_num_groups": 32, "num_class_embeds": None,
            "only_cross_attention": False, "out_channels": 4, "sample_size": 64,
            "up_block_types": ["UpBlock2D", *_ATTENTION[1]], "use_linear_projection": True,
        },
        "vae/config.json": {
            "_class_name": "AutoencoderKL", "_diffusers_version": "0.10.0.dev0", "act_fn": "silu",
            "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
            "in_channels": 3, "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 32, "out_channels": 3,
            "sample_size": 768, "up_block_types": ["UpDecoderBlock2D"] * 4,
        },
    },
    TAESD: {
        "config.json": {
            "_class_name": "AutoencoderTiny", "_diffusers_version": "0.20.0.dev0", "act_fn": "relu",
            "decoder_block_out_channels": [64] * 4, "encoder_block_out_channels": [64] * 4, "force_upcast": False,
            "in_channels": 3, "latent_channels": 4, "latent_magnitude": 3, "latent_shift": 0.5,
            "num_decoder_blocks": [3, 3, 3, 1], "num_encoder_blocks": [1, 3, 3, 3], "out_channels": 3,
            "scaling_factor": 1.0, "upsampling_scaling_factor": 2,
        }
    },
}  # fmt: skip
"""By network of the lock and path in its repository."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a published file."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """In bytes."""
        size = 8 if self.dtype == "I64" else 4
        for side in self.shape:
            size *= side
        return size


def config_text(config: Mapping[str, Any]) -> bytes:
    """A configuration as its publisher's library wrote it."""
    return (json.dumps(config, indent=2, sort_keys=True) + "\n").replace('dim ":', 'dim" :').encode()


def shrunken() -> dict[str, dict[str, dict[str, Any]]]:
    """The configurations with narrower layers; files, layers, types and the names of all tensors stay."""
    configs = deepcopy(CONFIGS)
    clip, text, unet = (
        configs[CLIP]["config.json"],
        configs[SD]["text_encoder/config.json"],
        configs[SD]["unet/config.json"],
    )
    for tower in (clip["text_config"], clip["vision_config"], text):
        tower["hidden_size"] //= 8
        tower["intermediate_size"] //= 8
    # What stands in it replaces the whole of vision_config, with the library's defaults around it.
    clip["vision_config_dict"] |= {name: clip["vision_config"][name] for name in ("hidden_size", "intermediate_size")}
    # Where levels change their width stays as it is, and so do the shortcuts there; groups of normalisation are 32.
    unet["block_out_channels"], unet["attention_head_dim"] = [160, 192, 256, 256], [5, 6, 8, 8]
    unet["cross_attention_dim"] = text["hidden_size"]
    configs[SD]["vae/config.json"]["block_out_channels"] = [32, 64, 96, 96]
    return configs


def tensors(configs: Mapping[str, Mapping[str, Mapping[str, Any]]], network: str, path: str) -> list[Tensor]:
    """The tensors of a weight file, in the order in which it holds them."""
    with torch.device("meta"):
        named = dict(_module(configs[network], path).state_dict())
    found = [Tensor(_published_name(path, name), "F32", tuple(tensor.shape)) for name, tensor in named.items()]
    found += [Tensor(name, "I64", (1, length)) for name, length in _position_ids(configs[network], path).items()]
    # safetensors before 0.3 sorted by name, since then the widest type comes first.
    by_name = path.startswith("text_encoder/")
    return sorted(found, key=lambda tensor: (0 if by_name or tensor.dtype == "I64" else 1, tensor.name))


def is_padded(path: str) -> bool:
    """Whether the header is filled up to 8 bytes, as safetensors does since 0.3.2; TAESD is younger than the others."""
    return path == "diffusion_pytorch_model.safetensors"


def _module(configs: Mapping[str, Mapping[str, Any]], path: str) -> torch.nn.Module:
    if path == "pytorch_model.bin":
        clip = {key.strip(): value for key, value in _stripped(configs["config.json"]).items()}
        return CLIPModel(CLIPConfig(**clip))
    if path.startswith("text_encoder/"):
        return CLIPTextModel(CLIPTextConfig(**configs["text_encoder/config.json"]))
    if path.startswith("unet/"):
        unet: torch.nn.Module = UNet2DConditionModel.from_config(dict(configs["unet/config.json"]))
        return unet
    if path.startswith("vae/"):
        vae: torch.nn.Module = AutoencoderKL.from_config(dict(configs["vae/config.json"]))
        return vae
    taesd: torch.nn.Module = AutoencoderTiny.from_config(dict(configs["config.json"]))
    return taesd


def _stripped(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key.strip(): _stripped(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if not key.endswith("_dict")
    }


def _published_name(path: str, name: str) -> str:
    """The name of a tensor in the file; the libraries have renamed some since, and rename them while they read."""
    if path.startswith("vae/"):
        for new, old in OLD_ATTENTION.items():
            name = name.replace(new, old)
    if path.startswith("text_encoder/") and not name.startswith("text_model."):
        name = f"text_model.{name}"
    return name


def _position_ids(configs: Mapping[str, Mapping[str, Any]], path: str) -> dict[str, int]:
    """Numbers of positions, which transformers before 4.31 saved as well."""
    if path.startswith("text_encoder/"):
        return {"text_model.embeddings.position_ids": 77}
    if path != "pytorch_model.bin":
        return {}
    vision = configs["config.json"]["vision_config"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    return {"text_model.embeddings.position_ids": 77, "vision_model.embeddings.position_ids": patches + 1}
