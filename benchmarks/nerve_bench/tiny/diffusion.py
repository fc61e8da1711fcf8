"""The tiny diffusion pair: a VAE of factor 2 and a UNet whose self-attention learns which pixels belong together.

Timesteps cover the full range: a spike on low noise alone grew no useful attention. With latents of 64 x 64 and no
attention on the first level, attention sits at 32 x 32 and 16 x 16, finer than the tiny CLIP's 8 x 8 tokens.
"""

from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nerve_bench.tiny.dataset import CaptionedScenes, ProgressFactory
from nerve_bench.tiny.loop import Losses, step_rng

VAE_BATCH, UNET_BATCH = 8, 4
KL_WEIGHT = 1e-4
CONTEXT_TOKENS, CONTEXT_WIDTH = 4, 8


def build_vae() -> AutoencoderKL:
    """An AutoencoderKL of two levels (16, 32 channels): 128 px to a latent of 4 x 64 x 64."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=128,
        mid_block_add_attention=False,  # 4096 x 4096 attention would cost more than the rest of the encoder
    )


def build_unet() -> UNet2DConditionModel:
    """A UNet2DConditionModel of three levels (32, 64, 64 channels) with attention at 32 x 32 (down, up) and 16 x 16."""
    return UNet2DConditionModel(
        sample_size=64,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type=None,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        cross_attention_dim=CONTEXT_WIDTH,
        attention_head_dim=[2, 4, 4],
        norm_num_groups=8,
        use_linear_projection=True,
    )


def noise_scheduler() -> DDPMScheduler:
    """Stable Diffusion's noise schedule (scaled linear, 1000 steps, epsilon)."""
    return DDPMScheduler(
        num_train_timesteps=1000, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False
    )


class VaeLoss:
    """Mean absolute reconstruction error plus a whisper of KL."""

    def __init__(self, scenes: CaptionedScenes, device: str) -> None:
        self.scenes, self.device = scenes, device

    def __call__(self, model: Any, step: int) -> Losses:
        """Losses of one batch, chosen by the step alone."""
        index = step_rng(step).choice(len(self.scenes.rgb), VAE_BATCH, replace=False)
        pixels = _signed(self.scenes.rgb[index], self.device)
        posterior = model.encode(pixels).latent_dist
        picture = model.decode(posterior.sample()).sample
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return {"reconstruction": (picture - pixels).abs().mean(), "kl": KL_WEIGHT * kl}


class UnetLoss:
    """Mean squared error of the predicted noise, timesteps over the full range, empty context."""

    def __init__(self, latents: Tensor, device: str) -> None:
        self.latents, self.device = latents, device
        self.scheduler = noise_scheduler()

    def __call__(self, model: Any, step: int) -> Losses:
        """Losses of one batch, chosen by the step alone."""
        rng = step_rng(step)
        index = torch.from_numpy(rng.choice(len(self.latents), UNET_BATCH, replace=False))
        clean = self.latents[index].float().to(self.device)
        noise = torch.from_numpy(rng.normal(size=tuple(clean.shape)).astype(np.float32)).to(self.device)
        timesteps = torch.from_numpy(rng.integers(0, 1000, UNET_BATCH)).to(self.device)
        context = torch.zeros(UNET_BATCH, CONTEXT_TOKENS, CONTEXT_WIDTH, device=self.device)
        predicted = model(self.scheduler.add_noise(clean, noise, timesteps), timesteps, context).sample
        return {"noise": functional.mse_loss(predicted, noise)}


@torch.no_grad()
def encode_all(vae: AutoencoderKL, rgb: NDArray[np.uint8], device: str, progress: ProgressFactory) -> Tensor:
    """Posterior means of all pictures, not yet scaled: float16 (n,4,64,64)."""
    batches = [
        vae.encode(_signed(rgb[start : start + 64], device)).latent_dist.mean.half().cpu()
        for start in progress(range(0, len(rgb), 64), "encoding latents")
    ]
    return torch.cat(batches)


def _signed(rgb: NDArray[np.uint8], device: str) -> Tensor:
    """Pixels uint8 (n,H,W,3) as float (n,3,H,W) in -1..1."""
    return torch.from_numpy(rgb.copy()).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
