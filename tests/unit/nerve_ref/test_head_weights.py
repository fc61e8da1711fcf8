"""Entropies and weights of heads, the self-loop removed in the way of each kind."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nerve_ref.affinity import (
    Affinity,
    DenseLayer,
    LayeredAffinity,
    PooledAffinity,
    affinity_from_heads,
    sharpened_rows,
)
from nerve_ref.head_weights import active_classes, head_entropies, head_weights
from nerve_ref.params import EntropyMode, NerveParams
from nerve_ref.providers.stable_diffusion import LayerHeads
from tests.unit.nerve_ref.by_hand import Floats, pool_matrix, resize_matrix

GRID, CELLS = (4, 6), (2, 3)


@pytest.fixture(scope="module", name="G")
def seeds_of_three_classes() -> Tensor:
    """Four classes over 4 x 6 tokens, the last one not in use."""
    scores = torch.softmax(2 * torch.randn(3, 24, generator=torch.Generator().manual_seed(0)), dim=0)
    return torch.cat([scores, torch.zeros(1, 24)])


@pytest.fixture(scope="module")
def rows() -> Tensor:
    return torch.softmax(2 * torch.randn(2, 24, 6, generator=torch.Generator().manual_seed(1)), dim=-1)


def entropy_by_hand(distribution: Floats, active: int) -> float:
    """Of (c, p) columns, over log(active)."""
    terms = np.where(distribution > 0, distribution * np.log(np.maximum(distribution, 1e-300)), 0)
    return float(-terms.sum(0).mean() / np.log(active))


def test_the_pooled_self_loop_is_the_whole_own_cell(G: Tensor, rows: Tensor) -> None:
    pooled = pool_matrix(GRID, CELLS) @ G.double().numpy().T
    expected = []
    for head in rows.double().numpy():
        head = head.copy()
        for token in range(24):
            head[token, (token // 6 // 2) * 3 + token % 6 // 2] = 0
        expected.append((head / head.sum(1, keepdims=True) @ pooled).T)
    affinity = PooledAffinity(rows, GRID, CELLS)
    # The guard mixes 1e-4 of a uniform distribution into each row.
    np.testing.assert_allclose(affinity.without_self_loop(G), np.stack(expected), atol=5e-4)
    by_hand = [entropy_by_hand(head, 3) for head in expected]
    np.testing.assert_allclose(head_entropies(affinity, G, self_loop=False), by_hand, atol=5e-4)


@pytest.mark.parametrize("kind", ["softmax_dense", "linear"])
def test_the_dense_self_loop_is_the_diagonal_of_the_layer(G: Tensor, kind: Any) -> None:
    generator = torch.Generator().manual_seed(2)
    heads = tuple(
        LayerHeads(
            name,
            torch.randn(2, tokens, 5, generator=generator),
            torch.randn(2, tokens, 5, generator=generator),
            grid_hw,
        )
        for name, tokens, grid_hw in (("fine", 24, GRID), ("coarse", 6, CELLS))
    )
    params = replace(NerveParams(sharpen=1.0, key_norm=False, pooled_hw=CELLS), affinity=kind)
    affinity = affinity_from_heads(heads, params)
    expected = []
    for layer in heads:
        own_grid = affinity_from_heads((layer,), params).dense().double().numpy()
        for matrix in own_grid:
            np.fill_diagonal(matrix, 0)
            matrix = matrix / matrix.sum(1, keepdims=True) @ pool_matrix(GRID, layer.grid_hw)
            expected.append(G.double().numpy() @ (resize_matrix(layer.grid_hw, GRID) @ matrix).T)
    np.testing.assert_allclose(affinity.without_self_loop(G), np.stack(expected), atol=5e-4)


def test_the_self_loop_can_be_kept(G: Tensor, rows: Tensor) -> None:
    affinity = PooledAffinity(rows, GRID, CELLS)
    expected = [entropy_by_hand(step, 3) for step in affinity.apply(G).double().numpy()]
    np.testing.assert_allclose(head_entropies(affinity, G, self_loop=True), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["pooled", "dense"])
def test_a_head_that_sees_only_itself_has_the_highest_entropy_unless_the_self_loop_is_kept(kind: str) -> None:
    G = torch.zeros(2, 16)
    G[0, :8], G[1, 8:] = 1, 1
    affinity: Affinity = LayeredAffinity((DenseLayer(torch.eye(16)[None], (4, 4)),), (4, 4))
    if kind == "pooled":
        affinity = PooledAffinity(torch.eye(16)[None], (4, 4), (4, 4))
    assert head_entropies(affinity, G, self_loop=True).item() == pytest.approx(0, abs=1e-6)
    assert head_entropies(affinity, G, self_loop=False).item() == pytest.approx(1, abs=1e-5)


def scene_with_a_hub(cells: Tensor) -> tuple[Tensor, Tensor]:
    """Two halves on 4 x 4 tokens; G, and a head that looks at its own half beside one that looks at `cells`."""
    half = torch.arange(16) // 8
    G = torch.where(half == torch.arange(2)[:, None], 0.8, 0.2)
    G[:, 0] = torch.tensor([0.99, 0.01])
    good = (half[:, None] == half[None]).float() / 8
    pointing = torch.nn.functional.one_hot(cells, 16).float()
    return G, torch.stack([good, pointing])


def test_a_head_that_points_at_one_random_cell_still_wins() -> None:
    """A known limit of entropy weights: certainty is not truth. Key normalisation is what helps (next test)."""
    G, rows = scene_with_a_hub(torch.zeros(16, dtype=torch.int64))
    entropies = head_entropies(PooledAffinity(rows, (4, 4), (4, 4)), G, self_loop=False)
    weights = head_weights(entropies, "zscore", 1.0)
    assert entropies[1] < entropies[0]
    assert weights[1] > weights[0]


def test_key_normalisation_takes_the_win_from_a_soft_hub() -> None:
    G, rows = scene_with_a_hub(torch.zeros(16, dtype=torch.int64))
    spread = sharpened_rows(0.9 * rows + 0.1 / 16, 1.0, 0.0, True)
    entropies = head_entropies(PooledAffinity(spread, (4, 4), (4, 4)), G, self_loop=False)
    assert entropies[0] < entropies[1]


def test_classes_that_are_nowhere_do_not_count_as_active(G: Tensor) -> None:
    assert active_classes(G).item() == 3


def test_entropies_lie_between_none_and_all() -> None:
    uniform = PooledAffinity(torch.full((1, 16, 16), 1 / 16), (4, 4), (4, 4))
    G = torch.full((2, 16), 0.5)
    assert head_entropies(uniform, G, self_loop=False).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("plain", [np.exp(-0.2 / 0.5), np.exp(-0.4 / 0.5), np.exp(-0.9 / 0.5)]),
        ("zscore", [np.exp(-(h - 0.5) / (0.29439203 + 1e-3) / 0.5) for h in (0.2, 0.4, 0.9)]),
        ("mean", [1, 1, 1]),
    ],
)
def test_weights_follow_their_formula(mode: EntropyMode, expected: list[float]) -> None:
    weights = head_weights(torch.tensor([0.2, 0.4, 0.9]), mode, 0.5)
    np.testing.assert_allclose(weights, np.array(expected) / np.sum(expected), rtol=1e-5)


@pytest.mark.parametrize("mode", ["plain", "zscore"])
def test_a_great_head_temperature_is_the_plain_mean(mode: EntropyMode) -> None:
    np.testing.assert_allclose(head_weights(torch.tensor([0.2, 0.9]), mode, torch.tensor(1e9)), 0.5, atol=1e-6)


@pytest.mark.parametrize("mode", ["plain", "zscore", "mean"])
def test_a_single_head_weighs_one(mode: EntropyMode) -> None:
    assert head_weights(torch.tensor([0.7]), mode, 1.0).tolist() == [1.0]
