"""The random walk and its read-out (method, section 8; E5 to E7)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from nerve_ref.affinity import MixedAffinity, MixedPooled
from nerve_ref.grids import Scalar, mean_pool
from nerve_ref.local import local_apply, local_dense

Step = Callable[[Tensor], Tensor]
"""P (c, p) to S P (c, p)."""

IGNORE_INDEX = 255
"""Label of a pixel whose scores are not numbers."""


def walk(
    G: Float[Tensor, "c p"], apply_S: Step, alpha: Scalar, steps: int, start: Float[Tensor, "c p"] | None = None
) -> Float[Tensor, "c p"]:
    """P_L: `steps` times P <- (1 - alpha) G + alpha S P, from `start`, or from G.

    Columns of the result sum to 1 if those of G and of the start do, and rows of S.

    Source: E7.
    """
    P = G if start is None else start
    for _ in range(steps):
        P = (1 - alpha) * G + alpha * apply_S(P)
    return P


def mixed_step(S_global: MixedAffinity, W: Float[Tensor, "8 h w"], beta: Scalar) -> Step:
    """S P with S = beta S_global + (1 - beta) S_local (E5)."""

    def step(P: Float[Tensor, "c p"]) -> Float[Tensor, "c p"]:
        return beta * S_global.apply(P) + (1 - beta) * local_apply(W, P)

    return step


def mixed_dense(S_global: MixedAffinity, W: Float[Tensor, "8 h w"], beta: Scalar) -> Float[Tensor, "p p"]:
    """S itself, for the closed form."""
    return beta * S_global.dense() + (1 - beta) * local_dense(W)


def closed_form(G: Float[Tensor, "c p"], S: Float[Tensor, "p p"], alpha: float) -> Float[Tensor, "c p"]:
    """The limit of the walk, P = (1 - alpha)(I - alpha S)^-1 G, solved directly in float64; returns float64.

    Source: E6.
    """
    identity = torch.eye(len(S), dtype=torch.float64)
    return (1 - alpha) * torch.linalg.solve(identity - alpha * S.double(), G.double().T).T


@dataclass(frozen=True, slots=True)
class ClosedSum:
    """What the exact walk keeps of a keyframe (method, section 8; ours).

    Attributes:
        LB: (I - alpha (1 - beta) W)^-1 B, float64.
        X: (I - alpha beta R LB)^-1, float64.
    """

    LB: Float[Tensor, "p m"]
    X: Float[Tensor, "m m"]


def closed_sum(S_global: MixedPooled, W: Float[Tensor, "8 h w"], alpha: float, beta: float) -> ClosedSum:
    """Woodbury's identity for S = beta B R + (1 - beta) W, solved directly in float64; B is p x m, R averages cells."""
    B = S_global.S.double()
    near = torch.eye(len(B), dtype=torch.float64) - alpha * (1 - beta) * local_dense(W).double()
    LB = torch.linalg.solve(near, B)
    pooled = mean_pool(LB.T, S_global.grid_hw, S_global.pooled_hw).T
    return ClosedSum(LB, torch.linalg.inv(torch.eye(B.shape[1], dtype=torch.float64) - alpha * beta * pooled))


def readout(
    P: Float[Tensor, "c p"], grid_hw: tuple[int, int], size_hw: tuple[int, int], threshold: Scalar, has_background: bool
) -> tuple[UInt8[Tensor, "H W"], UInt8[Tensor, "H W"]]:
    """Labels and confidence of every pixel.

    Args:
        P: label scores; columns sum to 1.
        grid_hw: token grid.
        size_hw: pixels of the result; probabilities are resized bilinearly (align_corners False).
        threshold: pixels below it become class 0, if that is the background.
        has_background: whether class 0 is the background.

    Returns:
        labels: the most probable class, the first of equals; `IGNORE_INDEX` where a score is NaN.
        confidence: 255 times the greatest probability, rounded half to even; 0 where a score is NaN.
    """
    return labels_of(bilinear_scores(P, grid_hw, size_hw), threshold, has_background)


def bilinear_scores(
    P: Float[Tensor, "c p"], grid_hw: tuple[int, int], size_hw: tuple[int, int]
) -> Float[Tensor, "c H W"]:
    """Label scores of every pixel by distance alone (align_corners False); each pixel's sum to 1 if each token's do."""
    return functional.interpolate(P.unflatten(1, grid_hw)[None], size=size_hw, mode="bilinear", align_corners=False)[0]


def labels_of(
    maps: Float[Tensor, "c H W"], threshold: Scalar, has_background: bool
) -> tuple[UInt8[Tensor, "H W"], UInt8[Tensor, "H W"]]:
    """Labels and confidence of label scores of pixels; arguments and results are those of `readout`."""
    confidence, labels = maps.max(0)
    if has_background:
        labels = labels.masked_fill(confidence < threshold, 0)
    broken = maps.isnan().any(0)
    level = (confidence.masked_fill(broken, 0).clamp(0, 1) * 255).round()
    return labels.masked_fill(broken, IGNORE_INDEX).to(torch.uint8), level.to(torch.uint8)
