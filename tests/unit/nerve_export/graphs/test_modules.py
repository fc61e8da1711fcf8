"""Each export module, run as plain torch, against the reference that it must equal."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import CLIPModel

from nerve_export.graphs.modules import (
    AttentionStage,
    MixStage,
    ScoresStage,
    TextStage,
    WalkStage,
    WalkWarmStage,
)
from nerve_export.graphs.modules_readout import FixedReadoutStage
from nerve_ref.affinity import PooledAffinity
from nerve_ref.params import EntropyMode, LocalFeatures, NerveParams
from nerve_ref.pipeline import Structure, mix_heads, observe_affinity, segment, structure
from nerve_ref.text import TextBank, parse_classes, text_bank, text_embeddings
from nerve_ref.walk import mixed_step, walk
from nerve_ref.weights.networks import Models
from nerve_runtime.errors import UsageError

FINE, COARSE, UP = "down_blocks.1.attentions.0", "down_blocks.2.attentions.0", "up_blocks.1.attentions.0"


@pytest.fixture
def own(models: Models) -> Models:
    """Networks of this test alone: a stage takes the layers of its networks for good."""
    return Models.ready(copy.deepcopy(models.clip), models.tokenizer, copy.deepcopy(models.provider))


def assert_near(found: Tensor, expected: Tensor) -> None:
    """Equal up to rounding: both sides are float32 and sum in another order; sharpened rows reach 1."""
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def corners(bank: TextBank, features: Tensor) -> TextBank:
    """The bank with the features of the four corners as its words, so that random networks see several classes."""
    return replace(bank, embeddings=features[[0, 0, -1, -1], [0, -1, 0, -1]])


def scalar(value: float) -> Tensor:
    return torch.tensor(value)


def random_state(tokens_hw: tuple[int, int], cells_hw: tuple[int, int], classes: int = 5) -> tuple[Tensor, ...]:
    """Random but valid G (c,p), B (3,p,m) and W (8,h,w)."""
    generator = torch.Generator().manual_seed(5)
    tokens, cells = tokens_hw[0] * tokens_hw[1], cells_hw[0] * cells_hw[1]
    G = (5 * torch.rand(classes, tokens, generator=generator)).softmax(0)
    # Heads as unlike as real ones: between equal heads a z-score would compare rounding errors.
    sharpness = torch.tensor([1.0, 6.0, 30.0])[:, None, None]
    B = (sharpness * torch.rand(3, tokens, cells, generator=generator)).softmax(-1)
    W = torch.rand(8, *tokens_hw, generator=generator).softmax(0)
    return G, B, W


def pooled(structure_: Structure) -> PooledAffinity:
    assert isinstance(structure_.affinity, PooledAffinity)
    return structure_.affinity


def test_text_embeds_as_the_reference_does(clip: CLIPModel, tokenizer: Tokenizer, models: Models) -> None:
    names, template = ["ladybug", "sky", "unheard of"], "a photo of a {}."
    ids = torch.tensor([encoding.ids for encoding in tokenizer.encode_batch([template.format(name) for name in names])])
    with torch.no_grad():
        found = TextStage(models, native=True)(ids)
    torch.testing.assert_close(found, text_embeddings(clip, tokenizer, names, [template]))


def scores_of(models: Models, params: NerveParams, frame: Tensor, bank: TextBank) -> Tensor:
    stage = ScoresStage(models, params, (16, 16), native=True)
    with torch.no_grad():
        return stage(frame[None], bank.embeddings, bank.class_rows, bank.class_mask, scalar(params.tau))


@pytest.mark.parametrize("clip_mode", ["maskclip", "naclip", "vanilla", "early_fusion"])
@pytest.mark.parametrize("clip_size_hw", [(64, 64), (48, 80)])
def test_scores_with_synonyms_equal_the_references(
    clip_mode: str, clip_size_hw: tuple[int, int], models: Models, frame: Tensor, bank: TextBank, params: NerveParams
) -> None:
    varied = replace(params, clip_mode=clip_mode, clip_size_hw=clip_size_hw)  # type: ignore[arg-type]  # a Literal
    found = scores_of(models, varied, frame, bank)
    assert_near(found, segment(models, frame, bank, varied).G)


def test_unused_slots_are_exactly_zero_and_change_nothing_however_well_they_fit(
    models: Models, frame: Tensor, bank: TextBank, params: NerveParams
) -> None:
    """Slots of a fixed-size engine: their rows may repeat any class."""
    rows = torch.cat([bank.class_rows, bank.class_rows[:1].expand(4, -1)])
    mask = torch.cat([bank.class_mask, torch.zeros(4, dtype=torch.bool)])
    padded = replace(bank, class_rows=rows, class_mask=mask)
    found = scores_of(models, params, frame, padded)
    assert (found[3:] == 0).all()
    torch.testing.assert_close(found[:3], scores_of(models, params, frame, bank))
    assert_near(found, segment(models, frame, padded, params).G)


def test_rows_padded_by_repeating_change_nothing(
    models: Models, frame: Tensor, bank: TextBank, params: NerveParams
) -> None:
    padded = replace(bank, class_rows=torch.cat([bank.class_rows, bank.class_rows[:, :1]], dim=1))
    assert torch.equal(scores_of(models, params, frame, padded), scores_of(models, params, frame, bank))


def test_a_masked_slot_in_the_middle_stays_zero(
    models: Models, frame: Tensor, bank: TextBank, params: NerveParams
) -> None:
    masked = replace(bank, class_mask=torch.tensor([True, False, True]))
    found = scores_of(models, params, frame, masked)
    assert (found[1] == 0).all()
    torch.testing.assert_close(found.sum(0), torch.ones(256))
    assert_near(found, segment(models, frame, masked, params).G)


def assert_attention_equals_the_reference(models: Models, own: Models, frame: Tensor, params: NerveParams) -> None:
    z0, heads = observe_affinity(models, frame, params)
    expected = structure(heads, z0, frame, params)
    stage = AttentionStage(own, params, expected.grid_hw, native=True)
    with torch.no_grad():
        affinity, weights = stage(frame[None])
    assert_near(affinity, pooled(expected).B)
    assert_near(weights, expected.local_weights)
    torch.testing.assert_close(affinity.sum(-1), torch.ones(affinity.shape[:2]))
    torch.testing.assert_close(weights.sum(0), torch.ones(expected.grid_hw))


@pytest.mark.parametrize("key_norm", [False, True])
@pytest.mark.parametrize("sharpen", [1.0, 4.0, 8.0])
@pytest.mark.parametrize("row_threshold", [0.0, 0.3])
def test_attention_equals_the_reference_for_all_knobs(
    key_norm: bool,
    sharpen: float,
    row_threshold: float,
    models: Models,
    own: Models,
    frame: Tensor,
    params: NerveParams,
) -> None:
    varied = replace(params, key_norm=key_norm, sharpen=sharpen, row_threshold=row_threshold, temperature=0.5)
    assert_attention_equals_the_reference(models, own, frame, varied)


@pytest.mark.parametrize("layers", [(FINE,), (COARSE,), (UP,), (FINE, COARSE), (COARSE, UP), (UP, COARSE, FINE)])
def test_attention_equals_the_reference_for_layers_of_mixed_resolution(
    layers: tuple[str, ...], models: Models, own: Models, frame: Tensor, params: NerveParams
) -> None:
    assert_attention_equals_the_reference(models, own, frame, replace(params, layers=layers))


@pytest.mark.parametrize("pooled_hw", [(4, 4), (16, 16), (8, 4)])
def test_attention_equals_the_reference_for_cells_coarser_and_finer_than_a_layer(
    pooled_hw: tuple[int, int], models: Models, own: Models, frame: Tensor, params: NerveParams
) -> None:
    varied = replace(params, layers=(FINE, COARSE), pooled_hw=pooled_hw)
    assert_attention_equals_the_reference(models, own, frame, varied)


@pytest.mark.parametrize("local_features", ["keys", "latent", "rgb"])
@pytest.mark.parametrize("sigma", [0.02, 0.3])
def test_attention_equals_the_reference_for_all_local_features(
    local_features: LocalFeatures, sigma: float, models: Models, own: Models, frame: Tensor, params: NerveParams
) -> None:
    varied = replace(params, local_features=local_features, sigma=sigma, layers=(FINE, COARSE))
    assert_attention_equals_the_reference(models, own, frame, varied)


@pytest.mark.parametrize("noise", ["fixed", "none"])
def test_attention_equals_the_reference_with_and_without_noise(
    noise: str, models: Models, own: Models, frame: Tensor, params: NerveParams
) -> None:
    varied = replace(params, noise=noise, timestep=321, noise_seed=4)  # type: ignore[arg-type]  # a Literal
    assert_attention_equals_the_reference(models, own, frame, varied)


def test_attention_equals_the_reference_on_a_frame_that_is_not_square(
    models: Models, own: Models, frame: Tensor, params: NerveParams
) -> None:
    varied = replace(params, size_hw=(64, 128), pooled_hw=(8, 16))
    assert_attention_equals_the_reference(models, own, torch.cat([frame, frame.flip(0)], dim=1), varied)


def test_a_flat_frame_has_finite_rows(own: Models, params: NerveParams) -> None:
    with torch.no_grad():
        affinity, weights = AttentionStage(own, params, (16, 16), native=True)(
            torch.full((1, 64, 64, 3), 128, dtype=torch.uint8)
        )
    assert affinity.isfinite().all()
    assert weights.isfinite().all()


@pytest.mark.parametrize("entropy", ["zscore", "plain", "mean"])
@pytest.mark.parametrize("self_loop", [False, True])
@pytest.mark.parametrize("head_temperature", [0.3, 1e9])
def test_mix_equals_the_reference_in_all_modes(
    entropy: EntropyMode, self_loop: bool, head_temperature: float, params: NerveParams
) -> None:
    G, B, _ = random_state((16, 16), (8, 8))
    varied = replace(params, entropy=entropy, self_loop=self_loop, head_temperature=head_temperature)
    expected = mix_heads(PooledAffinity(B, (16, 16), (8, 8)), G, varied)
    mixed, weights, entropies = MixStage(varied, (16, 16))(B, G, scalar(head_temperature))
    torch.testing.assert_close(mixed, expected.S_global.S)  # type: ignore[attr-defined]  # of the pooled kind
    assert_near(weights, expected.head_weights)
    assert_near(entropies, expected.head_entropies)


def test_mix_counts_only_classes_that_are_in_use(params: NerveParams) -> None:
    G, B, _ = random_state((16, 16), (8, 8), classes=3)
    padded = torch.cat([G, torch.zeros(5, 256)])
    stage = MixStage(params, (16, 16))
    for found, expected in zip(stage(B, padded, scalar(1.0)), stage(B, G, scalar(1.0)), strict=True):
        torch.testing.assert_close(found, expected)


def test_mix_equals_the_reference_for_a_head_that_sees_only_its_own_cell(params: NerveParams) -> None:
    G, B, _ = random_state((16, 16), (16, 16))
    own_cell = torch.cat([torch.eye(256)[None], B])
    varied = replace(params, pooled_hw=(16, 16))
    expected = mix_heads(PooledAffinity(own_cell, (16, 16), (16, 16)), G, varied)
    _, weights, entropies = MixStage(varied, (16, 16))(own_cell, G, scalar(varied.head_temperature))
    torch.testing.assert_close(entropies, expected.head_entropies)
    assert_near(weights, expected.head_weights)
    assert entropies[0] == entropies.max()


def linear_params(params: NerveParams, **changes: Any) -> NerveParams:
    return replace(params, affinity="linear", sharpen=1.0, key_norm=False, **changes)


def test_factors_of_the_linear_kind_equal_the_references(
    models: Models, own: Models, frame: Tensor, params: NerveParams
) -> None:
    varied = linear_params(params, layers=(FINE, UP))
    z0, heads = observe_affinity(models, frame, varied)
    expected = structure(heads, z0, frame, varied).affinity
    with torch.no_grad():
        factors, _ = AttentionStage(own, varied, (16, 16), native=True)(frame[None])
    assert factors.shape == (2, 4, 256, 17)
    assert_near(factors[0] @ factors[1].transpose(1, 2), expected.dense())


@pytest.mark.parametrize("self_loop", [False, True])
@pytest.mark.parametrize("entropy", ["zscore", "plain"])
def test_mix_and_walk_of_the_linear_kind_equal_the_references(
    self_loop: bool, entropy: EntropyMode, models: Models, own: Models, frame: Tensor, params: NerveParams
) -> None:
    varied = linear_params(params, self_loop=self_loop, entropy=entropy, head_temperature=0.5)
    z0, heads = observe_affinity(models, frame, varied)
    expected = structure(heads, z0, frame, varied)
    G, _, _ = random_state((16, 16), (8, 8))
    with torch.no_grad():
        factors, W = AttentionStage(own, varied, (16, 16), native=True)(frame[None])
        S, weights, entropies = MixStage(varied, (16, 16))(factors, G, scalar(0.5))
        P = WalkStage(varied, (16, 16), 5)(G, S, W, scalar(0.85), scalar(0.7))
    mix = mix_heads(expected.affinity, G, varied)
    assert_near(entropies, mix.head_entropies)
    assert_near(weights, mix.head_weights)
    assert_near(P, walk(G, mixed_step(mix.S_global, expected.local_weights, 0.7), 0.85, 5))


def test_the_linear_kind_refuses_layers_that_are_coarser_than_the_token_grid(
    own: Models, frame: Tensor, params: NerveParams
) -> None:
    stage = AttentionStage(own, linear_params(params, layers=(FINE, COARSE)), (16, 16), native=True)
    with pytest.raises(UsageError, match=r"only for layers of the token grid \(16, 16\), one is \(8, 8\)"):
        stage(frame[None])


@pytest.mark.parametrize("steps", [0, 1, 20])
@pytest.mark.parametrize(("alpha", "beta"), [(0.85, 0.5), (0.0, 0.5), (0.95, 0.0), (0.5, 1.0)])
@pytest.mark.parametrize(("grid_hw", "cells_hw"), [((16, 16), (8, 8)), ((8, 12), (8, 12)), ((8, 4), (2, 4))])
def test_the_walk_equals_the_references(
    steps: int,
    alpha: float,
    beta: float,
    grid_hw: tuple[int, int],
    cells_hw: tuple[int, int],
    params: NerveParams,
) -> None:
    G, B, W = random_state(grid_hw, cells_hw)
    step = mixed_step(PooledAffinity(B, grid_hw, cells_hw).mixed(torch.tensor([0.2, 0.5, 0.3])), W, beta)
    S = torch.einsum("n,npm->pm", torch.tensor([0.2, 0.5, 0.3]), B)
    stage = WalkStage(replace(params, pooled_hw=cells_hw), grid_hw, steps)
    found = stage(G, S, W, scalar(alpha), scalar(beta))
    assert_near(found, walk(G, step, alpha, steps))


def test_the_warm_walk_starts_from_the_previous_scores(params: NerveParams) -> None:
    G, B, W = random_state((16, 16), (8, 8))
    previous = G.roll(3, dims=1)
    step = mixed_step(PooledAffinity(B, (16, 16), (8, 8)).mixed(torch.tensor([1.0, 0, 0])), W, 0.5)
    stage = WalkWarmStage(params, (16, 16), 3)
    found = stage(G, B[0], W, previous, scalar(0.85), scalar(0.5))
    assert_near(found, walk(G, step, 0.85, 3, start=previous))
    assert not torch.allclose(found, walk(G, step, 0.85, 3))


def whole_frame(own: Models, frame: Tensor, bank: TextBank, baked: NerveParams, given: NerveParams) -> Tensor:
    """Labels by all stages in a row; `given` are the constants that are inputs."""
    knobs = {name: scalar(getattr(given, name)) for name in ("tau", "alpha", "beta", "head_temperature")}
    classes = (bank.embeddings, bank.class_rows, bank.class_mask)
    with torch.no_grad():
        G = ScoresStage(own, baked, (16, 16), native=True)(frame[None], *classes, knobs["tau"])
        B, W = AttentionStage(own, baked, (16, 16), native=True)(frame[None])
        S, _, _ = MixStage(baked, (16, 16))(B, G, knobs["head_temperature"])
        P = WalkStage(baked, (16, 16), baked.steps)(G, S, W, knobs["alpha"], knobs["beta"])
        labels, _ = FixedReadoutStage((16, 16), baked.size_hw)(P, scalar(0.0))
    return labels


@pytest.mark.parametrize("affinity", ["softmax_pooled", "linear"])
def test_the_whole_frame_equals_the_reference(
    affinity: str, models: Models, own: Models, frame: Tensor, bank: TextBank, params: NerveParams
) -> None:
    kind = {"affinity": affinity, "sharpen": 1.0, "key_norm": False}
    varied = replace(params, **kind)  # type: ignore[arg-type]  # a Literal
    apart = corners(bank, segment(models, frame, bank, varied).features)
    reference = segment(models, frame, apart, varied)
    labels = whole_frame(own, frame, apart, varied, varied)
    assert (labels == reference.labels).float().mean() >= 0.999
    assert len(labels.unique()) > 1


def test_the_constants_of_a_walk_are_inputs_and_not_baked(
    models: Models, own: Models, frame: Tensor, clip: CLIPModel, tokenizer: Tokenizer, params: NerveParams
) -> None:
    other = text_bank(clip, tokenizer, parse_classes("sky; sand; ladybug; road"), ("{}",))
    other = corners(other, segment(models, frame, other, params).features)
    varied = replace(params, alpha=0.4, beta=0.1, tau=12.0, head_temperature=0.4)
    expected = segment(models, frame, other, varied)
    labels = whole_frame(own, frame, other, params, varied)
    assert (labels == expected.labels).float().mean() >= 0.999
    assert len(labels.unique()) > 1
