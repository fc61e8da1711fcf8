"""Arithmetic of the method in the form that graphs like: one operation where the formula has one, no branch, no p x p.

Letters as in the method: c classes, p tokens, m pooled keys, t or n heads, d width.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

DIAGONAL_WEIGHT = math.sqrt(0.5)
PROBABILITY_FLOOR = 1e-12
OUTSIDE_LOGIT = -1e4
ENTRY_FLOOR = 1e-6
OWN_GUARD = 1e-4
NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


def pool(maps: Tensor, cells_hw: tuple[int, int]) -> Tensor:
    """Mean over equal cells of (..., h, w) maps."""
    kernel = (maps.shape[-2] // cells_hw[0], maps.shape[-1] // cells_hw[1])
    return maps if kernel == (1, 1) else functional.avg_pool2d(maps, kernel)


def positive_features(x: Tensor) -> Tensor:
    """Centred features of both signs, cubed with their norm kept, and one constant: (n,p,d) to (n,p,2d+1)."""
    centred = x - x.mean(1, keepdim=True)
    signs = torch.cat([centred, -centred], dim=-1).clamp_min(0)
    cubed = signs * signs * signs
    focused = functional.normalize(cubed, dim=-1) * signs.norm(dim=-1, keepdim=True)
    return torch.cat([focused, torch.full_like(focused[..., :1], ENTRY_FLOOR**0.5)], dim=-1)


def without_own(step: Tensor, own_weight: Tensor, own_scores: Tensor, seed_scores: Tensor) -> Tensor:
    """One step (t,p,c) without the share of the token's own cell, renormalised; a little uniform where nothing is left."""
    uniform = (seed_scores.amax(1) > 0).to(torch.float32)
    others = (step - own_weight * own_scores).clamp_min(0)
    return (others + OWN_GUARD * uniform / uniform.sum()) / (1 - own_weight + OWN_GUARD)


def log_reach(grid_hw: tuple[int, int]) -> Tensor:
    """Added to the logits of the 8 neighbours (8,h,w): diagonals count less, places outside the grid not at all."""
    inside = functional.pad(torch.ones(grid_hw), (1, 1, 1, 1))
    reach = torch.full((8, *grid_hw), OUTSIDE_LOGIT)
    for index, (dy, dx) in enumerate(NEIGHBOURS):
        window = inside[1 + dy : 1 + dy + grid_hw[0], 1 + dx : 1 + dx + grid_hw[1]]
        reach[index][window > 0] = math.log(DIAGONAL_WEIGHT) if dy and dx else 0.0
    return reach


def spread_columns(rows: Tensor, cells_hw: tuple[int, int], to_hw: tuple[int, int]) -> Tensor:
    """Rows over coarse cells (n,p,cells) as rows over finer cells, each weight split evenly."""
    factor = (to_hw[0] // cells_hw[0], to_hw[1] // cells_hw[1])
    maps = rows.unflatten(2, cells_hw).repeat_interleave(factor[0], 2).repeat_interleave(factor[1], 3)
    return maps.flatten(2) / (factor[0] * factor[1])


def power(entries: Tensor, exponent: float) -> Tensor:
    """Entries to a power; by products where it is whole, since Pow on (t,p,m) took as long as all convolutions."""
    if exponent != int(exponent):
        return entries.pow(exponent)
    result, square, left = None, entries, int(exponent)
    while left:
        if left % 2:
            result = square if result is None else result * square
        square, left = square * square, left // 2
    return entries if result is None else result


def own_cells(grid_hw: tuple[int, int], cells_hw: tuple[int, int]) -> Tensor:
    """Index (p,) of the pooled cell that holds each token."""
    y = torch.arange(grid_hw[0]) * cells_hw[0] // grid_hw[0]
    x = torch.arange(grid_hw[1]) * cells_hw[1] // grid_hw[1]
    return (y[:, None] * cells_hw[1] + x[None]).flatten()


def all_finite(values: Tensor) -> Tensor:
    """Whether every entry is a number that float32 can hold, bool (). By comparing alone: NaN compares with nothing."""
    return (values.abs() <= torch.finfo(torch.float32).max).to(torch.int32).flatten().amin(0) > 0


def normalised_entropy(distributions: Tensor, seed_scores: Tensor) -> Tensor:
    """Mean over tokens of the entropy of (t,p,c), divided by the log of the number of classes in use."""
    active = (seed_scores.amax(1) > 0).sum().clamp_min(2).to(torch.float32)
    plogp = distributions * torch.log(distributions.clamp_min(PROBABILITY_FLOOR))
    return -plogp.sum(2).mean(1) / torch.log(active)


def neighbour_weights(features: Tensor, reach: Tensor, sigma: float) -> Tensor:
    """exp(-(1 - cos) / sigma) to each of the 8 neighbours, diagonals less, borders renormalised: (8,h,w).

    Args:
        features: unit vectors (f,h,w).
        reach: `log_reach` of the grid.
        sigma: width of the kernel.
    """
    height, width = features.shape[1:]
    padded = functional.pad(features[None], (1, 1, 1, 1))[0]
    windows = [padded[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width] for dy, dx in NEIGHBOURS]
    cosines = torch.stack([(features * window).sum(0) for window in windows])
    return torch.softmax((cosines - 1) / sigma + reach, dim=0)


def colour_features(frame: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Unit vectors (3,h,w) of each token's mean colour around grey, from a frame uint8 (1,H,W,3)."""
    maps = pool(frame.to(torch.float32).permute(0, 3, 1, 2) / 255, grid_hw) - 0.5
    return functional.normalize(maps[0], dim=0)
