"""True architectures with random weights, and a vocabulary for them: for builds and timings where no weights are at hand.

Labels that come from them mean nothing. Every network draws from a generator of its own, so that its weights depend
on the seed alone and not on what was made before it.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from jaxtyping import Float
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from torch import Tensor, nn
from transformers import CLIPModel

from nerve_ref.providers.dino import DinoModel
from nerve_ref.providers.stable_diffusion import Autoencoder
from nerve_ref.weights.architectures import network_config
from nerve_ref.weights.builders import autoencoder_around, clip_around, dino_around, unet_around
from nerve_ref.weights.configs.own import AnyNetwork

JITTER = 0.02
"""Deviation of biases from 0 and of scales from 1: exactly there, optimisers of graphs would find them and drop them,
and a random build would be smaller and faster than a true one."""
START, END = "<|startoftext|>", "<|endoftext|>"
CLIP_TOKENS = 49408
CLIP_LENGTH = 77
BYTES = 256


def random_clip(network: AnyNetwork, seed: int) -> CLIPModel:
    """CLIP of the named architecture."""
    return _random(lambda: clip_around(network_config(network, "clip")), seed, "clip")


def random_unet(network: AnyNetwork, seed: int) -> UNet2DConditionModel:
    """UNet of the named Stable Diffusion."""
    return _random(lambda: unet_around(network_config(network, "unet")), seed, "unet")


def random_autoencoder(network: AnyNetwork, seed: int) -> Autoencoder:
    """Autoencoder of the named Stable Diffusion, or TAESD."""
    vae = _random(lambda: autoencoder_around(network_config(network, "vae")), seed, "vae")
    if isinstance(vae, AutoencoderTiny):
        return vae
    # The scaling factor is one over the deviation of true latents. Random ones lack it: scaled, they were a quarter of
    # the noise that is added to them, and all frames had much the same queries and keys.
    with torch.no_grad():
        last = vae.encoder.conv_out if vae.quant_conv is None else vae.quant_conv
        last.weight /= vae.config.scaling_factor
    return vae


def random_dino(network: AnyNetwork, seed: int) -> DinoModel:
    """DINOv2 or DINOv3 of the named architecture."""
    return _random(lambda: dino_around(network_config(network, "dinov2")), seed, "dinov2")


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
                _restore(model, module, name, buffer)
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


def _restore(model: nn.Module, module: nn.Module, name: str, buffer: Tensor) -> None:
    """Buffers are no weights and were lost with the memory: numbers of positions, and frequencies of DINOv3's turns.

    RADIO's are in its configuration, by the same names.
    """
    if name in ("norm_mean", "norm_std", "summary_idxs"):
        buffer.copy_(torch.tensor(getattr(model.config, name)).view_as(buffer))
        return
    if name == "inv_freq":
        fresh: Any = type(module)(module.config)
        buffer.copy_(fresh.inv_freq)
        return
    if name != "position_ids":
        raise ValueError(
            f"buffer {name!r} of a network has no known content; add it to _restore in nerve_ref/weights/random.py"
        )
    buffer.copy_(torch.arange(buffer.numel()).view_as(buffer))


def synthetic_tokenizer(size: int = CLIP_TOKENS, length: int = CLIP_LENGTH) -> Tokenizer:
    """A tokenizer with CLIP's special tokens, ids and length, that knows no words: one token per byte.

    Any text has ids; text longer than 75 bytes is cut. Ids that bytes do not use are filled up, so that the file is
    as large as a true one.

    Args:
        size: ids that the text tower knows, at least 258; the last two begin and end a text.
        length: tokens that it reads.

    Raises:
        ValueError: there are fewer ids than bytes.
    """
    if size < BYTES + 2:
        raise ValueError(f"a CLIP of {size} token ids cannot tell {BYTES} bytes, a start and an end; give --tokenizer")
    vocabulary = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary |= {f"<|unused {index}|>": index for index in range(len(vocabulary), size - 2)}
    start, end = size - 2, size - 1
    tokenizer = Tokenizer(BPE({**vocabulary, START: start, END: end}, merges=[]))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (START, END)])
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, start), (END, end)]
    )
    tokenizer.enable_padding(pad_id=end, pad_token=END, length=length)
    tokenizer.enable_truncation(length)
    return tokenizer
