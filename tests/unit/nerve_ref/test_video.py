"""Keyframes, warm starts, and what a change of classes or a cut does."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import CLIPModel

from nerve_ref.params import NerveParams
from nerve_ref.pipeline import Intermediates, mix_heads, read_out, segment
from nerve_ref.text import TextBank, parse_classes, text_bank
from nerve_ref.video import VideoReference
from nerve_ref.walk import mixed_step, walk
from nerve_ref.weights.networks import Models


@pytest.fixture(scope="module")
def frames(frame: Tensor) -> list[Tensor]:
    """A picture that moves two pixels per frame."""
    return [frame.roll(2 * index, dims=1) for index in range(5)]


def is_keyframe(result: Intermediates, before: Intermediates) -> bool:
    """Whether the affinity was made anew; between keyframes the very same object is used."""
    return result.affinity is not before.affinity


def test_every_kth_frame_is_a_keyframe_and_equals_a_still_picture(
    models: Models, bank: TextBank, params: NerveParams, frames: list[Tensor]
) -> None:
    video = VideoReference(models, bank, params, keyframe_every=3)
    results = [video.step(frame) for frame in frames]
    assert [is_keyframe(after, before) for before, after in pairwise(results)] == [False, False, True, False]
    for index in (0, 3):
        assert torch.equal(results[index].P, segment(models, frames[index], bank, params).P)


def test_between_keyframes_the_walk_goes_on_from_the_previous_result(
    models: Models, bank: TextBank, params: NerveParams, frames: list[Tensor]
) -> None:
    video = VideoReference(models, bank, params, keyframe_every=3)
    first, second = video.step(frames[0]), video.step(frames[1])
    G = segment(models, frames[1], bank, params).G
    step = mixed_step(first.S_global, first.local_weights, params.beta)
    expected = walk(G, step, params.alpha, params.warm_steps, start=first.P)
    torch.testing.assert_close(second.P, expected)
    assert torch.equal(second.head_weights, first.head_weights)


def test_a_still_video_approaches_the_limit_of_the_still_picture(
    models: Models, bank: TextBank, params: NerveParams, frame: Tensor
) -> None:
    video = VideoReference(models, bank, params, keyframe_every=100)
    results = [video.step(frame) for _ in range(15)]
    limit = segment(models, frame, bank, replace(params, steps=200)).P
    # 20 cold and 42 warm steps: 2 alpha^62 = 8e-5
    torch.testing.assert_close(results[-1].P, limit, atol=1e-4, rtol=0)


def test_a_change_of_classes_weighs_the_heads_anew_and_starts_cold_once(
    models: Models,
    bank: TextBank,
    params: NerveParams,
    frames: list[Tensor],
    clip: CLIPModel,
    tokenizer: Tokenizer,
) -> None:
    other = text_bank(clip, tokenizer, parse_classes("sky; sand"), ("{}",))
    video = VideoReference(models, bank, params, keyframe_every=10)
    first = video.step(frames[0])
    video.set_bank(other)
    second, third = video.step(frames[1]), video.step(frames[2])
    mix = mix_heads(first.affinity, second.G, params)
    step = mixed_step(mix.S_global, first.local_weights, params.beta)
    torch.testing.assert_close(second.P, walk(second.G, step, params.alpha, params.steps))
    torch.testing.assert_close(third.P, walk(third.G, step, params.alpha, params.warm_steps, start=second.P))
    assert not is_keyframe(second, first)


def test_a_cut_makes_a_keyframe(models: Models, bank: TextBank, params: NerveParams, frame: Tensor) -> None:
    video = VideoReference(models, bank, params, keyframe_every=10, change_threshold=20.0)
    first, same, cut = video.step(frame), video.step(frame.clone()), video.step(255 - frame)
    assert not is_keyframe(same, first)
    assert is_keyframe(cut, same)
    assert torch.equal(cut.P, segment(models, 255 - frame, bank, params).P)


def test_a_result_without_numbers_does_not_spoil_the_next(
    models: Models, bank: TextBank, params: NerveParams, frames: list[Tensor]
) -> None:
    video = VideoReference(models, bank, params, keyframe_every=10)
    first = video.step(frames[0])
    video.previous = replace(first, P=torch.full_like(first.P, torch.nan))
    second = video.step(frames[1])
    cold = walk(second.G, mixed_step(first.S_global, first.local_weights, params.beta), params.alpha, params.steps)
    torch.testing.assert_close(second.P, cold)


def test_a_keyframe_distance_below_one_is_refused(models: Models, bank: TextBank, params: NerveParams) -> None:
    with pytest.raises(ValueError, match="keyframe_every is 0, expected 1 or more"):
        VideoReference(models, bank, params, keyframe_every=0)


def test_between_keyframes_the_guide_is_the_frame_itself(
    models: Models, bank: TextBank, params: NerveParams, frames: list[Tensor]
) -> None:
    guided = replace(params, readout="guided", guide_width=0.2)
    video = VideoReference(models, bank, guided, keyframe_every=3)
    result = [video.step(frame) for frame in frames[:2]][-1]
    confidence = read_out(result.P, frames[1], result.grid_hw, params.size_hw, guided, has_background=False)[1]
    other = read_out(result.P, frames[0], result.grid_hw, params.size_hw, guided, has_background=False)[1]
    assert torch.equal(result.confidence, confidence)
    assert not torch.equal(result.confidence, other)
