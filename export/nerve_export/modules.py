"""The stages as torch modules that export well: static shapes but for the classes, no p x p tensor, one Conv per walk step.

The networks are the reference's; the method is written a second time, in the form that graphs like. Only
`softmax_pooled` has a graph: all heads mix into one (p, m) matrix, which keeps every walk step cheap.

Letters as in the method: c classes, r text rows, k rows of a class, p tokens, m pooled keys, t heads, d width.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nerve_ref.clip_scores import CLIP_MEAN, CLIP_STD, dense_features
from nerve_ref.params import NerveParams
from nerve_ref.sd_attention import CaptureProcessor, fixed_noise
from nerve_ref.weights import Models
from nerve_runtime.errors import UsageError

DIAGONAL_WEIGHT = math.sqrt(0.5)
PROBABILITY_FLOOR = 1e-12
UNUSED_LOGIT = -1e4
OUTSIDE_LOGIT = -1e4
DEVIATION_FLOOR = 1e-3
KEY_FLOOR = 1e-6
OWN_GUARD = 1e-4
NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


class TextStage(nn.Module):
    """Token ids int64 (n,l) to unit text embeddings float32 (n,d)."""

    def __init__(self, models: Models) -> None:
        super().__init__()
        self.clip = models.clip

    def forward(self, token_ids: Tensor) -> Tensor:
        """Embed prompts."""
        pooled = self.clip.text_model(input_ids=token_ids).pooler_output
        return functional.normalize(self.clip.text_projection(pooled), dim=-1)


class ScoresStage(nn.Module):
    """Frame uint8 (1,H,W,3), text rows, classes to seed scores G float32 (c,p)."""

    scale: Tensor
    shift: Tensor

    def __init__(self, models: Models, params: NerveParams, grid_hw: tuple[int, int]) -> None:
        super().__init__()
        self.clip, self.mode, self.clip_hw, self.grid_hw = models.clip, params.clip_mode, params.clip_size_hw, grid_hw
        self.register_buffer("scale", 1 / (255 * torch.tensor(CLIP_STD).view(1, 3, 1, 1)))
        self.register_buffer(
            "shift", -torch.tensor(CLIP_MEAN).view(1, 3, 1, 1) / torch.tensor(CLIP_STD).view(1, 3, 1, 1)
        )

    def forward(
        self, frame: Tensor, text_embeddings: Tensor, class_rows: Tensor, class_mask: Tensor, tau: Tensor
    ) -> Tensor:
        """Compare patches with text: softmax over the classes in use; a class takes the best of its rows."""
        pixels = frame.to(torch.float32).permute(0, 3, 1, 2)
        if tuple(pixels.shape[2:]) != self.clip_hw:
            pixels = functional.interpolate(pixels, size=self.clip_hw, mode="bilinear", align_corners=False)
        features = dense_features(self.clip, pixels * self.scale + self.shift, self.mode)  # (hc,wc,d)
        logits = text_embeddings @ features.flatten(0, 1).T * tau  # (r, hc*wc)
        maps = logits.unflatten(1, features.shape[:2])[None]
        logits = functional.interpolate(maps, size=self.grid_hw, mode="bilinear", align_corners=False)[0].flatten(1)
        # Gather + ReduceMax: scatter-max is refused by TensorRT-RTX.
        best = logits[class_rows].amax(1)
        on = class_mask[:, None]
        # No -inf in the graph: fp16 engines turn inf - inf into NaN. Unused slots are lowered, then zeroed exactly.
        highest = torch.where(on, best, UNUSED_LOGIT).amax(0, keepdim=True)
        raised = torch.exp((best - highest).clamp_max(0)) * on
        return raised / raised.sum(0, keepdim=True)


class AttentionStage(nn.Module):
    """Frame uint8 (1,H,W,3) to head affinities B float32 (t,p,m) and local weights W float32 (8,h,w)."""

    noise: Tensor
    context: Tensor
    reach: Tensor

    def __init__(self, models: Models, params: NerveParams, grid_hw: tuple[int, int]) -> None:
        super().__init__()
        self.vae, self.unet, self.params, self.grid_hw = models.vae, models.unet, params, grid_hw
        self.captures = _install_captures(self.unet, params.layers)
        height, width = params.size_hw
        probe = self._latent(torch.zeros(1, height, width, 3, dtype=torch.uint8))
        abar = models.alphas_cumprod[params.timestep]
        noise = fixed_noise(probe.shape, params.noise_seed) if params.noise == "fixed" else torch.zeros_like(probe)
        self.latent_hw = (probe.shape[2], probe.shape[3])
        self.signal = float(abar.sqrt())
        self.register_buffer("noise", (1 - abar).sqrt() * noise)
        self.register_buffer("context", models.context)
        self.register_buffer("reach", _log_reach(grid_hw))

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Take Q and K at one timestep; all of the UNet behind the last used layer is dead code for the exporter."""
        latent = self._latent(frame)
        self.unet(latent * self.signal + self.noise, self.params.timestep, encoder_hidden_states=self.context)
        heads = [(q, k, self._layer_hw(q.shape[1])) for q, k in map(_captured, self.captures)]
        affinities = [self._pooled_affinity(q, k, layer_hw) for q, k, layer_hw in heads]
        features = self._local_features(frame, latent, [(k, layer_hw) for _, k, layer_hw in heads])
        return torch.cat(affinities), self._local_weights(features)

    def _latent(self, frame: Tensor) -> Tensor:
        pixels = frame.to(torch.float32).permute(0, 3, 1, 2) / 127.5 - 1
        encoded = self.vae.encode(pixels)
        raw = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mean
        return raw * self.vae.config.scaling_factor

    def _layer_hw(self, tokens: int) -> tuple[int, int]:
        layer_hw = self.latent_hw
        while layer_hw[0] * layer_hw[1] > tokens:
            layer_hw = (layer_hw[0] + 1) // 2, (layer_hw[1] + 1) // 2
        return layer_hw

    def _pooled_affinity(self, q: Tensor, k: Tensor, layer_hw: tuple[int, int]) -> Tensor:
        """One layer's rows (n,p,m): softmax, key normalisation, sharpening, then up to the token grid."""
        params = self.params
        cells_hw = (min(layer_hw[0], params.pooled_hw[0]), min(layer_hw[1], params.pooled_hw[1]))
        pooled = _pool(k.transpose(1, 2).unflatten(2, layer_hw), cells_hw).flatten(2)  # (n,d,cells)
        rows = torch.softmax(q @ pooled / (math.sqrt(q.shape[2]) * params.temperature), dim=-1)
        if params.key_norm:
            rows = rows / rows.mean(1, keepdim=True).clamp_min(KEY_FLOOR)
        rows = rows / rows.amax(2, keepdim=True)  # relative to the maximum no power underflows a whole row
        rows = _power(rows, params.sharpen)
        if params.row_threshold > 0:
            rows = rows * (rows >= params.row_threshold)
        rows = rows / rows.sum(2, keepdim=True)
        if cells_hw != params.pooled_hw:
            rows = _spread_columns(rows, cells_hw, params.pooled_hw)
        if layer_hw == self.grid_hw:
            return rows
        columns = rows.transpose(1, 2).unflatten(2, layer_hw)  # (n,m,h,w)
        columns = functional.interpolate(columns, size=self.grid_hw, mode="bilinear", align_corners=False)
        return columns.flatten(2).transpose(1, 2)

    def _local_features(self, frame: Tensor, latent: Tensor, keys: Sequence[tuple[Tensor, tuple[int, int]]]) -> Tensor:
        """Unit feature vectors (f,h,w) that the 8 neighbours compare."""
        if self.params.local_features == "latent":
            maps = _pool(latent, self.grid_hw)
        elif self.params.local_features == "rgb":
            maps = _pool(frame.to(torch.float32).permute(0, 3, 1, 2) / 255, self.grid_hw) - 0.5
        else:
            layers = [k.transpose(1, 2).flatten(0, 1).unflatten(1, layer_hw)[None] for k, layer_hw in keys]
            maps = torch.cat([self._to_grid(layer) for layer in layers], dim=1)
        return functional.normalize(maps[0], dim=0)

    def _to_grid(self, maps: Tensor) -> Tensor:
        if tuple(maps.shape[2:]) == self.grid_hw:
            return maps
        return functional.interpolate(maps, size=self.grid_hw, mode="bilinear", align_corners=False)

    def _local_weights(self, features: Tensor) -> Tensor:
        """exp(-(1 - cos) / sigma) to each of the 8 neighbours, diagonals less, borders renormalised: (8,h,w)."""
        height, width = self.grid_hw
        padded = functional.pad(features[None], (1, 1, 1, 1))[0]
        windows = [padded[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width] for dy, dx in NEIGHBOURS]
        cosines = torch.stack([(features * window).sum(0) for window in windows])
        return torch.softmax((cosines - 1) / self.params.sigma + self.reach, dim=0)


class MixStage(nn.Module):
    """B (t,p,m), G (c,p), T_H () to the mixed affinity S (p,m), head weights (t,) and head entropies (t,)."""

    own: Tensor

    def __init__(self, params: NerveParams, grid_hw: tuple[int, int]) -> None:
        super().__init__()
        self.params, self.grid_hw = params, grid_hw
        self.register_buffer("own", _own_cells(grid_hw, params.pooled_hw))

    def forward(self, head_affinity: Tensor, seed_scores: Tensor, head_temperature: Tensor) -> tuple[Tensor, ...]:
        """Weigh each head by how sure one step of it makes the tokens."""
        entropies = self._entropies(head_affinity, seed_scores)
        weights = self._weights(entropies[None], head_temperature)[0]  # softmax over one axis alone is refused by RTX
        # A product, not a weighted sum: no second copy of B, by far the largest tensor, is written.
        mixed = (weights[None] @ head_affinity.flatten(1)).view(head_affinity.shape[1:])
        return mixed, weights, entropies

    def _entropies(self, head_affinity: Tensor, seed_scores: Tensor) -> Tensor:
        pooled = _pool(seed_scores.unflatten(1, self.grid_hw)[None], self.params.pooled_hw)[0].flatten(1)  # (c,m)
        step = head_affinity @ pooled.T  # (t,p,c)
        if not self.params.self_loop:
            own = self.own[None, :, None].expand(head_affinity.shape[0], -1, 1)
            to_own = head_affinity.gather(2, own)  # (t,p,1)
            own_scores = pooled.T[self.own][None]  # (1,p,c)
            uniform = (seed_scores.amax(1) > 0).to(torch.float32)
            uniform = uniform / uniform.sum()
            others = (step - to_own * own_scores).clamp_min(0)
            step = (others + OWN_GUARD * uniform) / (1 - to_own + OWN_GUARD)
        return _normalised_entropy(step, seed_scores)

    def _weights(self, entropies: Tensor, head_temperature: Tensor) -> Tensor:
        if self.params.entropy == "mean":
            return torch.full_like(entropies, 1 / entropies.shape[1])
        if self.params.entropy == "plain":
            return torch.softmax(-entropies / head_temperature, dim=1)
        centred = entropies - entropies.mean(1, keepdim=True)
        deviation = centred.square().mean(1, keepdim=True).sqrt()
        return torch.softmax(-centred / (deviation + DEVIATION_FLOOR) / head_temperature, dim=1)


class WalkStage(nn.Module):
    """G (c,p), S (p,m), W (8,h,w), alpha (), beta () to P (c,p): a fixed number of steps, unrolled."""

    kernels: Tensor

    def __init__(self, params: NerveParams, grid_hw: tuple[int, int], steps: int) -> None:
        super().__init__()
        self.steps, self.grid_hw, self.pooled_hw = steps, grid_hw, params.pooled_hw
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
        far = alpha * beta * affinity.T  # (m,p)
        near = alpha * (1 - beta) * local_weights  # (8,h,w)
        scores = start
        for _ in range(self.steps):
            maps = scores.unflatten(1, self.grid_hw)[:, None]  # classes as batch: (c,1,h,w)
            pooled = _pool(maps, self.pooled_hw).flatten(1)
            around = (functional.conv2d(maps, self.kernels, padding=1) * near).sum(1).flatten(1)
            scores = stay + pooled @ far + around
        return scores


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


class ReadoutStage(nn.Module):
    """P (c,p), size int64 (2,), threshold () to labels and confidence, both uint8 (H,W)."""

    def __init__(self, grid_hw: tuple[int, int]) -> None:
        super().__init__()
        self.grid_hw = grid_hw

    def forward(self, label_scores: Tensor, size_hw: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
        """Bilinear probabilities, the best class, background where the best is below the threshold."""
        height, width = size_hw.tolist()
        torch._check(height > 1)
        torch._check(width > 1)
        return self.read(label_scores, (height, width), threshold)

    def read(self, label_scores: Tensor, size_hw: tuple[int, int], threshold: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, for a size known to the exporter or a symbol."""
        maps = label_scores.unflatten(1, self.grid_hw)[None]
        scores = functional.interpolate(maps, size=size_hw, mode="bilinear", align_corners=False)[0]
        best, labels = scores.max(0)
        labels = labels * (best >= threshold)
        return labels.to(torch.uint8), (best.clamp(0, 1) * 255).round().to(torch.uint8)


class FrameStage(nn.Module):
    """All of a cold frame in one graph: labels and confidence uint8 (H,W) at working size."""

    def __init__(self, models: Models, params: NerveParams, grid_hw: tuple[int, int]) -> None:
        super().__init__()
        self.size_hw = params.size_hw
        self.scores = ScoresStage(models, params, grid_hw)
        self.attention = AttentionStage(models, params, grid_hw)
        self.mix = MixStage(params, grid_hw)
        self.walk = WalkStage(params, grid_hw, params.steps)
        self.readout = ReadoutStage(grid_hw)

    def forward(
        self,
        frame: Tensor,
        text_embeddings: Tensor,
        class_rows: Tensor,
        class_mask: Tensor,
        tau: Tensor,
        alpha: Tensor,
        beta: Tensor,
        head_temperature: Tensor,
        threshold: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Segment one frame."""
        seeds = self.scores(frame, text_embeddings, class_rows, class_mask, tau)
        head_affinity, local_weights = self.attention(frame)
        affinity, _, _ = self.mix(head_affinity, seeds, head_temperature)
        scores = self.walk(seeds, affinity, local_weights, alpha, beta)
        return self.readout.read(scores, self.size_hw, threshold)


def _install_captures(unet: Any, layers: Sequence[str]) -> list[CaptureProcessor]:
    """Put capture processors on the named layers, for good, in the order of the names.

    A layer that has one keeps it, so that several stages can share a UNet.
    """
    names = [
        name
        for layer in layers
        for name in unet.attn_processors
        if name.startswith(f"{layer}.transformer_blocks.") and ".attn1." in name
    ]
    installed = unet.attn_processors
    captures = {
        name: found if isinstance(found := installed[name], CaptureProcessor) else CaptureProcessor() for name in names
    }
    unet.set_attn_processor({**installed, **captures})
    return list(captures.values())


def _captured(capture: CaptureProcessor) -> tuple[Tensor, Tensor]:
    if capture.q is None or capture.k is None:
        raise UsageError("the UNet never ran a layer that was named; name layers that its forward pass uses")
    return capture.q, capture.k


def _pool(maps: Tensor, cells_hw: tuple[int, int]) -> Tensor:
    """Mean over equal cells of (..., h, w) maps."""
    kernel = (maps.shape[-2] // cells_hw[0], maps.shape[-1] // cells_hw[1])
    return maps if kernel == (1, 1) else functional.avg_pool2d(maps, kernel)


def _log_reach(grid_hw: tuple[int, int]) -> Tensor:
    """Added to the logits of the 8 neighbours (8,h,w): diagonals count less, places outside the grid not at all."""
    inside = functional.pad(torch.ones(grid_hw), (1, 1, 1, 1))
    reach = torch.full((8, *grid_hw), OUTSIDE_LOGIT)
    for index, (dy, dx) in enumerate(NEIGHBOURS):
        window = inside[1 + dy : 1 + dy + grid_hw[0], 1 + dx : 1 + dx + grid_hw[1]]
        reach[index][window > 0] = math.log(DIAGONAL_WEIGHT) if dy and dx else 0.0
    return reach


def _spread_columns(rows: Tensor, cells_hw: tuple[int, int], to_hw: tuple[int, int]) -> Tensor:
    """Rows over coarse cells (n,p,cells) as rows over finer cells, each weight split evenly."""
    factor = (to_hw[0] // cells_hw[0], to_hw[1] // cells_hw[1])
    maps = rows.unflatten(2, cells_hw).repeat_interleave(factor[0], 2).repeat_interleave(factor[1], 3)
    return maps.flatten(2) / (factor[0] * factor[1])


def _power(entries: Tensor, exponent: float) -> Tensor:
    """Entries to a power; by products where it is whole, since Pow on (t,p,m) took as long as all convolutions."""
    if exponent != int(exponent):
        return entries.pow(exponent)
    result, square, left = None, entries, int(exponent)
    while left:
        if left % 2:
            result = square if result is None else result * square
        square, left = square * square, left // 2
    return entries if result is None else result


def _own_cells(grid_hw: tuple[int, int], cells_hw: tuple[int, int]) -> Tensor:
    """Index (p,) of the pooled cell that holds each token."""
    y = torch.arange(grid_hw[0]) * cells_hw[0] // grid_hw[0]
    x = torch.arange(grid_hw[1]) * cells_hw[1] // grid_hw[1]
    return (y[:, None] * cells_hw[1] + x[None]).flatten()


def _normalised_entropy(distributions: Tensor, seed_scores: Tensor) -> Tensor:
    """Mean over tokens of the entropy of (t,p,c), divided by the log of the number of classes in use."""
    active = (seed_scores.amax(1) > 0).sum().clamp_min(2).to(torch.float32)
    plogp = distributions * torch.log(distributions.clamp_min(PROBABILITY_FLOOR))
    return -plogp.sum(2).mean(1) / torch.log(active)
