"""The tiny CLIP: coarse patches that know the words of the world, learned from captions alone.

A loss on the CLS token alone learns captions but leaves patches misnamed (spike: 87 % of captions, wrong patches).
So the value-path patch features, the ones that `maskclip` reads out, are in the loss too, by image-level words only.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel

from nerve_bench.tiny.dataset import CONTEXT_LENGTH, TEMPLATE, CaptionedScenes, make_tokenizer
from nerve_bench.tiny.loop import Losses, step_rng
from nerve_bench.world import CLASS_NAMES, STUFF, words_of

PIXEL_MEAN, PIXEL_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
BATCH = 32
PATCH_TEMPERATURE = 25.0
POOL_SHARPNESS = 1.5
"""Of the soft maximum over the patches that says how well a noun fits somewhere."""
STUFF_WEIGHT = 0.5
"""Weight of a kind of ground against that of a thing: grounds are in every picture, each thing in one of thirty."""
MANY_PATCHES, FEW_PATCHES = (20, 12), (8, 2)
"""How many of the 64 patches a kind of ground and a thing explain at least, where a caption names them.

Training starts with many, by which things are found whole, and ends with few. Many to the end make small things explain
the ground around them (after 6,000 steps 30 % of it, full NERVE at 65 mIoU; 900 steps with few: 12 %, 77 mIoU). So does
a loss on the mean over all patches, which is least where all nouns of a picture have equal shares.
"""
SHIFT_PX, EXPOSURE = 8, 0.1
"""Largest shift and change of brightness (per colour) of a training picture, against learning scenes by heart."""


def build_clip() -> CLIPModel:
    """A CLIP of 4 vision layers of width 192 and 2 text layers of width 64: 128 px in patches of 16, so 8 x 8 tokens."""
    tokenizer = make_tokenizer()
    shared = {"num_attention_heads": 4, "projection_dim": 128, "hidden_act": "gelu"}
    end = tokenizer.token_to_id("<end>")
    text = shared | {
        "hidden_size": 64,
        "intermediate_size": 128,
        "vocab_size": tokenizer.get_vocab_size(),
        "num_hidden_layers": 2,
        "max_position_embeddings": CONTEXT_LENGTH,
        "bos_token_id": tokenizer.token_to_id("<start>"),
        "eos_token_id": end,
        "pad_token_id": end,
    }
    vision = shared | {
        "hidden_size": 192,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "image_size": 128,
        "patch_size": 16,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))
    model.set_attn_implementation("eager")  # with 65 tokens a training step on a processor is a fifth shorter
    return model


class ClipLoss:
    """Losses on image-level words only.

    `caption`: CLIP's contrastive loss. `rank`: each noun of the picture fits some patch better than any absent noun fits
    any. `patches`: every patch is explained by nouns of its picture. `spread`: every noun of the picture explains at
    least a few of its patches (`least`: of a kind of ground, of a thing), or the ground would explain everything.
    """

    def __init__(self, scenes: CaptionedScenes, device: str, least: tuple[int, int]) -> None:
        self.scenes, self.device, self.least, self.tokenizer = scenes, device, least, make_tokenizer()
        self.mean = torch.tensor(PIXEL_MEAN, device=device).view(1, 3, 1, 1)
        self.std = torch.tensor(PIXEL_STD, device=device).view(1, 3, 1, 1)
        self.noun_weights = torch.ones(len(CLASS_NAMES), device=device)
        self.noun_weights[: len(STUFF)] = STUFF_WEIGHT

    def __call__(self, model: CLIPModel, step: int) -> Losses:
        """Losses of one batch; the batch depends on the step alone, so that a resumed run is the same run."""
        rng = step_rng(step)
        index = np.sort(rng.choice(len(self.scenes.rgb), BATCH, replace=False))
        pixels = torch.from_numpy(self.scenes.rgb[index]).to(self.device).permute(0, 3, 1, 2).float() / 255
        captions = [self.scenes.caption(int(i), rng) for i in index]
        nouns = [TEMPLATE.format(rng.choice(words_of(name))) for name in CLASS_NAMES]
        present = torch.from_numpy(self.scenes.present[index]).to(self.device)
        image, patches = image_and_patch_features(model, (varied(pixels, rng) - self.mean) / self.std)
        words = text_features(model, self._ids(nouns))
        scale = model.logit_scale.clamp(max=4.6).exp()
        caption = self._caption_loss(image, text_features(model, self._ids(captions)), present, scale)
        logits = patches @ words.T * PATCH_TEMPERATURE  # (n,p,c)
        weights = present * self.noun_weights
        share = logits.softmax(-1)
        explained = -torch.log((share * present[:, None]).sum(-1) + 1e-4).mean()
        spread = -(torch.log(_best_shares(share, self.least) + 1e-3) * weights).sum() / weights.sum()
        rank = self._rank_loss(logits, present, weights)
        return {"caption": 0.5 * caption, "rank": 2 * rank, "patches": 0.5 * explained, "spread": 0.5 * spread}

    @staticmethod
    def _rank_loss(logits: Tensor, present: Tensor, weights: Tensor) -> Tensor:
        fits = torch.logsumexp(logits * POOL_SHARPNESS, 1) / POOL_SHARPNESS  # (n,c)
        rivals = torch.logsumexp(fits.masked_fill(present, -1e4), 1, keepdim=True)
        return ((torch.logaddexp(fits, rivals) - fits) * weights).sum() / weights.sum()

    def _ids(self, texts: list[str]) -> Tensor:
        return torch.tensor([encoding.ids for encoding in self.tokenizer.encode_batch(texts)], device=self.device)

    @staticmethod
    def _caption_loss(image: Tensor, captions: Tensor, present: Tensor, scale: Tensor) -> Tensor:
        logits = image @ captions.T * scale
        same = (present[:, None] == present[None]).all(-1).float()  # equal captions are no negatives
        target = same / same.sum(1, keepdim=True)
        return -((target * logits.log_softmax(1)).sum(1).mean() + (target * logits.T.log_softmax(1)).sum(1).mean()) / 2


def _best_shares(share: Tensor, least: tuple[int, int]) -> Tensor:
    """Mean share (n,c) of each noun in the `least` patches, of share (n,p,c), that it explains best."""
    stuff = share[..., : len(STUFF)].topk(least[0], dim=1).values.mean(1)
    things = share[..., len(STUFF) :].topk(least[1], dim=1).values.mean(1)
    return torch.cat([stuff, things], dim=1)


def varied(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """The batch (n,3,H,W), mirrored or not, shifted by up to `SHIFT_PX`, each picture's colours brighter or darker."""
    if rng.random() < 0.5:
        pixels = pixels.flip(3)
    height, width = pixels.shape[2:]
    top, left = (int(shift) for shift in rng.integers(0, 2 * SHIFT_PX + 1, 2))
    wide = functional.pad(pixels, (SHIFT_PX,) * 4, mode="reflect")
    light = rng.uniform(1 - EXPOSURE, 1 + EXPOSURE, (len(pixels), 3, 1, 1)).astype(np.float32)
    return wide[..., top : top + height, left : left + width] * torch.from_numpy(light).to(pixels.device)


def image_and_patch_features(model: CLIPModel, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised CLS features (n,d) and value-path patch features (n,p,d) of normalised pixels (n,3,H,W)."""
    vision = model.vision_model
    hidden = vision.pre_layrnorm(vision.embeddings(pixels))
    for layer in vision.encoder.layers[:-1]:
        hidden = _hidden(layer(hidden, None))
    last = vision.encoder.layers[-1]
    dense = last.self_attn.out_proj(last.self_attn.v_proj(last.layer_norm1(hidden)))[:, 1:]
    cls = _hidden(last(hidden, None))[:, 0]
    project = [model.visual_projection(vision.post_layernorm(features)) for features in (cls, dense)]
    return functional.normalize(project[0], dim=-1), functional.normalize(project[1], dim=-1)


def text_features(model: CLIPModel, ids: Tensor) -> Tensor:
    """Normalised text features (n,d) of token ids int64 (n,l); trailing end tokens are cut, causal text needs them not."""
    end = model.config.text_config.eos_token_id
    ids = ids[:, : int((ids != end).sum(1).max()) + 1]
    pooled = model.text_model(input_ids=ids).pooler_output
    return functional.normalize(model.text_projection(pooled), dim=-1)


def _hidden(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Transformers returns a layer's output bare or in a tuple, depending on its version."""
    return output[0] if isinstance(output, tuple) else output
