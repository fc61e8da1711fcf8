"""DINOv2 as provider of affinities: its input, its queries and keys against a whole run, and the method on top."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import CLIPModel, Dinov2Config, Dinov2Model, DINOv3ViTConfig, DINOv3ViTModel

from nerve_ref.params import NerveParams
from nerve_ref.pipeline import observe_affinity, segment
from nerve_ref.providers.dino import dino_heads, dino_pixels, turned
from nerve_ref.providers.provider import Dino
from nerve_ref.text import TextBank
from nerve_ref.walk import closed_form, mixed_dense
from nerve_ref.weights.networks import Models
from tests.unit.nerve_ref.by_hand import resize_matrix

FIRST, LAST = "encoder.layer.0", "encoder.layer.1"
GRID = (4, 6)


@pytest.fixture(scope="module")
def dinov2() -> Dinov2Model:
    """Two layers of four heads of 8, native to 6 x 6 patches of 14 pixels."""
    torch.manual_seed(6)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=84, patch_size=14, initializer_range=0.2
    )
    return Dinov2Model(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(1, 3, 14 * GRID[0], 14 * GRID[1], generator=torch.Generator().manual_seed(7))


def test_the_input_has_one_patch_per_token_and_imagenets_scale() -> None:
    frame = torch.randint(0, 256, (64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(8))
    flat = (frame.numpy().reshape(-1, 3) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    expected = (resize_matrix((64, 96), (56, 84)) @ flat).T.reshape(1, 3, 56, 84)
    # torch takes the places between pixels in float32, whose steps weigh 1e-5 between pixels of unlike colour.
    np.testing.assert_allclose(dino_pixels(frame, GRID, 14), expected, atol=1e-4)


def heads_of_a_whole_run(model: Dinov2Model, pixels: Tensor) -> list[dict[str, np.ndarray]]:
    """Per layer, rows of q and k (n, p, d) sliced by hand out of what the projections gave in the model's own run."""
    seen: list[dict[str, np.ndarray]] = [{} for _ in model.encoder.layer]

    def keep(place: dict[str, np.ndarray], name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Tensor) -> None:
            rows = output[0, 1:].numpy()
            place[name] = np.stack([rows[:, 8 * head : 8 * head + 8] for head in range(4)])

        return hook

    attentions = [block.attention for block in model.encoder.layer]
    handles = [a.q_proj.register_forward_hook(keep(place, "q")) for a, place in zip(attentions, seen, strict=True)]
    handles += [a.k_proj.register_forward_hook(keep(place, "k")) for a, place in zip(attentions, seen, strict=True)]
    with torch.no_grad():
        model(pixels)
    for handle in handles:
        handle.remove()
    return seen


def test_heads_are_those_of_a_whole_run_without_cls(dinov2: Dinov2Model, pixels: Tensor) -> None:
    expected = heads_of_a_whole_run(dinov2, pixels)
    found = dino_heads(dinov2, pixels, [LAST, FIRST], GRID)
    assert [(layer.name, layer.grid_hw) for layer in found] == [(LAST, GRID), (FIRST, GRID)]
    for layer, place in zip(found, reversed(expected), strict=True):
        np.testing.assert_allclose(layer.q, place["q"], atol=1e-6)
        np.testing.assert_allclose(layer.k, place["k"], atol=1e-6)


@pytest.fixture(scope="module")
def dinov3() -> DINOv3ViTModel:
    torch.manual_seed(6)
    config = DINOv3ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, num_register_tokens=3,
        patch_size=14, initializer_range=0.2,
    )  # fmt: skip
    return DINOv3ViTModel(config).eval().requires_grad_(False)


def test_heads_of_dinov3_are_those_that_its_own_attention_compares(
    dinov3: DINOv3ViTModel, pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library's own function for attention sees queries and keys after they were turned."""
    seen: list[tuple[Tensor, Tensor]] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def watched(query: Tensor, key: Tensor, *others: Any, **named: Any) -> Tensor:
        seen.append((query[0, :, 4:], key[0, :, 4:]))  # CLS and three registers come first
        return attend(query, key, *others, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    dinov3(pixels)
    found = dino_heads(dinov3, pixels, ["model.layer.0", "model.layer.1"], GRID)
    for layer, (query, key) in zip(found, seen[:2], strict=True):
        np.testing.assert_allclose(layer.q, query, atol=1e-6)
        np.testing.assert_allclose(layer.k, key, atol=1e-6)


def test_a_turn_keeps_lengths_and_depends_on_the_difference_of_places() -> None:
    angles = torch.arange(5.0)[:, None] * torch.tensor([0.3, 1.1])
    turn = (angles.cos().tile(2), angles.sin().tile(2))
    one, other = torch.randn(4, generator=torch.Generator().manual_seed(9)), torch.tensor([1.0, -2.0, 0.5, 0.0])
    ones, others = turned(one.expand(5, 4), turn), turned(other.expand(5, 4), turn)
    torch.testing.assert_close(ones.norm(dim=1), one.norm().expand(5))
    products = ones @ others.T
    torch.testing.assert_close(products[1:, 1:], products[:-1, :-1])


def test_blocks_behind_the_last_named_layer_do_not_run(dinov2: Dinov2Model, pixels: Tensor) -> None:
    ran: list[str] = []
    handles = [
        block.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, block in zip((FIRST, LAST), dinov2.encoder.layer, strict=True)
    ]
    dino_heads(dinov2, pixels, [FIRST], GRID)
    assert ran == []
    dino_heads(dinov2, pixels, [LAST], GRID)
    assert ran == [FIRST]
    for handle in handles:
        handle.remove()


def test_a_layer_that_does_not_exist_is_refused_listing_those_that_do(dinov2: Dinov2Model, pixels: Tensor) -> None:
    with pytest.raises(ValueError, match=r"no self-attention layer 'up' in this DINO; it has: .*layer\.0, .*layer\.1"):
        dino_heads(dinov2, pixels, ["up"], GRID)


@pytest.fixture
def dino_params(params: NerveParams) -> NerveParams:
    """A grid of 4 x 4 tokens."""
    return replace(params, layers=(FIRST, LAST), pooled_hw=(2, 2), steps=60)


def test_the_method_runs_on_dinov2(
    clip: CLIPModel, tokenizer: Tokenizer, dinov2: Dinov2Model, frame: Tensor, bank: TextBank, dino_params: NerveParams
) -> None:
    result = segment(Models.ready(clip, tokenizer, Dino(dinov2)), frame, bank, dino_params)
    assert (result.latent, result.grid_hw, len(result.head_weights)) == (None, (4, 4), 8)
    limit = closed_form(result.G, mixed_dense(result.S_global, result.local_weights, dino_params.beta), 0.85)
    # 2 alpha^60 = 1.2e-4
    torch.testing.assert_close(result.P.double(), limit, atol=2e-4, rtol=0)


def test_the_frame_decides_what_dinov2_says(
    clip: CLIPModel, tokenizer: Tokenizer, dinov2: Dinov2Model, frame: Tensor, dino_params: NerveParams
) -> None:
    models = Models.ready(clip, tokenizer, Dino(dinov2))
    _, heads = observe_affinity(models, frame, dino_params)
    _, mirrored = observe_affinity(models, frame.flip(1), dino_params)
    assert (heads[0].q - mirrored[0].q).abs().max() > 0.1 * heads[0].q.std()


def test_dinov2_has_no_latent_to_compare_neighbours_by(
    clip: CLIPModel, tokenizer: Tokenizer, dinov2: Dinov2Model, frame: Tensor, bank: TextBank, dino_params: NerveParams
) -> None:
    params = replace(dino_params, local_features="latent")
    with pytest.raises(ValueError, match=r"'latent', but this provider of affinities \(DINOv2\) has none; choose keys"):
        segment(Models.ready(clip, tokenizer, Dino(dinov2)), frame, bank, params)
