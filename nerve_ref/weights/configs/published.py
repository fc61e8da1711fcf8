"""The true configurations of the networks that shipped presets name, and the libraries' defaults; imports no torch."""

from typing import Any


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

DINO_TYPES = ("dinov2", "dinov2_with_registers", "dinov3_vit", "radio")
"""`model_type` of the DINOs and their kin that can be read; all of them play the role "dinov2"."""
LIBRARY_DEFAULTS: dict[str, dict[str, Any]] = {
    "text_config": {
        "vocab_size": 49408,
        "hidden_size": 512,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "max_position_embeddings": 77,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
    },
    "vision_config": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 32,
    },
    "clip": {"projection_dim": 512},
    "text_encoder": {"hidden_size": 512, "max_position_embeddings": 77},
    "dinov2": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 14},
    "dinov2_with_registers": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "patch_size": 16,
    },
    "dinov3_vit": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 16},
    "radio": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "patch_size": 16},
    "unet": {
        "in_channels": 4,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "cross_attention_dim": 1280,
        "transformer_layers_per_block": 1,
        "attention_head_dim": 8,
    },
    "AutoencoderKL": {
        "in_channels": 3,
        "block_out_channels": [64],
        "latent_channels": 4,
        "scaling_factor": 0.18215,
    },
    "AutoencoderTiny": {
        "in_channels": 3,
        "encoder_block_out_channels": [64, 64, 64, 64],
        "latent_channels": 4,
        "scaling_factor": 1.0,
    },
}
"""What transformers and diffusers take where a config.json leaves out a field that shapes are computed from."""
