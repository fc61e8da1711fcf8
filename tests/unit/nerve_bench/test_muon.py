"""Muon: steps of one length in every direction, for matrices alone."""

import torch
from torch import nn

from nerve_bench.tiny.muon import Muon, orthogonal, split_parameters


def test_an_orthogonal_step_keeps_directions_and_evens_their_lengths() -> None:
    torch.manual_seed(0)
    for shape in ((24, 24), (48, 16), (16, 48)):
        # Singular values down to a hundredth of the largest are lifted; smaller ones need more iterations.
        left, _, right = torch.linalg.svd(torch.randn(*shape), full_matrices=False)
        values = torch.linspace(1, 0.02, min(shape))
        step = orthogonal(left @ torch.diag(values) @ right)
        lengths = torch.diagonal(left.T @ step @ right.T)
        assert step.shape == shape
        assert 0.3 < lengths.min() < lengths.max() < 1.3
        assert torch.dist(left @ torch.diag(lengths) @ right, step) < 1e-3


def test_a_step_is_as_large_as_its_rate_says_and_decays_the_weights() -> None:
    weight = nn.Parameter(torch.ones(4, 16))
    optimizer = Muon([weight], lr=0.1, weight_decay=0.5)
    optimizer.step()
    assert torch.equal(weight, torch.ones(4, 16)), "without a gradient nothing moves"
    weight.grad = torch.randn(4, 16)
    before = weight.detach().clone()
    optimizer.step()
    moved = weight.detach() - before * (1 - 0.1 * 0.5)
    # 0.2 sqrt(16) times a matrix of 4 singular values near 1.
    assert 0.6 < moved.norm() / (0.1 * 0.2 * 4 * 2) < 1.2


def test_matrices_of_linear_layers_are_told_from_all_else() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.LayerNorm(3), nn.Conv2d(3, 3, 1))
    matrices, others = split_parameters(model)
    assert [matrix.shape for matrix in matrices] == [(3, 4)]
    assert len(others) == len(list(model.parameters())) - 1


def test_muon_fits_a_matrix() -> None:
    torch.manual_seed(0)
    model, goal = nn.Linear(8, 8, bias=False), torch.randn(8, 8)
    optimizer = Muon(model.parameters(), lr=0.05, weight_decay=0.0)
    losses = []
    for _ in range(200):
        loss = (model.weight - goal).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]
