"""True architectures with random weights, and a vocabulary for them: for builds and timings where no weights are at hand.

Labels that come from them mean nothing. Every network draws from a generator of its own, so that its weights depend
on the seed alone and not on what was made before it.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from jaxtyping import Float
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

from nerve_ref.providers.stable_diffusion import Autoencoder
from nerve_ref.weights.architectures import network_config

JITTER = 0.02
"""Deviation of biases from 0 and of scales from 1: exactly there, optimisers of graphs would find them and drop them,
and a random build would be smaller and faster than a true one."""
START, END = "<|startoftext|>", "<|endoftext|>"
CLIP_TOKENS = 49408
CLIP_LENGTH = 77


def random_clip(name: str, seed: int) -> CLIPModel:
    """CLIP of the named architecture."""
    return _random(lambda: CLIPModel(CLIPConfig(**network_config(name, "clip"))), seed, "clip")


def random_unet(name: str, seed: int) -> UNet2DConditionModel:
    """UNet of the named Stable Diffusion."""
    return _random(lambda: UNet2DConditionModel.from_config(network_config(name, "unet")), seed, "unet")


def random_autoencoder(name: str, seed: int) -> Autoencoder:
    """Autoencoder of the named Stable Diffusion, or TAESD."""
    config = network_config(name, "vae")
    if "encoder_block_out_channels" in config:
        return _random(lambda: AutoencoderTiny.from_config(config), seed, "vae")
    vae = _random(lambda: AutoencoderKL.from_config(config), seed, "vae")
    # The scaling factor is one over the deviation of true latents. Random ones lack it: scaled, they were a quarter of
    # the noise that is added to them, and all frames had much the same queries and keys.
    with torch.no_grad():
        vae.quant_conv.weight /= vae.config.scaling_factor
    return vae


def random_dinov2(name: str, seed: int) -> Dinov2Model:
    """DINOv2 of the named architecture."""
    return _random(lambda: Dinov2Model(Dinov2Config(**network_config(name, "dinov2"))), seed, "dinov2")


def random_context(length: int, width: int, seed: int) -> Float[Tensor, "1 l d"]:
    """An embedding of the empty prompt: standard normal, the scale of a text encoder's normalised output."""
    return torch.randn(1, length, width, generator=_generator(seed, "context"))


def _generator(seed: int, network: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {network}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _random(build: Callable[[], nn.Module], seed: int, network: str) -> Any:
    """Build without memory, then draw each parameter once: the libraries' own initialisation takes minutes."""
    with torch.device("meta"):
        model = build()
    model.to_empty(device="cpu")
    generator = _generator(seed, network)
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                _draw(module, name, parameter, generator)
            for name, buffer in module.named_buffers(recurse=False):
                _restore(name, buffer)
    return model


def _draw(module: nn.Module, name: str, parameter: Tensor, generator: torch.Generator) -> None:
    """Keep variance: 1 / fan-in for products, so that each layer hands on the scale that it was given."""
    parameter.normal_(generator=generator)
    if name == "bias":
        parameter.mul_(JITTER)
    elif isinstance(module, nn.Linear | nn.Conv2d):
        parameter.mul_(parameter[0].numel() ** -0.5)
    elif isinstance(module, nn.LayerNorm | nn.GroupNorm) or name == "lambda1":
        parameter.mul_(JITTER).add_(1)
    elif parameter.ndim > 0:  # tables and single tokens: positions must not drown what is seen there
        parameter.mul_(parameter.shape[-1] ** -0.5)


def _restore(name: str, buffer: Tensor) -> None:
    """Buffers are no weights and were lost with the memory; only the numbers of positions occur."""
    if name != "position_ids":
        raise ValueError(
            f"buffer {name!r} of a network has no known content; add it to _restore in nerve_ref/weights/random.py"
        )
    buffer.copy_(torch.arange(buffer.numel()).view_as(buffer))


def synthetic_tokenizer() -> Tokenizer:
    """A tokenizer with CLIP's special tokens, ids and length, that knows no words: one token per byte.

    Any text has ids; text longer than 75 bytes is cut. Ids that bytes do not use are filled up, so that the file is
    as large as a true one.
    """
    vocabulary = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary |= {f"<|unused {index}|>": index for index in range(len(vocabulary), CLIP_TOKENS - 2)}
    start, end = CLIP_TOKENS - 2, CLIP_TOKENS - 1
    tokenizer = Tokenizer(BPE({**vocabulary, START: start, END: end}, merges=[]))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (START, END)])
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, start), (END, end)]
    )
    tokenizer.enable_padding(pad_id=end, pad_token=END, length=CLIP_LENGTH)
    tokenizer.enable_truncation(CLIP_LENGTH)
    return tokenizer
