"""Latents, noise, and queries and keys taken from a UNet that runs on unchanged."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from torch import Tensor

from nerve_ref.providers.provider import StableDiffusion
from nerve_ref.providers.stable_diffusion import latent, noised, unet_heads

CONTEXT = torch.zeros(1, 4, 8)


@pytest.fixture(scope="module")
def z_t() -> Tensor:
    return torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(5))


def test_a_latent_is_the_scaled_posterior_mean(vae: AutoencoderKL, frame: Tensor) -> None:
    pixels = torch.from_numpy(frame.numpy().astype(np.float32).transpose(2, 0, 1)[None] / 127.5 - 1)
    with torch.no_grad():
        expected = vae.encode(pixels).latent_dist.mode() * 0.5
        torch.testing.assert_close(latent(vae, frame), expected)
        torch.testing.assert_close(latent(vae, frame), latent(vae, frame), rtol=0, atol=0)


def test_the_tiny_autoencoder_takes_the_same_frame(frame: Tensor) -> None:
    torch.manual_seed(0)
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        scaling_factor=2.0,
    )
    with torch.no_grad():
        expected = 2 * vae.encoder(frame.permute(2, 0, 1)[None].float() / 127.5 - 1)
        torch.testing.assert_close(latent(vae, frame), expected)


def test_noise_is_the_same_for_every_back_end() -> None:
    clean, schedule = torch.ones(1, 4, 2, 3), torch.tensor([1.0, 0.25])
    noise = np.random.default_rng(7).standard_normal((1, 4, 2, 3), dtype=np.float32)
    np.testing.assert_allclose(noised(clean, schedule, 1, "fixed", 7), 0.5 + np.sqrt(0.75) * noise, rtol=1e-6)
    np.testing.assert_allclose(noised(clean, schedule, 1, "none", 7), 0.5)


def test_capturing_leaves_the_output_of_the_unet_as_it_was(unet: UNet2DConditionModel, z_t: Tensor) -> None:
    outputs = []
    handle = unet.register_forward_hook(lambda _module, _inputs, output: outputs.append(output.sample))
    before = unet.attn_processors
    with torch.no_grad():
        unet(z_t, 100, encoder_hidden_states=CONTEXT)
        unet_heads(unet, z_t, 100, CONTEXT, ["down_blocks.1.attentions.0", "up_blocks.1.attentions.1"])
    handle.remove()
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-6, rtol=1e-5)
    assert unet.attn_processors == before


def test_heads_are_the_projections_of_the_layer_input(unet: UNet2DConditionModel, z_t: Tensor) -> None:
    attention = unet.down_blocks[2].attentions[0].transformer_blocks[0].attn1
    seen: list[Tensor] = []
    handle = attention.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        (heads,) = unet_heads(unet, z_t, 100, CONTEXT, ["down_blocks.2.attentions.0"])
    handle.remove()
    assert heads.name == "down_blocks.2.attentions.0.transformer_blocks.0"
    assert (heads.q.shape, heads.grid_hw) == ((2, 64, 8), (8, 8))
    for projection, taken in ((attention.to_q, heads.q), (attention.to_k, heads.k)):
        rows = (seen[0][0] @ projection.weight.T).detach()
        torch.testing.assert_close(taken, torch.stack([rows[:, :8], rows[:, 8:]]), atol=1e-6, rtol=1e-5)


def test_a_frame_that_is_not_square_has_a_grid_that_is_not_square(unet: UNet2DConditionModel) -> None:
    with torch.no_grad():
        (heads,) = unet_heads(unet, torch.zeros(1, 4, 16, 32), 100, CONTEXT, ["down_blocks.1.attentions.0"])
    assert heads.grid_hw == (8, 16)


def test_an_unknown_layer_is_refused_listing_those_that_exist(unet: UNet2DConditionModel, z_t: Tensor) -> None:
    listed = (
        "down_blocks.1.attentions.0, down_blocks.2.attentions.0, up_blocks.1.attentions.0, up_blocks.1.attentions.1"
    )
    with pytest.raises(ValueError, match=f"no self-attention layer 'up_blocks.3' in this UNet; it has: {listed}"):
        unet_heads(unet, z_t, 100, CONTEXT, ["up_blocks.3"])


def test_processors_come_back_after_an_error(unet: UNet2DConditionModel) -> None:
    before = unet.attn_processors
    with pytest.raises(RuntimeError):
        unet_heads(unet, torch.zeros(1, 4, 32, 32), 100, torch.zeros(1, 4, 5), ["down_blocks.1.attentions.0"])
    assert unet.attn_processors == before


def test_queries_and_keys_can_be_exported(unet: UNet2DConditionModel, provider: StableDiffusion, z_t: Tensor) -> None:
    class Keys(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = unet

        def forward(self, latent: Tensor) -> Tensor:
            noisy = noised(latent, provider.alphas_cumprod, 100, "fixed", 0)
            return unet_heads(self.unet, noisy, 100, CONTEXT, ["down_blocks.1.attentions.0"])[0].k

    with torch.no_grad():
        program = torch.export.export(Keys().eval(), (z_t,), strict=False)
        torch.testing.assert_close(program.module()(z_t), Keys()(z_t), atol=1e-5, rtol=1e-5)
