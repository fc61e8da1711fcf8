"""The method's own arithmetic on given queries and keys, without a network: pooled, linear, and dense for comparison.

`pooled` and `linear` are the product: the torch modules that `nerve_export` writes as graphs, the network in front of
`attention` left out; where they run in eager PyTorch, neighbours are summed by the function of `nerve_ref`. `dense` is written here as well as we can, and no graph of a bundle: all pairs of tokens, head by
head and in place, the two affinities added into one matrix beforehand, so that a step is a single product.

Letters as in the method: c classes, p tokens, m pooled keys, t heads, d width.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from nerve_export.graphs.arithmetic import NEIGHBOURS, OUTSIDE_LOGIT, log_reach, neighbour_weights, without_own
from nerve_export.graphs.modules import KEY_FLOOR, AttentionStage, MixStage, WalkStage
from nerve_export.graphs.modules_video import SolveStage, WalkExactStage
from nerve_export.presets.files import presets
from nerve_ref.local import local_apply
from nerve_ref.params import NerveParams

Form = Literal["pooled", "linear", "dense"]
FORMS: tuple[Form, ...] = ("dense", "pooled", "linear")
TOKEN_PX = 8
"""Pixels along a token's side, as Stable Diffusion's finest layers have them."""
HEAD_WIDTH = 64
HEADS = 10
CLASSES = 21


@dataclass(frozen=True, slots=True)
class Problem:
    """How large the arithmetic is.

    Attributes:
        side: tokens along a side of the square grid.
        cells: pooled keys along a side; the grid is a multiple of it.
        classes: number of classes.
        heads: in one layer.
        steps: of the walk.
    """

    side: int
    cells: int = 16
    classes: int = CLASSES
    heads: int = HEADS
    steps: int = NerveParams().steps

    @property
    def tokens(self) -> int:
        """Number of tokens p."""
        return self.side * self.side

    @property
    def grid_hw(self) -> tuple[int, int]:
        """The token grid."""
        return (self.side, self.side)

    def params(self, form: Form) -> NerveParams:
        """The constants of preset `sd21`, or of `paper` for the linear form, at this size."""
        preset = presets()["paper" if form == "linear" else "sd21"].params
        return replace(
            preset, size_hw=(TOKEN_PX * self.side,) * 2, pooled_hw=(self.cells, self.cells), steps=self.steps
        )


@dataclass(frozen=True, slots=True)
class MethodInputs:
    """What the networks would say: queries and keys float32 (t,p,d), and seed scores G (c,p)."""

    q: Tensor
    k: Tensor
    G: Tensor


def seeded_inputs(problem: Problem, seed: int = 0) -> MethodInputs:
    """Standard normal queries and keys, and scores that sum to 1; their values do not change what is computed."""
    generator = torch.Generator().manual_seed(seed)
    shape = (problem.heads, problem.tokens, HEAD_WIDTH)
    q, k = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    logits = torch.randn(problem.classes, problem.tokens, generator=generator)
    return MethodInputs(q, k, torch.softmax(3 * logits, dim=0))


class StructureStage(AttentionStage):
    """Queries and keys (t,p,d) to head affinities and W (8,h,w): the stage `attention` behind its network."""

    def __init__(self, params: NerveParams, grid_hw: tuple[int, int]) -> None:
        nn.Module.__init__(self)
        self.params, self.grid_hw = params, grid_hw
        self.register_buffer("reach", log_reach(grid_hw))

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # what the network gives
        """Neighbours are compared by keys, so no frame is looked at."""
        return self._structured(q, None, [(q, k, self.grid_hw)])


class DenseStructure(StructureStage):
    """As `StructureStage`, every token with every other: affinities (t,p,p)."""

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # as its parent
        """The same arithmetic in the same order, on all keys; head by head, so that one matrix is in use at a time."""
        rows = [self._dense_rows(*looks) for looks in zip(q, k, strict=True)]
        features = self._local_features(q, None, [(k, self.grid_hw)])
        return torch.stack(rows), neighbour_weights(features, self.reach, self.params.sigma)

    def _dense_rows(self, q: Tensor, k: Tensor) -> Tensor:
        """One head's rows (p,p): softmax, key normalisation, sharpening; one matrix in place, since memory is the cost."""
        params = self.params
        rows = (q / (math.sqrt(q.shape[1]) * params.temperature)) @ k.T
        rows = rows.sub_(rows.amax(1, keepdim=True)).exp_()
        if params.key_norm:
            rows *= 1 / rows.sum(1, keepdim=True)
            rows *= 1 / rows.mean(0, keepdim=True).clamp_min(KEY_FLOOR)
        rows *= 1 / rows.amax(1, keepdim=True)
        rows = _power_in_place(rows, params.sharpen)
        rows *= 1 / rows.sum(1, keepdim=True)
        return rows


def _power_in_place(entries: Tensor, exponent: float) -> Tensor:
    """Entries to a power, by squaring without a second matrix where the power is 2, 4, 8 ..."""
    squarings = math.log2(exponent)
    if squarings != int(squarings):
        return entries.pow_(exponent)
    for _ in range(int(squarings)):
        entries.square_()
    return entries


class DenseMix(MixStage):
    """Affinities (t,p,p), G (c,p), T_H () to S (p,p), head weights (t,) and head entropies (t,)."""

    def __init__(self, params: NerveParams, grid_hw: tuple[int, int]) -> None:
        super().__init__(replace(params, pooled_hw=grid_hw), grid_hw)

    def _pooled_step(self, head_affinity: Tensor, seed_scores: Tensor) -> Tensor:
        """One step of each head from G, (t,p,c); a token is its own cell, so its own weight is the diagonal."""
        step = head_affinity @ seed_scores.T
        to_own = head_affinity.diagonal(dim1=1, dim2=2)[..., None]
        return without_own(step, to_own, seed_scores.T[None], seed_scores)


class DenseWalk(WalkStage):
    """G (c,p), S (p,p), W (8,h,w), alpha (), beta () to P (c,p): both affinities in one matrix, so a step is a product."""

    seen: Tensor
    by: Tensor
    place: Tensor

    def __init__(self, params: NerveParams, grid_hw: tuple[int, int], steps: int) -> None:
        super().__init__(params, grid_hw, steps)
        inside = log_reach(grid_hw).flatten() > OUTSIDE_LOGIT
        y, x = torch.meshgrid(*(torch.arange(side) for side in grid_hw), indexing="ij")
        tokens = (y * grid_hw[1] + x).flatten()
        seen = torch.cat([tokens + dy * grid_hw[1] + dx for dy, dx in NEIGHBOURS])
        self.register_buffer("seen", seen[inside])
        self.register_buffer("by", tokens.repeat(len(NEIGHBOURS))[inside])
        self.register_buffer("place", inside.nonzero()[:, 0])

    def walk(
        self,
        seed_scores: Tensor,
        affinity: Tensor,
        local_weights: Tensor,
        alpha: Tensor,
        beta: Tensor,
        start: Tensor,
    ) -> Tensor:
        """P <- (1-alpha) G + alpha S P; `joined` is part of the walk, as the factors of the pooled form are."""
        stay, joined = (1 - alpha) * seed_scores, self.joined(affinity, local_weights, alpha, beta)
        scores = start
        for _ in range(self.steps):
            scores = stay + scores @ joined
        return scores

    def joined(self, affinity: Tensor, local_weights: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        """S with both affinities, times alpha and transposed (p,p): a product with it is faster that way round."""
        near = (alpha * (1 - beta) * local_weights).flatten()[self.place]
        far = (alpha * beta) * affinity.T.contiguous()
        return far.index_put_((self.seen, self.by), near, accumulate=True)


class EagerNeighbours:
    """The reference's sum over neighbours for stages of the walk: eight shifts, where the graphs have one convolution.

    In eager PyTorch the shifts take 0.2 ms a step at 64 x 64 tokens and the convolution 0.8; in graphs they would become
    thousands of layers of an engine.
    """

    def around(self, scores: Tensor, near: Tensor) -> Tensor:
        """Scores (c,p) of the 8 neighbours, weighed by `near` (8,h,w) and summed."""
        return local_apply(near, scores)


class EagerWalk(EagerNeighbours, WalkStage):
    """As `WalkStage`, for eager PyTorch."""


class EagerSolve(EagerNeighbours, SolveStage):
    """As `SolveStage`, for eager PyTorch."""


class EagerExact(EagerNeighbours, WalkExactStage):
    """As `WalkExactStage`, for eager PyTorch."""


@dataclass(frozen=True, slots=True)
class MethodStages:
    """The three parts of one form: what belongs together, the heads mixed, the walk."""

    structure: StructureStage
    mix: MixStage
    walk: WalkStage


def method_stages(form: Form, problem: Problem, *, eager: bool = False) -> MethodStages:
    """The parts of a form at a size, made to be exported or to run in eager PyTorch."""
    params, grid_hw = problem.params(form), problem.grid_hw
    if form == "dense":
        dense = DenseStructure(params, grid_hw), DenseMix(params, grid_hw), DenseWalk(params, grid_hw, params.steps)
        return MethodStages(*dense)
    walk = (EagerWalk if eager else WalkStage)(params, grid_hw, params.steps)
    return MethodStages(StructureStage(params, grid_hw), MixStage(params, grid_hw), walk)
