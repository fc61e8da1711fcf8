"""The stages that only video needs: scores and affinities that follow the picture, and the exact walk.

Letters as in `modules`.
"""

import math

import torch
from torch import Tensor, nn

from nerve_export.graphs.arithmetic import OUTSIDE_LOGIT, colour_features, log_reach, neighbour_weights, own_cells
from nerve_export.graphs.modules import WalkStage
from nerve_ref.params import NerveParams

EXACT_ERROR = 1e-4
"""Relative error that the local steps of the exact walk may leave at the preset's alpha and beta."""
BORDER_FLOOR = 1e-6
DOUBLINGS = 7
"""Squarings in (I + M)(I + M^2)(I + M^4)...: with a spectral radius of 0.8 the rest is 0.8^256, with 0.97 it is 4e-4."""


def local_steps(alpha: float, beta: float) -> int:
    """Chebyshev steps after which (I - alpha (1 - beta) W)^-1 is within `EXACT_ERROR`.

    W is a row-normalised symmetric matrix, so its eigenvalues are real and within -1..1, and the error after k steps
    is at most 2 s^k with s = c / (1 + sqrt(1 - c^2)), c = alpha (1 - beta). Plain steps would leave c^k: for the tiny
    preset (c = 0.74) 13 steps do what 31 would.

    >>> local_steps(0.93, 0.2), local_steps(0.85, 0.7), local_steps(0.85, 1.0)
    (13, 5, 1)
    """
    c = alpha * (1 - beta)
    if c <= 0:
        return 1
    shrink = c / (1 + math.sqrt(1 - c * c))
    return max(1, math.ceil(math.log(EXACT_ERROR / 2) / math.log(shrink)))


class LocalStage(nn.Module):
    """Frame uint8 (1,H,W,3) to W float32 (8,h,w) by colours: what `attention` computes too, without its networks."""

    reach: Tensor

    def __init__(self, params: NerveParams, grid_hw: tuple[int, int]) -> None:
        super().__init__()
        self.grid_hw, self.sigma = grid_hw, params.sigma
        self.register_buffer("reach", log_reach(grid_hw))

    def forward(self, frame: Tensor) -> Tensor:
        """Compare the colours of neighbours."""
        return neighbour_weights(colour_features(frame, self.grid_hw), self.reach, self.sigma)


class LocalCarriedStage(nn.Module):
    """W of the keyframe (8,h,w) and the tokens' origins (p,) to W (8,h,w), where the frame alone has none."""

    inside: Tensor

    def __init__(self, grid_hw: tuple[int, int]) -> None:
        super().__init__()
        self.grid_hw = grid_hw
        self.register_buffer("inside", (log_reach(grid_hw) > OUTSIDE_LOGIT).to(torch.float32))

    def forward(self, keyframe_weights: Tensor, origin_tokens: Tensor) -> Tensor:
        """Look W up at the origins. A token from the border has no weight on the side that lay outside; a floor gives it some."""
        moved = keyframe_weights.flatten(1)[:, origin_tokens].unflatten(1, self.grid_hw)
        weights = (moved + BORDER_FLOOR) * self.inside
        return weights / weights.sum(0)


class CarryStage(nn.Module):
    """Fresh scores (c,p) and those of the frame before (c,p) to their mixture (c,p), the latter moved."""

    def forward(
        self,
        seed_scores: Tensor,
        previous_scores: Tensor,
        previous_tokens: Tensor,
        previous_weights: Tensor,
        keep: Tensor,
    ) -> Tensor:
        """(1 - keep w) fresh + keep sum_k w_k previous[k], k the four tokens (4,p) around where a token came from."""
        moved = (previous_scores[:, previous_tokens] * previous_weights).sum(1)
        return (1 - keep * previous_weights.sum(0)) * seed_scores + keep * moved


class WalkCarriedStage(WalkStage):
    """As `WalkWarmStage`, with the keyframe's affinity looked up at the tokens' origins (p,)."""

    cells: Tensor

    def __init__(self, params: NerveParams, grid_hw: tuple[int, int], steps: int) -> None:
        super().__init__(params, grid_hw, steps)
        self.tokens_per_cell = grid_hw[0] * grid_hw[1] / (params.pooled_hw[0] * params.pooled_hw[1])
        if not self.linear:
            self.register_buffer("cells", own_cells(grid_hw, params.pooled_hw))

    def forward(  # type: ignore[override]  # other inputs than the cold walk, which is its point
        self,
        seed_scores: Tensor,
        affinity: Tensor,
        local_weights: Tensor,
        previous_scores: Tensor,
        origin_tokens: Tensor,
        origin_visible: Tensor,
        alpha: Tensor,
        beta: Tensor,
    ) -> Tensor:
        """Walk from the carried scores; what a row of far affinity lacks goes to the neighbours."""
        rows = (affinity[0] if self.linear else affinity)[origin_tokens]
        columns = self._columns(affinity, origin_tokens) * origin_visible[:, None]
        sums = rows @ columns.sum(0)
        share = beta * origin_visible / sums.clamp_min(1)
        far = rows.T * (alpha * share)
        near = alpha * (1 - share * sums).unflatten(0, self.grid_hw) * local_weights
        stay = (1 - alpha) * seed_scores
        scores = previous_scores
        for _ in range(self.steps):
            scores = stay + (scores @ columns) @ far + self.around(scores, near)
        return scores

    def _columns(self, affinity: Tensor, origin_tokens: Tensor) -> Tensor:
        """(p,m), or (p,t*e): what a token adds to each cell, or feature, as its origin did in the keyframe."""
        if self.linear:
            return affinity[1][origin_tokens]
        cells = torch.arange(affinity.shape[1], device=origin_tokens.device)
        return (self.cells[origin_tokens][:, None] == cells).to(torch.float32) / self.tokens_per_cell


class _ExactStage(WalkStage):
    """What both halves of the exact walk share. Source: method, section 8, "The exact walk"."""

    def __init__(self, params: NerveParams, grid_hw: tuple[int, int]) -> None:
        super().__init__(params, grid_hw, local_steps(params.alpha, params.beta))

    def without_near(self, scores: Tensor, local_weights: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        """(I - alpha (1 - beta) W)^-1 applied to (c,p), by Chebyshev's semi-iteration."""
        reach = alpha * (1 - beta)
        near = reach * local_weights
        before, found = scores, scores + self.around(scores, near)
        relaxed = 2 / (2 - reach * reach)
        for _ in range(self.steps - 1):
            step = scores + self.around(found, near)
            before, found = found, relaxed * (step - before) + before
            relaxed = 1 / (1 - relaxed * reach * reach / 4)
        return found


class SolveStage(_ExactStage):
    """S (p,m), W (8,h,w), alpha, beta to LB (p,m) and X (m,m): all of the exact walk that belongs to the keyframe."""

    def forward(  # type: ignore[override]  # other inputs and outputs than a walk
        self, affinity: Tensor, local_weights: Tensor, alpha: Tensor, beta: Tensor
    ) -> tuple[Tensor, Tensor]:
        """LB = Linv B, X = (I - M)^-1 with M = alpha beta R LB, by doubling."""
        spread = self.without_near(affinity.T, local_weights, alpha, beta)  # (m,p)
        power = alpha * beta * self.pooled(spread).T
        closed = torch.eye(power.shape[0], device=power.device) + power
        for _ in range(DOUBLINGS):
            power = power @ power
            closed = closed + closed @ power
        return spread.T, closed


class WalkExactStage(_ExactStage):
    """G (c,p), LB (p,m), X (m,m), W (8,h,w), alpha, beta to the limit of the walk P (c,p)."""

    def forward(  # type: ignore[override]  # other inputs than the cold walk, which is its point
        self,
        seed_scores: Tensor,
        local_affinity: Tensor,
        closed_sum: Tensor,
        local_weights: Tensor,
        alpha: Tensor,
        beta: Tensor,
    ) -> Tensor:
        """P = (1 - alpha)(LG + alpha beta LB X R LG), LG = Linv G."""
        spread = self.without_near(seed_scores, local_weights, alpha, beta)
        far = alpha * beta * (self.pooled(spread) @ closed_sum.T) @ local_affinity.T
        return (1 - alpha) * (spread + far)
