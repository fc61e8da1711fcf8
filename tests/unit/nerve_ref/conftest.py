"""Tiny random networks of the same kinds as the real ones, made once per session."""

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from nerve_ref.params import NerveParams
from nerve_ref.providers.provider import StableDiffusion
from nerve_ref.text import TextBank, parse_classes, text_bank
from nerve_ref.weights.networks import Models

WORDS = ("<start>", "<end>", "<unk>", "a", "photo", "of", ".", "ladybug", "beetle", "grass", "road", "sky", "sand")
TEXT_LENGTH = 12


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    words = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)]
    )
    words.enable_padding(pad_id=1, pad_token="<end>", length=TEXT_LENGTH)
    words.enable_truncation(TEXT_LENGTH)
    return words


@pytest.fixture(scope="session")
def clip() -> CLIPModel:
    """Three vision blocks of two heads, 64 px in patches of 16; eager attention, so that it can be asked for."""
    torch.manual_seed(0)
    text = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "vocab_size": len(WORDS),
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": TEXT_LENGTH,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    vision = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 16,
        "initializer_factor": 20.0,  # the usual weights are so small that every patch looks the same
    }
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8, attn_implementation="eager")
    return CLIPModel(config).eval()


@pytest.fixture(scope="session")
def unet() -> UNet2DConditionModel:
    """Attention at 16 x 16 (down_blocks.1, up_blocks.1) and 8 x 8 (down_blocks.2), two heads each."""
    torch.manual_seed(1)
    model = UNet2DConditionModel(
        sample_size=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type=None,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=[1, 2, 2],
        norm_num_groups=4,
        use_linear_projection=True,
    )
    return model.eval()


@pytest.fixture(scope="session")
def vae() -> AutoencoderKL:
    """Factor 2: 64 px to a latent of 32 x 32."""
    torch.manual_seed(2)
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        mid_block_add_attention=False,
        scaling_factor=0.5,
    )
    return model.eval()


@pytest.fixture(scope="session")
def models(clip: CLIPModel, tokenizer: Tokenizer, provider: StableDiffusion) -> Models:
    return Models.ready(clip, tokenizer, provider)


@pytest.fixture(scope="session")
def provider(vae: AutoencoderKL, unet: UNet2DConditionModel) -> StableDiffusion:
    schedule = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).alphas_cumprod
    return StableDiffusion(vae, unet, schedule, torch.zeros(1, 4, 8))


@pytest.fixture
def params() -> NerveParams:
    return NerveParams(
        size_hw=(64, 64),
        clip_size_hw=(64, 64),
        clip_mode="maskclip",
        tau=30.0,
        template_set="single",
        layers=("down_blocks.1.attentions.0",),
        pooled_hw=(8, 8),
    )


@pytest.fixture(scope="session")
def bank(clip: CLIPModel, tokenizer: Tokenizer) -> TextBank:
    return text_bank(clip, tokenizer, parse_classes("ladybug, beetle; grass; road"), ("a photo of a {}.",))


@pytest.fixture(scope="session")
def frame() -> Tensor:
    """A 64 x 64 picture of four flat corners under noise."""
    generator = torch.Generator().manual_seed(3)
    corners = torch.randint(0, 200, (2, 2, 3), generator=generator)
    picture = corners.repeat_interleave(32, 0).repeat_interleave(32, 1)
    return (picture + torch.randint(0, 56, (64, 64, 3), generator=generator)).to(torch.uint8)
