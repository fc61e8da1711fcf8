"""The laws of the walk (method, section 8) on random affinities, and the read-out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nerve_ref.affinity import MixedPooled
from nerve_ref.local import local_apply, local_weights
from nerve_ref.walk import closed_form, mixed_dense, mixed_step, readout, walk
from tests.unit.nerve_ref.by_hand import resize_matrix

GRID, CELLS, TOKENS = (4, 6), (2, 3), 24

seeds = st.integers(0, 10_000)
alphas = st.floats(0, 0.95)
betas = st.floats(0, 1)
lawful = settings(max_examples=40, deadline=None)


def random_walk(seed: int, classes: int = 4) -> tuple[Tensor, MixedPooled, Tensor]:
    """G, a mixed affinity over cells and local weights, all random."""
    generator = torch.Generator().manual_seed(seed)
    G = torch.softmax(3 * torch.randn(classes, TOKENS, generator=generator), dim=0)
    rows = torch.softmax(3 * torch.randn(TOKENS, 6, generator=generator), dim=1)
    W = local_weights(torch.randn(5, *GRID, generator=generator), 0.2)
    return G, MixedPooled(rows, GRID, CELLS), W


@given(seed=seeds, alpha=alphas, beta=betas, steps=st.integers(0, 30))
@lawful
def test_every_token_keeps_a_distribution(seed: int, alpha: float, beta: float, steps: int) -> None:
    G, S, W = random_walk(seed)
    P = walk(G, mixed_step(S, W, beta), alpha, steps)
    torch.testing.assert_close(P.sum(0), torch.ones(TOKENS), atol=1e-5, rtol=0)
    assert P.min() >= 0
    assert P.max() <= 1 + 1e-6


@given(seed=seeds, alpha=alphas, beta=betas, steps=st.integers(0, 30))
@lawful
def test_the_truncated_walk_approaches_the_closed_form(seed: int, alpha: float, beta: float, steps: int) -> None:
    G, S, W = random_walk(seed)
    limit = closed_form(G, mixed_dense(S, W, beta), alpha)
    distance = (walk(G, mixed_step(S, W, beta), alpha, steps) - limit).abs().sum(0)
    # float32 rounding of the walk itself is far below 1e-5
    assert distance.max() <= 2 * alpha**steps + 1e-5


@given(seed=seeds, alpha=alphas, beta=betas)
@lawful
def test_the_closed_form_is_a_fixed_point(seed: int, alpha: float, beta: float) -> None:
    G, S, W = random_walk(seed)
    matrix = mixed_dense(S, W, beta).double()
    limit = closed_form(G, matrix, alpha)
    torch.testing.assert_close((1 - alpha) * G.double() + alpha * limit @ matrix.T, limit, atol=1e-9, rtol=0)


@given(seed=seeds, alpha=alphas, beta=betas)
@lawful
def test_constant_seeds_are_a_fixed_point(seed: int, alpha: float, beta: float) -> None:
    G, S, W = random_walk(seed)
    constant = G[:, :1].expand(-1, TOKENS)
    P = walk(constant, mixed_step(S, W, beta), alpha, 10)
    torch.testing.assert_close(P, constant.contiguous(), atol=1e-5, rtol=0)


@given(seed=seeds, order=st.permutations(range(4)))
@lawful
def test_permuting_classes_permutes_the_result(seed: int, order: list[int]) -> None:
    G, S, W = random_walk(seed)
    step = mixed_step(S, W, 0.7)
    torch.testing.assert_close(walk(G[order], step, 0.85, 10), walk(G, step, 0.85, 10)[order], atol=1e-6, rtol=0)


@given(seed=seeds, alpha=alphas, beta=betas)
@lawful
def test_the_factorised_walk_is_the_dense_walk(seed: int, alpha: float, beta: float) -> None:
    G, S, W = random_walk(seed)
    matrix = mixed_dense(S, W, beta)
    dense = walk(G, lambda P: P @ matrix.T, alpha, 10)
    torch.testing.assert_close(walk(G, mixed_step(S, W, beta), alpha, 10), dense, atol=1e-5, rtol=0)


@given(seed=seeds)
@lawful
def test_no_step_returns_the_seeds(seed: int) -> None:
    G, S, W = random_walk(seed)
    assert torch.equal(walk(G, mixed_step(S, W, 0.7), 0.85, 0), G)


@given(seed=seeds)
@lawful
def test_beta_at_its_ends_is_the_walk_of_one_affinity(seed: int) -> None:
    G, S, W = random_walk(seed)
    torch.testing.assert_close(walk(G, mixed_step(S, W, 1), 0.8, 5), walk(G, S.apply, 0.8, 5))
    local = walk(G, lambda P: local_apply(W, P), 0.8, 5)
    torch.testing.assert_close(walk(G, mixed_step(S, W, 0), 0.8, 5), local)


@given(seed=seeds, alpha=alphas, beta=betas)
@lawful
def test_masked_classes_stay_exactly_zero(seed: int, alpha: float, beta: float) -> None:
    G, S, W = random_walk(seed)
    G[2] = 0
    assert (walk(G, mixed_step(S, W, beta), alpha, 10)[2] == 0).all()


@given(seed=seeds)
@lawful
def test_a_warm_walk_reaches_the_same_limit(seed: int) -> None:
    G, S, W = random_walk(seed)
    start = random_walk(seed + 1)[0]
    limit = closed_form(G, mixed_dense(S, W, 0.7), 0.5)
    warm = walk(G, mixed_step(S, W, 0.7), 0.5, 30, start=start)
    torch.testing.assert_close(warm.double(), limit, atol=1e-5, rtol=0)


def test_one_step_on_numbers_that_can_be_checked_by_hand() -> None:
    G = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    P = walk(G, lambda P: P @ swap.T, 0.25, 1)
    torch.testing.assert_close(P, torch.tensor([[0.75, 0.25], [0.25, 0.75]]))


def test_alpha_and_beta_may_be_tensors() -> None:
    G, S, W = random_walk(0)
    P = walk(G, mixed_step(S, W, torch.tensor(0.7)), torch.tensor(0.85), 5)
    torch.testing.assert_close(P, walk(G, mixed_step(S, W, 0.7), 0.85, 5))


def test_labels_are_the_argmax_of_bilinear_probabilities() -> None:
    G, _, _ = random_walk(3)
    maps = (resize_matrix(GRID, (7, 13)) @ G.double().numpy().T).T.reshape(4, 7, 13)
    labels, confidence = readout(G, GRID, (7, 13), 0.0, False)
    np.testing.assert_array_equal(labels, maps.argmax(0))
    # one level of tolerance: a product that falls on a half may round either way
    np.testing.assert_allclose(confidence.numpy().astype(float), 255 * maps.max(0), atol=0.5 + 1e-3)


@pytest.mark.parametrize(("has_background", "expected"), [(True, [[0, 1]]), (False, [[2, 1]])])
def test_weak_pixels_become_background_only_where_there_is_one(has_background: bool, expected: list[list[int]]) -> None:
    P = torch.tensor([[0.3, 0.1], [0.3, 0.8], [0.4, 0.1]])
    labels, confidence = readout(P, (1, 2), (1, 2), 0.5, has_background)
    assert labels.tolist() == expected
    assert confidence.tolist() == [[102, 204]]


def test_pixels_without_numbers_are_ignored() -> None:
    P = torch.tensor([[torch.nan, 0.1], [0.5, 0.9]])
    labels, confidence = readout(P, (1, 2), (1, 2), 0.2, True)
    assert labels.tolist() == [[255, 1]]
    assert confidence.tolist()[0][0] == 0


def test_equal_scores_take_the_first_class() -> None:
    labels, confidence = readout(torch.full((4, 1), 0.25), (1, 1), (2, 2), 0.1, False)
    assert labels.tolist() == [[0, 0], [0, 0]]
    assert confidence.unique().tolist() == [64]
