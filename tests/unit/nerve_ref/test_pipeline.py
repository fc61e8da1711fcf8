"""The whole method on random networks: laws that hold end to end, and refusals."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.utils import numpy_to_pil
from tokenizers import Tokenizer
from torch import Tensor
from transformers import CLIPModel

from nerve_ref.guided import guided_scores
from nerve_ref.params import NerveParams
from nerve_ref.pipeline import observe, segment, segment_image, solve, working_frame
from nerve_ref.text import TextBank, parse_classes, text_bank
from nerve_ref.walk import closed_form, mixed_dense
from nerve_ref.weights.networks import Models

VARIANTS: list[dict[str, Any]] = [
    {},
    {"affinity": "softmax_dense", "local_features": "latent", "entropy": "plain"},
    {"affinity": "relu_dense", "local_features": "rgb", "entropy": "mean", "clip_mode": "naclip"},
    {"affinity": "linear", "sharpen": 1.0, "key_norm": False, "self_loop": True, "clip_mode": "early_fusion"},
    {"layers": ("down_blocks.2.attentions.0", "down_blocks.1.attentions.0"), "clip_mode": "vanilla", "noise": "none"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=["pooled", "dense", "relu", "linear", "mixed resolutions"])
def test_every_variant_gives_distributions_near_its_closed_form(
    models: Models, frame: Tensor, bank: TextBank, params: NerveParams, variant: dict[str, Any]
) -> None:
    params = replace(params, steps=60, **variant)
    result = segment(models, frame, bank, params)
    assert (result.P.shape, result.grid_hw) == ((3, 256), (16, 16))
    assert (result.labels.shape, result.confidence.shape) == ((64, 64), (64, 64))
    torch.testing.assert_close(result.P.sum(0), torch.ones(256), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.head_weights.sum(), torch.tensor(1.0))
    assert ((result.head_entropies >= 0) & (result.head_entropies <= 1 + 1e-5)).all()
    limit = closed_form(result.G, mixed_dense(result.S_global, result.local_weights, params.beta), params.alpha)
    # 2 alpha^60 = 1.2e-4
    torch.testing.assert_close(result.P.double(), limit, atol=2e-4, rtol=0)


def test_the_same_frame_gives_the_same_numbers(
    models: Models, frame: Tensor, bank: TextBank, params: NerveParams
) -> None:
    first, second = (segment(models, frame, bank, params) for _ in range(2))
    assert torch.equal(first.P, second.P)
    assert torch.equal(first.labels, second.labels)


def test_nothing_carries_a_gradient(models: Models, frame: Tensor, bank: TextBank, params: NerveParams) -> None:
    result = segment(models, frame, bank, params)
    assert not any(tensor.requires_grad for tensor in (result.P, result.G, result.features, result.heads[0].q))
    assert not bank.embeddings.requires_grad


def test_one_observation_serves_many_constants(
    models: Models, frame: Tensor, bank: TextBank, params: NerveParams
) -> None:
    observation = observe(models, frame, params)
    other = replace(params, alpha=0.5, beta=0.2, sharpen=2.0)
    assert torch.equal(solve(observation, bank, other).P, segment(models, frame, bank, other).P)


def test_unused_slots_and_their_number_change_nothing(
    models: Models, frame: Tensor, params: NerveParams, clip: CLIPModel, tokenizer: Tokenizer
) -> None:
    classes = parse_classes("ladybug, beetle; grass", "sky, sand")
    tight, wide = (text_bank(clip, tokenizer, classes, ("{}",), slots) for slots in (None, 7))
    expected, result = (segment(models, frame, bank, params) for bank in (tight, wide))
    torch.testing.assert_close(result.P[:3], expected.P, atol=1e-6, rtol=0)
    assert (result.P[3:] == 0).all()
    assert torch.equal(result.labels, expected.labels)


def test_a_background_takes_all_pixels_below_the_threshold(
    models: Models, frame: Tensor, params: NerveParams, clip: CLIPModel, tokenizer: Tokenizer
) -> None:
    bank = text_bank(clip, tokenizer, parse_classes("ladybug; grass", "sky"), ("{}",))
    result = segment(models, frame, bank, replace(params, threshold=1.0))
    assert (result.labels == 0).all()


@pytest.mark.parametrize("level", [0, 255])
def test_a_flat_frame_gives_finite_results(models: Models, bank: TextBank, params: NerveParams, level: int) -> None:
    result = segment(models, torch.full((64, 64, 3), level, dtype=torch.uint8), bank, params)
    assert result.P.isfinite().all()
    assert (result.labels != 255).all()


def test_a_frame_that_came_out_without_numbers_is_ignored_as_a_whole(
    models: Models, frame: Tensor, bank: TextBank, params: NerveParams
) -> None:
    observation = observe(models, frame, params)
    broken = replace(observation, features=torch.full_like(observation.features, torch.nan))
    result = solve(broken, bank, params)
    assert (result.labels == 255).all()
    assert (result.confidence == 0).all()


def test_a_vocabulary_of_one_class_is_refused(
    models: Models, frame: Tensor, params: NerveParams, clip: CLIPModel, tokenizer: Tokenizer
) -> None:
    bank = text_bank(clip, tokenizer, parse_classes("ladybug"), ("{}",), slots=4)
    with pytest.raises(ValueError, match=r"one class only \(ladybug\); give background words, or add a class such as"):
        segment(models, frame, bank, params)


def test_a_frame_of_another_size_is_refused(models: Models, bank: TextBank, params: NerveParams) -> None:
    with pytest.raises(ValueError, match=r"frame is \(32, 64\) pixels, expected the working size \(64, 64\)"):
        segment(models, torch.zeros(32, 64, 3, dtype=torch.uint8), bank, params)


def test_a_picture_keeps_its_own_size(models: Models, params: NerveParams, tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    path = tmp_path / "picture.png"
    numpy_to_pil(rgb[None] / 255)[0].save(path)
    from_array = segment_image(rgb, "ladybug; grass", params=params, models=models)
    from_file = segment_image(path, "ladybug; grass", params=params, models=models)
    assert from_array.labels.shape == (50, 80)
    assert torch.equal(from_array.labels, from_file.labels)


def test_a_missing_picture_and_wrong_pixels_are_refused(models: Models, params: NerveParams) -> None:
    with pytest.raises(ValueError, match=r"no image file at nowhere\.png"):
        segment_image("nowhere.png", "ladybug; grass", params=params, models=models)
    with pytest.raises(ValueError, match="the image is float64, expected uint8 RGB"):
        segment_image(np.zeros((4, 4, 3)), "ladybug; grass", params=params, models=models)


def test_a_shrinking_picture_is_averaged_and_a_growing_one_interpolated() -> None:
    stripes = torch.tensor([0, 100, 200, 40], dtype=torch.uint8).repeat(4, 1)[..., None].expand(4, 4, 3)
    assert working_frame(stripes, (4, 2))[0, :, 0].tolist() == [50, 120]
    assert working_frame(stripes, (4, 8))[0, :, 0].tolist() == [0, 25, 75, 125, 175, 160, 80, 40]


def test_the_guided_read_out_is_the_guided_mix_of_the_same_scores(
    models: Models, frame: Tensor, bank: TextBank, params: NerveParams
) -> None:
    guided = replace(params, readout="guided", guide_width=0.2)
    plain, result = segment(models, frame, bank, params), segment(models, frame, bank, guided, (48, 80))
    assert torch.equal(result.P, plain.P)
    scores = guided_scores(result.P, frame, result.grid_hw, (48, 80), 0.2)
    assert torch.equal(result.confidence, (scores.amax(0) * 255).round().to(torch.uint8))
    assert not torch.equal(result.confidence, segment(models, frame, bank, params, (48, 80)).confidence)
