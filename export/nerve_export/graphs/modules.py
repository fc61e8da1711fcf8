"""The stages as torch modules that export well: static shapes but for the classes, no p x p tensor, one Conv per walk step.

The networks are in `networks.py`; here the method is written a second time, in the form that graphs like, in float32
whatever the networks' precision. Two kinds of affinity have graphs: `softmax_pooled`, whose heads all mix into one
(p, m) matrix, and `linear`, whose factors lie in one tensor, rows first, columns second.

Letters as in the method: c classes, r text rows, k rows of a class, p tokens, m pooled keys, t heads, d width,
e features of a linear head, 2 d + 1.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nerve_export.graphs.arithmetic import (
    NEIGHBOURS,
    colour_features,
    log_reach,
    neighbour_weights,
    normalised_entropy,
    own_cells,
    pool,
    positive_features,
    power,
    spread_columns,
    without_own,
)
from nerve_export.graphs.networks import DenseClip, LayerMaps, TextTower, provider_heads
from nerve_export.graphs.sizes import Sizes
from nerve_ref.params import NerveParams
from nerve_ref.weights.networks import Models
from nerve_runtime.errors import UsageError

UNUSED_LOGIT = -1e4
DEVIATION_FLOOR = 1e-3
KEY_FLOOR = 1e-6
Taps = dict[str, Tensor]


class NetworkStage(nn.Module):
    """A stage with a network inside.

    Attributes:
        network: what `lowering.lower` gives its precision; the rest of the stage is float32.
        batched: whether it takes several frames in a run; `modules_batched` has those that do.
        tap_names: inner tensors, by name, that the method `tapped` of a stage that has any gives behind its outputs.
    """

    network: nn.Module
    batched = False
    tap_names: tuple[str, ...] = ()


class TextStage(NetworkStage):
    """Token ids int64 (n,l) to unit text embeddings float32 (n,d)."""

    def __init__(self, models: Models, *, native: bool) -> None:
        super().__init__()
        self.network = TextTower(models.clip, native=native)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Embed prompts."""
        return functional.normalize(self.network(token_ids), dim=-1)


class ScoresStage(NetworkStage):
    """Frame uint8 (1,H,W,3), text rows, classes to seed scores G float32 (c,p)."""

    def __init__(self, models: Models, params: NerveParams, grid_hw: tuple[int, int], *, native: bool) -> None:
        super().__init__()
        self.network = DenseClip(
            models.clip, params.clip_mode, params.clip_size_hw, native=native, batched=self.batched
        )
        self.grid_hw, self.tap_names = grid_hw, ("features",)

    def forward(
        self, frame: Tensor, text_embeddings: Tensor, class_rows: Tensor, class_mask: Tensor, tau: Tensor
    ) -> Tensor:
        """Compare patches with text: softmax over the classes in use; a class takes the best of its rows."""
        features = self.network(frame)
        return self.compared(features, text_embeddings, class_rows, class_mask, tau)

    def tapped(self, *inputs: Tensor) -> tuple[tuple[Tensor, ...], Taps]:
        """With `features`, unit patch features of CLIP (hc*wc,d)."""
        frame, *classes = inputs
        features = self.network(frame)
        return (self.compared(features, *classes),), {"features": features}

    def compared(
        self, features: Tensor, text_embeddings: Tensor, class_rows: Tensor, class_mask: Tensor, tau: Tensor
    ) -> Tensor:
        """G (c,p) of patch features (hc*wc,d)."""
        logits = text_embeddings @ features.T * tau  # (r, hc*wc)
        maps = logits.unflatten(1, self.network.grid_hw)[None]
        logits = functional.interpolate(maps, size=self.grid_hw, mode="bilinear", align_corners=False)[0].flatten(1)
        return class_scores(logits, class_rows, class_mask)


class FeatureScoresStage(nn.Module):
    """Patch features (p,d) of stage `attention`, text rows, classes to G (c,p): where one tower says both."""

    def forward(
        self, patch_features: Tensor, text_embeddings: Tensor, class_rows: Tensor, class_mask: Tensor, tau: Tensor
    ) -> Tensor:
        """Compare patches with text; a patch is a token."""
        return class_scores(text_embeddings @ patch_features.T * tau, class_rows, class_mask)


def class_scores(logits: Tensor, class_rows: Tensor, class_mask: Tensor) -> Tensor:
    """Logits of text rows (r,p) to a distribution over the classes in use (c,p); a class takes the best of its rows."""
    # Gather + ReduceMax: scatter-max is refused by TensorRT-RTX.
    best = logits[class_rows].amax(1)
    on = class_mask[:, None]
    # No -inf in the graph: engines may turn inf - inf into NaN. Unused slots are lowered, then zeroed exactly.
    highest = torch.where(on, best, UNUSED_LOGIT).amax(0, keepdim=True)
    raised = torch.exp((best - highest).clamp_max(0)) * on
    return raised / raised.sum(0, keepdim=True)


class AttentionStage(NetworkStage):
    """Frame uint8 (1,H,W,3) to head affinities float32, B (t,p,m) or factors (2,t,p,e), and W float32 (8,h,w)."""

    reach: Tensor

    def __init__(self, models: Models, params: NerveParams, grid_hw: tuple[int, int], *, native: bool) -> None:
        super().__init__()
        self.network = provider_heads(models.provider, params, native=native, batched=self.batched)
        self.params, self.grid_hw, self.tap_names = params, grid_hw, self.network.tap_names
        self.register_buffer("reach", log_reach(grid_hw))

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Affinities of tokens and of neighbours from Q and K of the layers in use."""
        return self._structured(frame, *self.network(frame))

    def tapped(self, *inputs: Tensor) -> tuple[tuple[Tensor, ...], Taps]:
        """With `latent` (1,4,h,w), where there is one, and `q0`, `k0`, `q1` ... (n,p,d) of each layer in use."""
        latent, layers = self.network(*inputs)
        taps = {} if latent is None else {"latent": latent}
        for index, (q, k, _) in enumerate(layers):
            taps |= {f"q{index}": q, f"k{index}": k}
        return self._structured(inputs[0], latent, layers), taps

    def _structured(self, frame: Tensor, latent: Tensor | None, layers: Sequence[LayerMaps]) -> tuple[Tensor, Tensor]:
        if self.params.affinity == "linear":
            factors = [self.linear_factors(q, k, layer_hw) for q, k, layer_hw in layers]
            affinity = torch.cat(factors, dim=1)
        else:
            affinity = torch.cat([self.pooled_affinity(q, k, layer_hw) for q, k, layer_hw in layers])
        features = self._local_features(frame, latent, [(k, layer_hw) for _, k, layer_hw in layers])
        return affinity, neighbour_weights(features, self.reach, self.params.sigma)

    def linear_factors(self, q: Tensor, k: Tensor, layer_hw: tuple[int, int]) -> Tensor:
        """One layer's rows and columns (2,n,p,e), S_h = rows_h columns_h^T."""
        if layer_hw != self.grid_hw:
            raise UsageError(
                f"affinity 'linear' has graphs only for layers of the token grid {self.grid_hw}, one is {layer_hw}"
            )
        rows, columns = positive_features(q), positive_features(k)
        sums = (rows * columns.sum(1, keepdim=True)).sum(2, keepdim=True)
        return torch.stack([rows / sums, columns])

    def pooled_affinity(self, q: Tensor, k: Tensor, layer_hw: tuple[int, int]) -> Tensor:
        """One layer's rows (n,p,m): softmax, key normalisation, sharpening, then up to the token grid."""
        params = self.params
        cells_hw = (min(layer_hw[0], params.pooled_hw[0]), min(layer_hw[1], params.pooled_hw[1]))
        pooled = pool(k.transpose(1, 2).unflatten(2, layer_hw), cells_hw).flatten(2)  # (n,d,cells)
        rows = torch.softmax(q @ pooled / (math.sqrt(q.shape[2]) * params.temperature), dim=-1)
        if params.key_norm:
            rows = rows / rows.mean(1, keepdim=True).clamp_min(KEY_FLOOR)
        rows = rows / rows.amax(2, keepdim=True)  # relative to the maximum no power underflows a whole row
        rows = power(rows, params.sharpen)
        if params.row_threshold > 0:
            rows = rows * (rows >= params.row_threshold)
        rows = rows / rows.sum(2, keepdim=True)
        if cells_hw != params.pooled_hw:
            rows = spread_columns(rows, cells_hw, params.pooled_hw)
        if layer_hw == self.grid_hw:
            return rows
        columns = rows.transpose(1, 2).unflatten(2, layer_hw)  # (n,m,h,w)
        columns = functional.interpolate(columns, size=self.grid_hw, mode="bilinear", align_corners=False)
        return columns.flatten(2).transpose(1, 2)

    def _local_features(
        self, frame: Tensor, latent: Tensor | None, keys: Sequence[tuple[Tensor, tuple[int, int]]]
    ) -> Tensor:
        """Unit feature vectors (f,h,w) that the 8 neighbours compare."""
        if self.params.local_features == "latent":
            maps = pool(self.needed_latent(latent), self.grid_hw)
        elif self.params.local_features == "rgb":
            return colour_features(frame, self.grid_hw)
        else:
            layers = [k.transpose(1, 2).flatten(0, 1).unflatten(1, layer_hw)[None] for k, layer_hw in keys]
            maps = torch.cat([self.to_grid(layer) for layer in layers], dim=1)
        return functional.normalize(maps[0], dim=0)

    @staticmethod
    def needed_latent(latent: Tensor | None) -> Tensor:
        """The latent.

        Raises:
            UsageError: the provider of affinities has none.
        """
        if latent is None:
            raise UsageError("local_features 'latent' needs Stable Diffusion; name 'keys' or 'rgb'")
        return latent

    def to_grid(self, maps: Tensor) -> Tensor:
        """Maps (n,f,h,w) of a layer, on the token grid."""
        if tuple(maps.shape[2:]) == self.grid_hw:
            return maps
        return functional.interpolate(maps, size=self.grid_hw, mode="bilinear", align_corners=False)


class ClipAttentionStage(AttentionStage):
    """As `AttentionStage`, by CLIP's own tower, whose unit patch features (p,d) stage `scores` takes."""

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]  # one output more
        """Affinities of tokens and of neighbours, and the patch features, from one run of the tower."""
        features, layers = self.network(frame)
        return (*self._structured(frame, None, layers), features)

    def tapped(self, *inputs: Tensor) -> tuple[tuple[Tensor, ...], Taps]:
        """With `q0`, `k0`, `q1` ... (n,p,d) of each layer in use."""
        features, layers = self.network(*inputs)
        taps = {f"{name}{index}": each for index, (q, k, _) in enumerate(layers) for name, each in (("q", q), ("k", k))}
        return (*self._structured(inputs[0], None, layers), features), taps


def scores_stage(models: Models, params: NerveParams, sizes: Sizes, *, native: bool) -> nn.Module:
    """The stage `scores` of a variant."""
    return FeatureScoresStage() if sizes.one_tower else ScoresStage(models, params, sizes.grid_hw, native=native)


def attention_stage(models: Models, params: NerveParams, sizes: Sizes, *, native: bool) -> NetworkStage:
    """The stage `attention` of a variant."""
    return (ClipAttentionStage if sizes.one_tower else AttentionStage)(models, params, sizes.grid_hw, native=native)


class MixStage(nn.Module):
    """Head affinities, G (c,p), T_H () to the mixed affinity, head weights (t,) and head entropies (t,).

    B (t,p,m) mixes into S (p,m), factors (2,t,p,e) into factors (2,p,t*e).
    """

    own: Tensor

    def __init__(self, params: NerveParams, grid_hw: tuple[int, int]) -> None:
        super().__init__()
        self.params, self.grid_hw = params, grid_hw
        if params.affinity != "linear":
            self.register_buffer("own", own_cells(grid_hw, params.pooled_hw))

    def forward(self, head_affinity: Tensor, seed_scores: Tensor, head_temperature: Tensor) -> tuple[Tensor, ...]:
        """Weigh each head by how sure one step of it makes the tokens."""
        linear = self.params.affinity == "linear"
        step = (
            self._linear_step(head_affinity, seed_scores) if linear else self._pooled_step(head_affinity, seed_scores)
        )
        entropies = normalised_entropy(step, seed_scores)
        weights = self._weights(entropies[None], head_temperature)[0]  # softmax over one axis alone is refused by RTX
        if linear:
            factors = torch.stack([head_affinity[0] * weights[:, None, None], head_affinity[1]])
            return factors.transpose(1, 2).flatten(2), weights, entropies
        # A product, not a weighted sum: no second copy of B, by far the largest tensor, is written.
        mixed = (weights[None] @ head_affinity.flatten(1)).view(head_affinity.shape[1:])
        return mixed, weights, entropies

    def _pooled_step(self, head_affinity: Tensor, seed_scores: Tensor) -> Tensor:
        """One step of each head from G, (t,p,c)."""
        pooled = pool(seed_scores.unflatten(1, self.grid_hw)[None], self.params.pooled_hw)[0].flatten(1)  # (c,m)
        step = head_affinity @ pooled.T
        if self.params.self_loop:
            return step
        own = self.own[None, :, None].expand(head_affinity.shape[0], -1, 1)
        to_own = head_affinity.gather(2, own)  # (t,p,1)
        return without_own(step, to_own, pooled.T[self.own][None], seed_scores)

    def _linear_step(self, factors: Tensor, seed_scores: Tensor) -> Tensor:
        """As `_pooled_step`; a token's own weight is the product of its two factors."""
        rows, columns = factors[0], factors[1]
        step = rows @ (columns.transpose(1, 2) @ seed_scores.T)
        if self.params.self_loop:
            return step
        return without_own(step, (rows * columns).sum(2, keepdim=True), seed_scores.T[None], seed_scores)

    def _weights(self, entropies: Tensor, head_temperature: Tensor) -> Tensor:
        if self.params.entropy == "mean":
            return torch.full_like(entropies, 1 / entropies.shape[1])
        if self.params.entropy == "plain":
            return torch.softmax(-entropies / head_temperature, dim=1)
        centred = entropies - entropies.mean(1, keepdim=True)
        deviation = centred.square().mean(1, keepdim=True).sqrt()
        return torch.softmax(-centred / (deviation + DEVIATION_FLOOR) / head_temperature, dim=1)


class WalkStage(nn.Module):
    """G (c,p), S (p,m) or (2,p,t*e), W (8,h,w), alpha (), beta () to P (c,p): a fixed number of steps, unrolled."""

    kernels: Tensor

    def __init__(self, params: NerveParams, grid_hw: tuple[int, int], steps: int) -> None:
        super().__init__()
        self.steps, self.grid_hw, self.pooled_hw = steps, grid_hw, params.pooled_hw
        self.linear = params.affinity == "linear"
        kernels = torch.zeros(8, 1, 3, 3)
        for index, (dy, dx) in enumerate(NEIGHBOURS):
            kernels[index, 0, 1 + dy, 1 + dx] = 1
        self.register_buffer("kernels", kernels)

    def forward(
        self, seed_scores: Tensor, affinity: Tensor, local_weights: Tensor, alpha: Tensor, beta: Tensor
    ) -> Tensor:
        """Walk from the seeds."""
        return self.walk(seed_scores, affinity, local_weights, alpha, beta, seed_scores)

    def walk(
        self,
        seed_scores: Tensor,
        affinity: Tensor,
        local_weights: Tensor,
        alpha: Tensor,
        beta: Tensor,
        start: Tensor,
    ) -> Tensor:
        """P <- (1-alpha) G + alpha (beta S pool(P) + (1-beta) W P); the factors are multiplied in once, before."""
        stay = (1 - alpha) * seed_scores
        far = alpha * beta * (affinity[0] if self.linear else affinity).T  # (m,p), or (t*e,p)
        near = alpha * (1 - beta) * local_weights  # (8,h,w)
        scores = start
        for _ in range(self.steps):
            pooled = scores @ affinity[1] if self.linear else self.pooled(scores)
            scores = stay + pooled @ far + self.around(scores, near)
        return scores

    def pooled(self, scores: Tensor) -> Tensor:
        """Scores (c,p) averaged over the cells, (c,m)."""
        return pool(scores.unflatten(1, self.grid_hw)[:, None], self.pooled_hw).flatten(1)

    def around(self, scores: Tensor, near: Tensor) -> Tensor:
        """Scores (c,p) of the 8 neighbours, weighed by `near` (8,h,w) and summed: one convolution, classes as batch."""
        maps = scores.unflatten(1, self.grid_hw)[:, None]  # (c,1,h,w)
        return (functional.conv2d(maps, self.kernels, padding=1) * near).sum(1).flatten(1)


class WalkWarmStage(WalkStage):
    """As `WalkStage`, from the previous frame's P (c,p)."""

    def forward(  # type: ignore[override]  # one input more than the cold walk, which is its point
        self,
        seed_scores: Tensor,
        affinity: Tensor,
        local_weights: Tensor,
        previous_scores: Tensor,
        alpha: Tensor,
        beta: Tensor,
    ) -> Tensor:
        """Walk from the previous scores."""
        return self.walk(seed_scores, affinity, local_weights, alpha, beta, previous_scores)
