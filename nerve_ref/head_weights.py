"""Which heads to trust: the entropy of one step, and weights that fall with it (method, section 6; E3, E4)."""

import torch
from jaxtyping import Float
from torch import Tensor

from nerve_ref.affinity import Affinity
from nerve_ref.grids import Scalar
from nerve_ref.params import EntropyMode

PROBABILITY_FLOOR = 1e-12
"""Where the logarithm of the entropy is cut off; p log p is then far below float32's resolution of the sum."""
DEVIATION_FLOOR = 1e-3
"""Added to the deviation of entropies: fades to the plain mean where heads agree, without a switch that flickers."""


def head_entropies(affinity: Affinity, G: Float[Tensor, "c p"], self_loop: bool) -> Float[Tensor, " n"]:
    """H of each head: the mean over tokens of the entropy of one step, over the log of the classes in use; 0 to 1.

    Args:
        affinity: per-head affinities.
        G: seed scores; classes that are 0 at every token do not count as in use.
        self_loop: keep what a token gives itself. Without that removed, a head that attends to itself always wins.

    Source: E3; the removal of the self-loop is ours.
    """
    one_step = affinity.apply(G) if self_loop else affinity.without_self_loop(G)
    return mean_entropies(one_step, active_classes(G))


def mean_entropies(distributions: Float[Tensor, "n c p"], active: Float[Tensor, ""]) -> Float[Tensor, " n"]:
    """Mean over tokens of -sum_c P log P / log(active), for at least two classes."""
    terms = distributions * distributions.clamp_min(PROBABILITY_FLOOR).log()
    return -terms.sum(1).mean(1) / active.clamp_min(2).log()


def active_classes(G: Float[Tensor, "c p"]) -> Float[Tensor, ""]:
    """How many classes have a seed anywhere."""
    return (G != 0).any(1).to(G.dtype).sum()


def head_weights(entropies: Float[Tensor, " n"], mode: EntropyMode, head_temperature: Scalar) -> Float[Tensor, " n"]:
    """Weights of the heads, at least 0 and summing to 1.

    `zscore`: softmax(-(H - mean) / (std + 1e-3) / T_H), the deviation taken over the heads at hand (divided by n).
    `plain`: exp(-H / T_H), normalised, the paper's form. `mean`: equal weights, T_H unused.

    Raises:
        ValueError: if the mode is unknown.

    Source: E4; `zscore` is ours.
    """
    if mode == "mean":
        return torch.full_like(entropies, 1 / len(entropies))
    if mode == "plain":
        return torch.softmax(-entropies / head_temperature, dim=0)
    if mode == "zscore":
        deviation = entropies.std(correction=0) + DEVIATION_FLOOR
        return torch.softmax(-(entropies - entropies.mean()) / deviation / head_temperature, dim=0)
    raise ValueError(f"entropy mode is {mode!r}, expected zscore, plain or mean")
