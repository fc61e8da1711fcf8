"""Affinities and scores that move with the picture since the keyframe (ours; method, section 9).

The paper is about still pictures. Between keyframes the affinity stays that of the keyframe; where things have moved
since, each token of the frame has an origin, the token of the keyframe that showed the same surface, and two tokens have
the affinity of their origins. Origins are found elsewhere (`nerve_runtime.motion`).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nerve_ref.affinity import MixedAffinity
from nerve_ref.grids import Scalar
from nerve_ref.local import local_dense, neighbour_values
from nerve_ref.walk import walk

BORDER_FLOOR = 1e-6
"""Weight of a neighbour that lay outside of the keyframe and is inside now (ours)."""


@dataclass(frozen=True, slots=True)
class Motion:
    """Where the tokens of a frame come from.

    Attributes:
        origin_tokens: token of the keyframe that showed the same surface, for each token.
        origin_visible: confidence in it, 0 (newly uncovered, or lost) to 1.
        previous_tokens: the four tokens of the frame before around the position that a token came from.
        previous_weights: their bilinear weights, at least 0; they sum to 1, or to less where confidence is low.
    """

    origin_tokens: Int[Tensor, " p"]
    origin_visible: Float[Tensor, " p"]
    previous_tokens: Int[Tensor, "4 p"]
    previous_weights: Float[Tensor, "4 p"]


def carry(
    fresh: Float[Tensor, "c p"], previous: Float[Tensor, "c p"], motion: Motion, keep: Scalar
) -> Float[Tensor, "c p"]:
    """Scores of the frame before, moved to where their surfaces are now and mixed with fresh ones.

    A token takes `keep` times the confidence in its origin from `previous`, and the rest from `fresh`.
    """
    matrix = torch.zeros(fresh.shape[1], fresh.shape[1])
    rows = torch.arange(fresh.shape[1])
    for tokens, weights in zip(motion.previous_tokens, motion.previous_weights, strict=True):
        matrix.index_put_((rows, tokens), weights, accumulate=True)
    confidence = keep * matrix.sum(1)
    return (1 - confidence) * fresh + keep * previous @ matrix.T


def carried_dense(
    S_global: MixedAffinity, W: Float[Tensor, "8 h w"], motion: Motion, beta: Scalar
) -> Float[Tensor, "p p"]:
    """S of a frame between keyframes, whose rows sum to 1: far affinity of the origins, near affinity W of the frame.

    A pair of tokens has the affinity of its origins, times how far the second is visible; where a row then exceeds 1,
    because surfaces grew, it is divided by its sum. What a row lacks of 1 goes to the neighbours.
    """
    between = S_global.dense()[motion.origin_tokens][:, motion.origin_tokens] * motion.origin_visible
    far = between / between.sum(1, keepdim=True).clamp_min(1)
    trusted = beta * motion.origin_visible[:, None] * far
    return trusted + (1 - trusted.sum(1, keepdim=True)) * local_dense(W)


def carried_neighbours(W: Float[Tensor, "8 h w"], motion: Motion) -> Float[Tensor, "8 h w"]:
    """W of the keyframe at the origins of a frame's tokens, where the frame itself cannot be compared cheaply."""
    at_origins = W.flatten(1)[:, motion.origin_tokens].unflatten(1, W.shape[1:])
    inside = neighbour_values(torch.ones(1, *W.shape[1:]))[:, 0]
    weights = (at_origins + BORDER_FLOOR) * inside
    return weights / weights.sum(0)


def carried_walk(
    G: Float[Tensor, "c p"],
    S: Float[Tensor, "p p"],
    alpha: Scalar,
    steps: int,
    start: Float[Tensor, "c p"],
) -> Float[Tensor, "c p"]:
    """`steps` steps of the walk with `carried_dense`, from `carry`-ed scores."""
    return walk(G, lambda P: P @ S.T, alpha, steps, start)
