"""Each kind of affinity against full matrices made in numpy, layers at several resolutions among them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nerve_ref.affinity import Affinity, affinity_from_heads, pooled_affinity, sharpened_rows
from nerve_ref.params import NerveParams
from nerve_ref.providers.stable_diffusion import LayerHeads
from tests.unit.nerve_ref.by_hand import Floats, Size, pool_matrix, post_processed, resize_matrix, softmax

FINE, MIDDLE, COARSE = (8, 12), (4, 6), (2, 3)
POOLED = (4, 6)
CHOICES: list[dict[str, Any]] = [
    {"affinity": "softmax_pooled"},
    {"affinity": "softmax_pooled", "sharpen": 1.0, "row_threshold": 0.3, "key_norm": False, "temperature": 2.0},
    {"affinity": "softmax_dense", "sharpen": 2.0, "row_threshold": 0.1},
    {"affinity": "relu_dense", "sharpen": 1.0, "key_norm": False},
    {"affinity": "linear", "sharpen": 1.0, "key_norm": False},
]
every_choice = pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice["affinity"])


def layer_heads(grid_hw: Size, seed: int) -> LayerHeads:
    generator = torch.Generator().manual_seed(seed)
    q, k = (3 * torch.randn(2, grid_hw[0] * grid_hw[1], 5, generator=generator) + 1 for _ in range(2))
    return LayerHeads(f"layer {seed}", q, k, grid_hw)


@pytest.fixture(scope="module")
def heads() -> tuple[LayerHeads, ...]:
    """Two heads each on the token grid, on the grid of the cells and on a coarser one."""
    return (layer_heads(FINE, 0), layer_heads(MIDDLE, 1), layer_heads(COARSE, 2))


@pytest.fixture(scope="module")
def labels() -> Tensor:
    return torch.softmax(2 * torch.randn(3, 96, generator=torch.Generator().manual_seed(9)), dim=0)


def affinity_of(heads: tuple[LayerHeads, ...], choice: dict[str, Any]) -> Affinity:
    return affinity_from_heads(heads, replace(NerveParams(pooled_hw=POOLED), **choice))


def matrices_by_hand(heads: tuple[LayerHeads, ...], choice: dict[str, Any]) -> Floats:
    """(6, p, p): every S_h as a full matrix over tokens, rows up and columns down by explicit matrices."""
    params = replace(NerveParams(pooled_hw=POOLED), **choice)
    matrices = []
    for layer in heads:
        cells_hw = layer.grid_hw
        if params.affinity == "softmax_pooled":
            cells_hw = (min(layer.grid_hw[0], POOLED[0]), min(layer.grid_hw[1], POOLED[1]))
        for q, k in zip(layer.q.double().numpy(), layer.k.double().numpy(), strict=True):
            rows = entries_by_hand(params, q, k, pool_matrix(layer.grid_hw, cells_hw))
            matrices.append(resize_matrix(layer.grid_hw, FINE) @ rows @ pool_matrix(FINE, cells_hw))
    return np.stack(matrices)


def entries_by_hand(params: NerveParams, q: Floats, k: Floats, pool: Floats) -> Floats:
    knobs = (params.sharpen, params.row_threshold, params.key_norm)
    if params.affinity in ("softmax_pooled", "softmax_dense"):
        return post_processed(softmax(q @ (pool @ k).T / np.sqrt(5) / params.temperature), *knobs)
    q, k = q - q.mean(0), k - k.mean(0)
    if params.affinity == "relu_dense":
        return post_processed(np.maximum(q @ k.T, 0) + 1e-6, *knobs)
    phi_q, phi_k = (np.concatenate([np.maximum(x, 0), np.maximum(-x, 0)], 1) for x in (q, k))
    phi_q, phi_k = (
        x**3 / np.linalg.norm(x**3, axis=1, keepdims=True) * np.linalg.norm(x, axis=1, keepdims=True)
        for x in (phi_q, phi_k)
    )
    return post_processed(phi_q @ phi_k.T + 1e-6, 1, 0, False)


@every_choice
def test_every_kind_equals_its_full_matrices(heads: tuple[LayerHeads, ...], choice: dict[str, Any]) -> None:
    np.testing.assert_allclose(affinity_of(heads, choice).dense(), matrices_by_hand(heads, choice), atol=1e-5)


@every_choice
def test_one_step_is_the_full_matrix_times_the_labels(
    heads: tuple[LayerHeads, ...], labels: Tensor, choice: dict[str, Any]
) -> None:
    expected = np.einsum("npq,cq->ncp", matrices_by_hand(heads, choice), labels)
    np.testing.assert_allclose(affinity_of(heads, choice).apply(labels), expected, atol=1e-5)


@every_choice
def test_mixed_heads_are_the_weighted_sum_of_full_matrices(
    heads: tuple[LayerHeads, ...], labels: Tensor, choice: dict[str, Any]
) -> None:
    weights = torch.tensor([0.3, 0.1, 0.2, 0.05, 0.25, 0.1])
    expected = np.einsum("n,npq->pq", weights.double().numpy(), matrices_by_hand(heads, choice))
    mixed = affinity_of(heads, choice).mixed(weights)
    np.testing.assert_allclose(mixed.dense(), expected, atol=1e-5)
    np.testing.assert_allclose(mixed.apply(labels), labels.double().numpy() @ expected.T, atol=1e-5)


@every_choice
def test_rows_of_every_head_sum_to_one_and_are_not_negative(
    heads: tuple[LayerHeads, ...], choice: dict[str, Any]
) -> None:
    dense = affinity_of(heads, choice).dense()
    torch.testing.assert_close(dense.sum(2), torch.ones(6, 96), atol=1e-5, rtol=0)
    assert (dense >= 0).all()


@every_choice
@pytest.mark.parametrize("level", [0.0, 1.0], ids=["zero", "one"])
def test_flat_queries_and_keys_give_finite_rows(choice: dict[str, Any], level: float) -> None:
    flat = torch.full((2, 96, 5), level)
    dense = affinity_of((LayerHeads("flat", flat, flat, FINE),), choice).dense()
    torch.testing.assert_close(dense, torch.full((2, 96, 96), 1 / 96), atol=1e-6, rtol=0)


@given(sharpen=st.floats(1, 12), row_threshold=st.floats(0, 1), key_norm=st.booleans(), spread=st.floats(0, 60))
@settings(max_examples=60, deadline=None)
def test_sharpened_rows_sum_to_one_for_any_knobs(
    sharpen: float, row_threshold: float, key_norm: bool, spread: float
) -> None:
    logits = spread * torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(1))
    rows = sharpened_rows(torch.softmax(logits, dim=-1), sharpen, row_threshold, key_norm)
    torch.testing.assert_close(rows.sum(-1), torch.ones(2, 7))


def test_key_normalisation_takes_the_pull_from_a_hub() -> None:
    hub = torch.softmax(torch.tensor([[[4.0, 1, 0, 0], [4, 0, 1, 0], [4, 0, 0, 1]]]), dim=-1)
    assert hub[0].argmax(1).tolist() == [0, 0, 0]
    assert sharpened_rows(hub, 1.0, 0.0, True)[0].argmax(1).tolist() == [1, 2, 3]


def test_grids_that_do_not_divide_are_refused(heads: tuple[LayerHeads, ...]) -> None:
    with pytest.raises(ValueError, match=r"a grid of \(8, 12\) tokens cannot be divided into \(3, 5\) equal cells"):
        affinity_from_heads(heads[:1], NerveParams(pooled_hw=(3, 5)))


def test_a_wrong_shape_is_refused() -> None:
    q, k = torch.zeros(2, 96, 5), torch.zeros(2, 96, 4)
    with pytest.raises(TypeError, match="k"):
        pooled_affinity(q, k, FINE, POOLED, FINE, 1.0, 1.0, 0.0, False)
