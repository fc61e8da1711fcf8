"""The stages for several frames in a run, each with a vocabulary and constants of its own.

The same arithmetic as in `modules` and `modules_readout`, with an axis b in front of every input and output. It is written
out because a graph that `torch.func.vmap` makes has the b of the example. `mix`, `walk` and the read-out are parts of the
merged stage alone.

Letters as in `modules`; b frames of a run, s pixels of the working frame in a token.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nerve_export.graphs.arithmetic import (
    NEIGHBOURS,
    OWN_GUARD,
    PROBABILITY_FLOOR,
    pool,
)
from nerve_export.graphs.modules import (
    UNUSED_LOGIT,
    AttentionStage,
    ClipAttentionStage,
    MixStage,
    NetworkStage,
    ScoresStage,
    WalkStage,
)
from nerve_export.graphs.modules_readout import AROUND, GuidedMaps, labels_of
from nerve_export.graphs.networks import LayerMaps
from nerve_export.graphs.sizes import Sizes
from nerve_ref.params import NerveParams
from nerve_ref.weights.networks import Models
from nerve_runtime.bundle.spec import StageName
from nerve_runtime.labels import LabelDtype


class BatchedScoresStage(ScoresStage):
    """Frames uint8 (b,H,W,3), text rows (b,r,d), classes (b,c,k), (b,c), tau (b,) to seed scores G float32 (b,c,p)."""

    batched = True

    def compared(
        self, features: Tensor, text_embeddings: Tensor, class_rows: Tensor, class_mask: Tensor, tau: Tensor
    ) -> Tensor:
        """G (b,c,p) of patch features (b,hc*wc,d)."""
        logits = text_embeddings @ features.transpose(1, 2) * tau[:, None, None]  # (b,r,hc*wc)
        maps = logits.unflatten(2, self.network.grid_hw)
        logits = functional.interpolate(maps, size=self.grid_hw, mode="bilinear", align_corners=False).flatten(2)
        return class_scores(logits, class_rows, class_mask)


class BatchedFeatureScoresStage(nn.Module):
    """Patch features (b,p,d) of stage `attention`, text rows, classes to G (b,c,p): where one tower says both."""

    def forward(
        self, patch_features: Tensor, text_embeddings: Tensor, class_rows: Tensor, class_mask: Tensor, tau: Tensor
    ) -> Tensor:
        """Compare patches with text; a patch is a token."""
        logits = text_embeddings @ patch_features.transpose(1, 2) * tau[:, None, None]
        return class_scores(logits, class_rows, class_mask)


def class_scores(logits: Tensor, class_rows: Tensor, class_mask: Tensor) -> Tensor:
    """Logits of text rows (b,r,p) to a distribution over the classes in use (b,c,p), as `modules.class_scores`."""
    items = torch.arange(logits.shape[0], device=logits.device)[:, None, None]
    best = logits[items, class_rows].amax(2)
    on = class_mask[:, :, None]
    highest = torch.where(on, best, UNUSED_LOGIT).amax(1, keepdim=True)
    raised = torch.exp((best - highest).clamp_max(0)) * on
    return raised / raised.sum(1, keepdim=True)


class BatchedAttentionStage(AttentionStage):
    """Frames uint8 (b,H,W,3) to head affinities float32, B (b,t,p,m) or factors (b,2,t,p,e), and W float32 (b,8,h,w)."""

    batched = True

    def _structured(self, frame: Tensor, latent: Tensor | None, layers: Sequence[LayerMaps]) -> tuple[Tensor, Tensor]:
        return _structured(self, frame, latent, layers)


class BatchedClipAttentionStage(ClipAttentionStage):
    """As `BatchedAttentionStage`, by CLIP's own tower, whose unit patch features (b,p,d) stage `scores` takes."""

    batched = True

    def _structured(self, frame: Tensor, latent: Tensor | None, layers: Sequence[LayerMaps]) -> tuple[Tensor, Tensor]:
        return _structured(self, frame, latent, layers)


def _structured(
    stage: AttentionStage, frame: Tensor, latent: Tensor | None, layers: Sequence[LayerMaps]
) -> tuple[Tensor, Tensor]:
    """Head affinities and W; the heads of all frames go through the arithmetic of one frame side by side."""
    linear, affinities = stage.params.affinity == "linear", []
    for q, k, layer_hw in layers:
        heads, q, k = q.shape[1], q.flatten(0, 1), k.flatten(0, 1)
        if linear:
            affinities.append(stage.linear_factors(q, k, layer_hw).unflatten(1, (-1, heads)).transpose(0, 1))
        else:
            affinities.append(stage.pooled_affinity(q, k, layer_hw).unflatten(0, (-1, heads)))
    features = _local_features(stage, frame, latent, [(k, layer_hw) for _, k, layer_hw in layers])
    return torch.cat(affinities, dim=2 if linear else 1), neighbour_weights(features, stage.reach, stage.params.sigma)


def _local_features(
    stage: AttentionStage, frame: Tensor, latent: Tensor | None, keys: Sequence[tuple[Tensor, tuple[int, int]]]
) -> Tensor:
    """Unit feature vectors (b,f,h,w) that the 8 neighbours compare."""
    if stage.params.local_features == "rgb":
        maps = pool(frame.to(torch.float32).permute(0, 3, 1, 2) / 255, stage.grid_hw) - 0.5
    elif stage.params.local_features == "keys":
        layers = [k.transpose(2, 3).flatten(1, 2).unflatten(2, layer_hw) for k, layer_hw in keys]
        maps = torch.cat([stage.to_grid(layer) for layer in layers], dim=1)
    else:
        maps = pool(stage.needed_latent(latent), stage.grid_hw)
    return functional.normalize(maps, dim=1)


def neighbour_weights(features: Tensor, reach: Tensor, sigma: float) -> Tensor:
    """Of unit vectors (b,f,h,w) the weights (b,8,h,w) of each token's neighbours, as `arithmetic.neighbour_weights`."""
    height, width = features.shape[2:]
    padded = functional.pad(features, (1, 1, 1, 1))
    windows = [padded[:, :, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width] for dy, dx in NEIGHBOURS]
    cosines = torch.stack([(features * window).sum(1) for window in windows], dim=1)
    return torch.softmax((cosines - 1) / sigma + reach, dim=1)


class BatchedMixStage(MixStage):
    """Head affinities, G (b,c,p), T_H (b,) to the mixed affinities, head weights (b,t) and head entropies (b,t).

    B (b,t,p,m) mixes into S (b,p,m), factors (b,2,t,p,e) into factors (b,2,p,t*e).
    """

    def forward(self, head_affinity: Tensor, seed_scores: Tensor, head_temperature: Tensor) -> tuple[Tensor, ...]:
        """Weigh each head of each frame by how sure one step of it makes the tokens."""
        linear = self.params.affinity == "linear"
        used = (seed_scores.amax(2) > 0).to(torch.float32)  # (b,c)
        step = (self._linear_step if linear else self._pooled_step)(head_affinity, seed_scores)  # (b,t,p,c)
        plogp = step * torch.log(step.clamp_min(PROBABILITY_FLOOR))
        entropies = -plogp.sum(3).mean(2) / torch.log(used.sum(1, keepdim=True).clamp_min(2))
        weights = self._weights(entropies, head_temperature[:, None])
        if linear:
            rows, columns = head_affinity[:, 0] * weights[:, :, None, None], head_affinity[:, 1]
            return torch.stack([rows, columns], dim=1).transpose(2, 3).flatten(3), weights, entropies
        mixed = weights[:, None] @ head_affinity.flatten(2)
        return mixed.view(-1, *head_affinity.shape[2:]), weights, entropies

    def _pooled_step(self, head_affinity: Tensor, seed_scores: Tensor) -> Tensor:
        """One step of each head from G, (b,t,p,c)."""
        pooled = pool(seed_scores.unflatten(2, self.grid_hw), self.params.pooled_hw).flatten(2)  # (b,c,m)
        step = head_affinity @ pooled.transpose(1, 2)[:, None]
        if self.params.self_loop:
            return step
        own = self.own[None, None, :, None].expand(*head_affinity.shape[:2], -1, 1)
        own_scores = pooled.transpose(1, 2)[:, self.own][:, None]  # (b,1,p,c)
        return _without_own(step, head_affinity.gather(3, own), own_scores, seed_scores)

    def _linear_step(self, factors: Tensor, seed_scores: Tensor) -> Tensor:
        rows, columns = factors[:, 0], factors[:, 1]
        scores = seed_scores.transpose(1, 2)[:, None]  # (b,1,p,c)
        step = rows @ (columns.transpose(2, 3) @ scores)
        if self.params.self_loop:
            return step
        return _without_own(step, (rows * columns).sum(3, keepdim=True), scores, seed_scores)


def _without_own(step: Tensor, own_weight: Tensor, own_scores: Tensor, seed_scores: Tensor) -> Tensor:
    """As `arithmetic.without_own`, of a step (b,t,p,c)."""
    uniform = (seed_scores.amax(2) > 0).to(torch.float32)
    uniform = (uniform / uniform.sum(1, keepdim=True))[:, None, None]
    others = (step - own_weight * own_scores).clamp_min(0)
    return (others + OWN_GUARD * uniform) / (1 - own_weight + OWN_GUARD)


class BatchedWalkStage(WalkStage):
    """G (b,c,p), S (b,p,m) or (b,2,p,t*e), W (b,8,h,w), alpha (b,), beta (b,) to P (b,c,p), as `WalkStage`."""

    def forward(
        self, seed_scores: Tensor, affinity: Tensor, local_weights: Tensor, alpha: Tensor, beta: Tensor
    ) -> Tensor:
        """Walk from the seeds."""
        alpha, beta = alpha[:, None, None], beta[:, None, None]
        stay = (1 - alpha) * seed_scores
        far = alpha * beta * (affinity[:, 0] if self.linear else affinity).transpose(1, 2)  # (b,m,p), or (b,t*e,p)
        near = (alpha * (1 - beta))[..., None] * local_weights  # (b,8,h,w)
        scores = seed_scores
        for _ in range(self.steps):
            pooled = scores @ affinity[:, 1] if self.linear else self.pooled(scores)
            scores = stay + pooled @ far + self.around(scores, near)
        return scores

    def pooled(self, scores: Tensor) -> Tensor:
        """Scores (b,c,p) averaged over the cells, (b,c,m)."""
        return pool(scores.unflatten(2, self.grid_hw), self.pooled_hw).flatten(2)

    def around(self, scores: Tensor, near: Tensor) -> Tensor:
        """Scores (b,c,p) of the 8 neighbours, weighed by `near` (b,8,h,w) and summed: one convolution, b c as its batch."""
        maps = functional.conv2d(scores.reshape(-1, 1, *self.grid_hw), self.kernels, padding=1)  # (b*c,8,h,w)
        return (maps.reshape(*scores.shape[:2], 8, *self.grid_hw) * near[:, None]).sum(2).flatten(2)


class BatchedReadoutStage(nn.Module):
    """P (b,c,p), threshold (b,) to labels uint8 or uint16 and confidence uint8, both (b,H,W), by distance."""

    def __init__(self, grid_hw: tuple[int, int], size_hw: tuple[int, int], label_dtype: LabelDtype) -> None:
        super().__init__()
        self.grid_hw, self.size_hw, self.label_dtype = grid_hw, size_hw, label_dtype

    def forward(self, label_scores: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
        """Read out at the size."""
        maps = label_scores.unflatten(2, self.grid_hw)
        maps = functional.interpolate(maps, size=self.size_hw, mode="bilinear", align_corners=False)
        return labels_of(maps, threshold[:, None, None], self.label_dtype)


class BatchedGuidedMaps(GuidedMaps):
    """P (b,c,p) and frames uint8 (b,h,w,3) to scores of the frames' pixels (b,c,h,w), as `GuidedMaps`."""

    def forward(self, label_scores: Tensor, frame: Tensor) -> Tensor:
        """Mix the scores of the tokens around each pixel."""
        logits = self._logits(frame)
        weights = torch.exp(logits - logits.amax(2, keepdim=True))  # (b,p,9,s)
        around = self._around_each(label_scores.unflatten(2, self.grid_hw))  # (b,p,c,9)
        scores = around @ weights / weights.sum(2, keepdim=True)  # (b,p,c,s)
        (height, width), (down, right) = self.grid_hw, self.token_px
        items, classes = label_scores.shape[:2]
        maps = scores.reshape(items, height, width, classes, down, right).permute(0, 3, 1, 4, 2, 5)
        return maps.reshape(items, classes, height * down, width * right)

    def _logits(self, frame: Tensor) -> Tensor:
        """Log weight of each of the 9 tokens around every pixel (b,p,9,s)."""
        (height, width), (down, right) = self.grid_hw, self.token_px
        pixels = frame.to(torch.float32).view(-1, height, down, width, right, 3) * (1 / (255 * self.colour_width))
        x = pixels.permute(5, 0, 1, 3, 2, 4).reshape(3, -1, height * width, down * right)  # (3,b,p,s)
        own = x.mean(3)
        c = self._around_each(own.unflatten(2, self.grid_hw)).transpose(1, 2) - own[..., None]  # (3,b,p,9)
        of_tokens = self.inside - 0.5 * (c * c).sum(0)
        x, c = (x - own[..., None])[:, :, :, None], c[..., None]
        products = x[0] * c[0] + x[1] * c[1] + x[2] * c[2]
        return products + of_tokens[..., None] + self.nearness

    def _around_each(self, maps: Tensor) -> Tensor:
        """Maps (b,c,h,w) at each token and its neighbours (b,p,c,9); 0 outside the grid."""
        height, width = self.grid_hw
        padded = functional.pad(maps, (1, 1, 1, 1))
        windows = [padded[:, :, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width] for dy, dx in AROUND]
        return torch.stack(windows, dim=4).permute(0, 2, 3, 1, 4).flatten(1, 2)


class BatchedGuidedReadoutStage(nn.Module):
    """P (b,c,p), frames uint8 (b,h,w,3), threshold (b,) to labels and confidence (b,h,w), by colour too."""

    def __init__(self, params: NerveParams, sizes: Sizes) -> None:
        super().__init__()
        self.maps = BatchedGuidedMaps(sizes.grid_hw, sizes.working_hw, params.guide_width)
        self.label_dtype = sizes.label_dtype

    def forward(self, label_scores: Tensor, frame: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
        """Read out at the size of the frames."""
        return labels_of(self.maps(label_scores, frame), threshold[:, None, None], self.label_dtype)


def scores_stage(models: Models, params: NerveParams, sizes: Sizes, *, native: bool) -> nn.Module:
    """The stage `scores` of a variant, for several frames."""
    return (
        BatchedFeatureScoresStage()
        if sizes.one_tower
        else BatchedScoresStage(models, params, sizes.grid_hw, native=native)
    )


def attention_stage(models: Models, params: NerveParams, sizes: Sizes, *, native: bool) -> NetworkStage:
    """The stage `attention` of a variant, for several frames."""
    kind = BatchedClipAttentionStage if sizes.one_tower else BatchedAttentionStage
    return kind(models, params, sizes.grid_hw, native=native)


def merged_part(stage: StageName, params: NerveParams, sizes: Sizes) -> nn.Module:
    """What the merged stage has of the method itself, for several frames: "mix", "walk", or its end, "frame"."""
    if stage == "mix":
        return BatchedMixStage(params, sizes.grid_hw)
    if stage == "walk":
        return BatchedWalkStage(params, sizes.grid_hw, params.steps)
    if params.readout == "guided":
        return BatchedGuidedReadoutStage(params, sizes)
    return BatchedReadoutStage(sizes.grid_hw, sizes.working_hw, sizes.label_dtype)
