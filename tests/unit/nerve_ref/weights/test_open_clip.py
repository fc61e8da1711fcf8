"""OpenCLIP's checkpoints: a network that is written as OpenCLIP writes it computes what CLIP does with its tensors."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPConfig

from nerve_ref.weights.checkpoints import read_clip
from nerve_ref.weights.open_clip import from_open_clip

WIDTH, HEADS, TOKENS, LENGTH, PATCH, SIDE, SHARED = 16, 2, 20, 6, 4, 12, 8
CONFIG = {
    "projection_dim": SHARED,
    "text_config": {
        "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": HEADS,
        "vocab_size": TOKENS, "max_position_embeddings": LENGTH, "hidden_act": "gelu", "eos_token_id": TOKENS - 1,
    },
    "vision_config": {
        "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": HEADS,
        "image_size": SIDE, "patch_size": PATCH, "hidden_act": "gelu",
    },
}  # fmt: skip


class Block(nn.Module):
    """A residual block with PyTorch's own attention, whose parameters have OpenCLIP's names."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(WIDTH, 4 * WIDTH), "c_proj": nn.Linear(4 * WIDTH, WIDTH)})

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp["c_proj"](nn.functional.gelu(self.mlp["c_fc"](self.ln_2(x))))


class Transformer(nn.Module):
    """Two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([Block(), Block()])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Visual(nn.Module):
    """The picture's tower."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn((SIDE // PATCH) ** 2 + 1, WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = Transformer()
        self.proj = nn.Parameter(torch.randn(WIDTH, SHARED))

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(1, 1, -1), patches], dim=1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class OpenClip(nn.Module):
    """Both towers."""

    def __init__(self) -> None:
        super().__init__()
        self.visual, self.transformer = Visual(), Transformer()
        self.token_embedding = nn.Embedding(TOKENS, WIDTH)
        self.positional_embedding = nn.Parameter(torch.randn(LENGTH, WIDTH))
        self.ln_final = nn.LayerNorm(WIDTH)
        self.text_projection = nn.Parameter(torch.randn(WIDTH, SHARED))
        self.logit_scale = nn.Parameter(torch.tensor(1.5))

    def text(self, ids: Tensor) -> Tensor:
        mask = torch.full((LENGTH, LENGTH), -torch.inf).triu(1)
        x = self.ln_final(self.transformer(self.token_embedding(ids) + self.positional_embedding, mask))
        return x[0, ids[0].argmax()][None] @ self.text_projection


@pytest.fixture
def open_clip() -> OpenClip:
    torch.manual_seed(0)
    model = OpenClip().eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "weight")) and "ln" in name:
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def test_both_towers_compute_what_openclip_computes(open_clip: OpenClip, tmp_path: Path) -> None:
    path = tmp_path / "open_clip_model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in open_clip.state_dict().items()}, path)
    clip = read_clip(path, CONFIG).eval()
    assert isinstance(clip.config, CLIPConfig)
    pixels, ids = torch.randn(1, 3, SIDE, SIDE), torch.tensor([[18, 3, 7, 19, 0, 0]])
    with torch.no_grad():
        seen = clip.visual_projection(clip.vision_model(pixels).pooler_output)
        read = clip.text_projection(clip.text_model(ids).pooler_output)
    torch.testing.assert_close(seen, open_clip.visual(pixels), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(read, open_clip.text(ids), atol=1e-5, rtol=1e-5)
    assert float(clip.logit_scale) == 1.5


def test_a_tensor_without_a_place_is_named(open_clip: OpenClip) -> None:
    tensors = {**open_clip.state_dict(), "visual.attn_pool.query": torch.zeros(1), "attn_mask": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"has 'visual\.attn_pool\.query', for which CLIP has no place"):
        from_open_clip(tensors)


def test_transformers_own_names_are_left_as_they_are() -> None:
    tensors = {"text_model.final_layer_norm.weight": torch.ones(3)}
    assert from_open_clip(tensors) == tensors
