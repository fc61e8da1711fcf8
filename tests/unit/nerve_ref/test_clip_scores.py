"""Dense features of every mode against formulas written out in numpy; seed scores against the method's wording."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import CLIPModel

from nerve_ref.clip_scores import clip_pixels, dense_features, seed_scores
from nerve_ref.params import ClipMode
from tests.unit.nerve_ref.by_hand import Floats, resize_matrix, softmax, unit


def numbers(tensor: Tensor) -> Floats:
    return tensor.detach().double().numpy()


def linear(module: Any, x: Floats) -> Floats:
    return x @ numbers(module.weight).T + numbers(module.bias)


def layer_norm(module: Any, x: Floats) -> Floats:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(centred.var(-1, keepdims=True) + module.eps) * numbers(module.weight) + numbers(
        module.bias
    )


@pytest.fixture(scope="module")
def pixels(frame: Tensor) -> Tensor:
    return clip_pixels(frame, (64, 64))


@pytest.fixture(scope="module")
def tower(clip: CLIPModel, pixels: Tensor) -> Any:
    """What transformers itself reports: hidden states before each block and attention of each block."""
    with torch.no_grad():
        return clip.vision_model(pixels, output_hidden_states=True, output_attentions=True)


def projected(clip: CLIPModel, dense: Floats) -> Floats:
    normed = layer_norm(clip.vision_model.post_layernorm, dense)
    return unit(normed @ numbers(clip.visual_projection.weight).T).reshape(4, 4, 8)


def last_block_heads(clip: CLIPModel, tower: Any, name: str) -> Floats:
    """(2, 17, 12): a projection of the last block's normalised input, by head."""
    block = clip.vision_model.encoder.layers[-1]
    normed = layer_norm(block.layer_norm1, numbers(tower.hidden_states[2][0]))
    return linear(getattr(block.self_attn, name), normed).reshape(17, 2, 12).transpose(1, 0, 2)


def attention_output(clip: CLIPModel, mixed: Floats) -> Floats:
    """Heads (2, q, 12) side by side through the output projection."""
    joined = mixed.transpose(1, 0, 2).reshape(mixed.shape[1], 24)
    return linear(clip.vision_model.encoder.layers[-1].self_attn.out_proj, joined)


def features_of(clip: CLIPModel, pixels: Tensor, mode: ClipMode) -> Floats:
    with torch.no_grad():
        return numbers(dense_features(clip, pixels, mode))


def test_vanilla_features_are_the_last_hidden_state_of_the_patches(clip: CLIPModel, pixels: Tensor, tower: Any) -> None:
    expected = projected(clip, numbers(tower.last_hidden_state[0, 1:]))
    np.testing.assert_allclose(features_of(clip, pixels, "vanilla"), expected, atol=1e-5)


def test_maskclip_features_are_the_values_of_the_last_block(clip: CLIPModel, pixels: Tensor, tower: Any) -> None:
    values = last_block_heads(clip, tower, "v_proj")[:, 1:]
    expected = projected(clip, attention_output(clip, values))
    np.testing.assert_allclose(features_of(clip, pixels, "maskclip"), expected, atol=1e-5)


def test_naclip_features_attend_by_keys_and_distance(clip: CLIPModel, pixels: Tensor, tower: Any) -> None:
    keys, values = (last_block_heads(clip, tower, name) for name in ("k_proj", "v_proj"))
    near = np.zeros((17, 17))
    for i in range(16):
        for j in range(16):
            squared = (i // 4 - j // 4) ** 2 + (i % 4 - j % 4) ** 2
            near[i + 1, j + 1] = np.exp(-squared / 50)
    attention = softmax(keys @ keys.transpose(0, 2, 1) / np.sqrt(12) + near)
    expected = projected(clip, attention_output(clip, (attention @ values)[:, 1:]))
    np.testing.assert_allclose(features_of(clip, pixels, "naclip"), expected, atol=1e-5)


def test_early_fusion_features_attend_by_the_blocks_before_the_last(
    clip: CLIPModel, pixels: Tensor, tower: Any
) -> None:
    fused = np.sum([numbers(attention[0].mean(0)) for attention in tower.attentions[:2]], axis=0)[1:, 1:]
    fused = fused / fused.sum(0)
    fused = fused / fused.sum(1, keepdims=True)
    fused = (fused + fused.T) / 2
    fused = np.maximum(fused - fused.mean(0), 0)
    fused = fused / fused.sum(1, keepdims=True)
    expected = projected(clip, attention_output(clip, fused @ last_block_heads(clip, tower, "v_proj")[:, 1:]))
    np.testing.assert_allclose(features_of(clip, pixels, "early_fusion"), expected, atol=1e-4)


@pytest.mark.parametrize("mode", ["early_fusion", "naclip", "maskclip", "vanilla"])
def test_another_input_size_gives_another_grid(clip: CLIPModel, frame: Tensor, mode: ClipMode) -> None:
    features = features_of(clip, clip_pixels(frame, (96, 48)), mode)
    assert features.shape == (6, 3, 8)
    np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize("mode", ["early_fusion", "naclip", "maskclip", "vanilla"])
def test_a_flat_frame_gives_finite_features(clip: CLIPModel, mode: ClipMode) -> None:
    black = clip_pixels(torch.zeros(64, 64, 3, dtype=torch.uint8), (64, 64))
    assert np.isfinite(features_of(clip, black, mode)).all()


@pytest.mark.parametrize("mode", ["early_fusion", "naclip"])
def test_dense_features_can_be_exported(clip: CLIPModel, pixels: Tensor, mode: ClipMode) -> None:
    class Features(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.clip = clip

        def forward(self, pixels: Tensor) -> Tensor:
            return dense_features(self.clip, pixels, mode)

    with torch.no_grad():
        program = torch.export.export(Features().eval(), (pixels,), strict=False)
        exported = program.module()(pixels)
    np.testing.assert_allclose(numbers(exported), features_of(clip, pixels, mode), atol=1e-6)


def test_a_size_that_is_no_multiple_of_the_patch_is_refused(clip: CLIPModel, frame: Tensor) -> None:
    with pytest.raises(ValueError, match=r"72 x 64 pixels, expected multiples of its patch of 16"):
        dense_features(clip, clip_pixels(frame, (72, 64)), "maskclip")


def test_pixels_are_normalised_as_clip_was_trained() -> None:
    white = clip_pixels(torch.full((16, 16, 3), 255, dtype=torch.uint8), (16, 16))
    expected = [(1 - 0.48145466) / 0.26862954, (1 - 0.4578275) / 0.26130258, (1 - 0.40821073) / 0.27577711]
    np.testing.assert_allclose(white[0, :, 0, 0], expected, rtol=1e-6)


def test_seed_scores_are_a_softmax_over_rows_then_a_maximum_over_synonyms() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(2, 3, 8, generator=generator), dim=-1)
    embeddings = torch.nn.functional.normalize(torch.randn(5, 8, generator=generator), dim=-1)
    rows = torch.tensor([[0, 2], [1, 1], [3, 4], [4, 4]])
    mask = torch.tensor([True, True, True, False])
    logits = 30 * resize_matrix((2, 3), (4, 9)) @ numbers(features).reshape(6, 8) @ numbers(embeddings).T
    of_rows = softmax(logits).T
    expected = of_rows[rows.numpy()].max(1) * mask.numpy()[:, None]
    expected = expected / expected.sum(0)
    G = seed_scores(features, embeddings, rows, mask, 30.0, (4, 9))
    np.testing.assert_allclose(G, expected, atol=1e-6)
    assert (G[3] == 0).all()


def test_unused_slots_change_nothing_even_when_their_rows_outshine_all_others() -> None:
    features = torch.tensor([[[1.0, 0.0]]])
    embeddings = torch.tensor([[-1.0, 0.0], [-0.99, 0.1411], [1.0, 0.0]])
    rows, tau = torch.tensor([[0], [1], [2]]), 400.0
    G = seed_scores(features, embeddings, rows, torch.tensor([True, True, False]), tau, (1, 1))
    alone = seed_scores(features, embeddings[:2], rows[:2], torch.tensor([True, True]), tau, (1, 1))
    torch.testing.assert_close(G[:2], alone)
    assert G[2].item() == 0


def test_seed_scores_keep_a_nan_visible() -> None:
    features = torch.full((1, 1, 2), torch.nan)
    G = seed_scores(features, torch.eye(2), torch.tensor([[0], [1]]), torch.tensor([True, True]), 30.0, (2, 2))
    assert G.isnan().all()
