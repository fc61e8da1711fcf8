"""The files of the repositories that the presets are built from: true configurations, tensor names, shapes and types.

The numbers in the tensors are random. What is held against the lock (`tests/parity/test_rehearsal.py`): of ten of the
thirteen configurations the SHA-256, of every safetensors file the size to the byte, which the lengths of all names,
shapes and offsets make. Of `pytorch_model.bin`, TAESD's config.json and those of the large CLIPs no such proof is
possible; see docs/real-weights.md.
"""

import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, Dinov2Config, Dinov2Model

from nerve_ref.weights.configs.published import CONFIGS as OURS

CLIP, SD, TAESD, TOKENIZER = "clip-vit-base-patch16", "stable-diffusion-2-1-base", "taesd", "clip-tokenizer"
CLIP_LARGE, CLIP_336 = "clip-vit-large-patch14", "clip-vit-large-patch14-336"
SD15, DINOV2 = "stable-diffusion-v1-5", "dinov2-base"
OLD_ATTENTION = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
"""diffusers before 0.16, which wrote the autoencoder, named its attention so."""
OLD_DINO_ATTENTION = {
    ".attention.q_proj.": ".attention.attention.query.",
    ".attention.k_proj.": ".attention.attention.key.",
    ".attention.v_proj.": ".attention.attention.value.",
    ".attention.o_proj.": ".attention.output.dense.",
}
"""transformers before 5 named the attention of DINOv2 so, and 5 still writes these names."""
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
_SD15_TEXT = {
    "_name_or_path": "openai/clip-vit-large-patch14", "architectures": ["CLIPTextModel"], "attention_dropout": 0.0,
    "bos_token_id": 0, "dropout": 0.0, "eos_token_id": 2, "hidden_act": "quick_gelu", "hidden_size": 768,
    "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-5,
    "max_position_embeddings": 77, "model_type": "clip_text_model", "num_attention_heads": 12, "num_hidden_layers": 12,
    "pad_token_id": 1, "projection_dim": 768, "torch_dtype": "float32", "transformers_version": "4.22.0.dev0",
    "vocab_size": 49408,
}  # fmt: skip


def _large_clip(network: str) -> dict[str, dict[str, Any]]:
    """Sizes of the method's own configuration and the token ids of every OpenAI CLIP; the published text is not known."""
    clip = deepcopy(OURS[network]["clip"])
    clip["text_config"] |= {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "model_type": "clip_text_model"}
    clip["vision_config"]["model_type"] = "clip_vision_model"
    return {"config.json": {"architectures": ["CLIPModel"], "model_type": "clip", **clip}}


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
    SD15: {
        "scheduler/scheduler_config.json": {
            "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012,
            "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000,
            "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None,
            "~clip_sample": False,
        },
        "text_encoder/config.json": _SD15_TEXT,
        "unet/config.json": {
            "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0", "act_fn": "silu",
            "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": False,
            "cross_attention_dim": 768, "down_block_types": [*_ATTENTION[0], "DownBlock2D"], "downsample_padding": 1,
            "flip_sin_to_cos": True, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2,
            "mid_block_scale_factor": 1, "norm_eps": 1e-5, "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
            "up_block_types": ["UpBlock2D", *_ATTENTION[1]],
        },
        "vae/config.json": {
            "_class_name": "AutoencoderKL", "_diffusers_version": "0.6.0", "act_fn": "silu",
            "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
            "in_channels": 3, "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 32, "out_channels": 3,
            "sample_size": 512, "up_block_types": ["UpDecoderBlock2D"] * 4,
        },
    },
    DINOV2: {
        "config.json": {
            "architectures": ["Dinov2Model"], "attention_probs_dropout_prob": 0.0, "drop_path_rate": 0.0,
            "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "hidden_size": 768, "image_size": 518,
            "initializer_range": 0.02, "layer_norm_eps": 1e-6, "layerscale_value": 1.0, "mlp_ratio": 4,
            "model_type": "dinov2", "num_attention_heads": 12, "num_channels": 3, "num_hidden_layers": 12,
            "patch_size": 14, "qkv_bias": True, "torch_dtype": "float32", "transformers_version": "4.31.0.dev0",
            "use_swiglu_ffn": False,
        }
    },
    CLIP_LARGE: _large_clip(CLIP_LARGE),
    CLIP_336: _large_clip(CLIP_336),
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


class Writer(Enum):
    """The release of safetensors that wrote a file: how it ordered the tensors, and how far it filled up the header."""

    BEFORE_0_3 = "by name, not filled up"
    IS_0_3_0 = "the widest type first, filled up by as many bytes as were too many where the missing ones were meant"
    SINCE_0_3_1 = "the widest type first, filled up to 8 bytes"

    def ordered(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """The tensors as it lays them out."""
        by_name = self is Writer.BEFORE_0_3
        return sorted(tensors, key=lambda tensor: (0 if by_name or tensor.dtype == "I64" else 1, tensor.name))

    def padding(self, length: int) -> int:
        """How many spaces it puts behind a header of so many bytes."""
        return {Writer.BEFORE_0_3: 0, Writer.IS_0_3_0: length % 8, Writer.SINCE_0_3_1: -length % 8}[self]


WRITERS = {SD: Writer.BEFORE_0_3, SD15: Writer.IS_0_3_0}
"""What wrote the files of a network, where it was not a later release."""


def writer(network: str) -> Writer:
    """What wrote the safetensors of a network; the sizes of its files fit no other, but where all of them give the same."""
    return WRITERS.get(network, Writer.SINCE_0_3_1)


def config_text(config: Mapping[str, Any]) -> bytes:
    """A configuration as its publisher's library wrote it; a name behind `~` was added at the end by hand."""
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    return text.replace('dim ":', 'dim" :').replace('"~', '"').encode()


def shrunken() -> dict[str, dict[str, dict[str, Any]]]:
    """The configurations with narrower layers; files, layers, types and the names of all tensors stay."""
    configs = deepcopy(CONFIGS)
    clips = [configs[name]["config.json"] for name in (CLIP, CLIP_LARGE, CLIP_336)]
    texts = [configs[name]["text_encoder/config.json"] for name in (SD, SD15)]
    for tower in (*texts, *(clip[name] for clip in clips for name in ("text_config", "vision_config"))):
        tower["hidden_size"] //= 8
        tower["intermediate_size"] //= 8
    # What stands in it replaces the whole of vision_config, with the library's defaults around it.
    base = clips[0]
    base["vision_config_dict"] |= {name: base["vision_config"][name] for name in ("hidden_size", "intermediate_size")}
    for name, text, heads in zip((SD, SD15), texts, ([5, 6, 8, 8], 8), strict=True):
        unet = configs[name]["unet/config.json"]
        # Where levels change their width stays as it is, and so do the shortcuts; groups of normalisation are 32.
        unet["block_out_channels"], unet["attention_head_dim"] = [160, 192, 256, 256], heads
        unet["cross_attention_dim"] = text["hidden_size"]
        configs[name]["vae/config.json"]["block_out_channels"] = [32, 64, 96, 96]
    configs[DINOV2]["config.json"]["hidden_size"] //= 8
    return configs


def tensors(configs: Mapping[str, Mapping[str, Mapping[str, Any]]], network: str, path: str) -> list[Tensor]:
    """The tensors of a weight file, in the order in which it holds them."""
    with torch.device("meta"):
        named = dict(_module(configs[network], path).state_dict())
    found = [Tensor(published_name(network, path, name), "F32", tuple(each.shape)) for name, each in named.items()]
    found += [Tensor(name, "I64", (1, length)) for name, length in _position_ids(configs[network], path).items()]
    return writer(network).ordered(found)


def _module(configs: Mapping[str, Mapping[str, Any]], path: str) -> torch.nn.Module:
    folder, _, _ = path.rpartition("/")
    config = configs[f"{folder}/config.json" if folder else "config.json"]
    if config.get("model_type") == "clip":
        return CLIPModel(CLIPConfig(**{key.strip(): value for key, value in _stripped(config).items()}))
    if config.get("model_type") == "dinov2":
        return Dinov2Model(Dinov2Config(**config))
    if config.get("model_type") == "clip_text_model":
        return CLIPTextModel(CLIPTextConfig(**config))
    kinds = {"UNet2DConditionModel": UNet2DConditionModel, "AutoencoderKL": AutoencoderKL}
    module: torch.nn.Module = kinds.get(config["_class_name"], AutoencoderTiny).from_config(dict(config))
    return module


def _stripped(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key.strip(): _stripped(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if not key.endswith("_dict")
    }


def published_name(network: str, path: str, name: str) -> str:
    """The name of a tensor in the file; the libraries have renamed some since, and rename them while they read."""
    renamed = OLD_DINO_ATTENTION if network == DINOV2 else OLD_ATTENTION if path.startswith("vae/") else {}
    for new, old in renamed.items():
        name = name.replace(new, old)
    if path.startswith("text_encoder/") and not name.startswith("text_model."):
        name = f"text_model.{name}"
    return name


def _position_ids(configs: Mapping[str, Mapping[str, Any]], path: str) -> dict[str, int]:
    """Numbers of positions, which transformers before 4.31 saved as well."""
    if path.startswith("text_encoder/"):
        return {"text_model.embeddings.position_ids": 77}
    vision = configs.get("config.json", {}).get("vision_config")
    if vision is None:
        return {}
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    return {"text_model.embeddings.position_ids": 77, "vision_model.embeddings.position_ids": patches + 1}
