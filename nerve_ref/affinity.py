"""Queries and keys to affinities: per head, rows that sum to 1, mixed over heads into one S (method, section 5; E2, E4).

Every kind has the same four methods: one step of each head (`apply`), the same with the self-loop removed
(`without_self_loop`), all heads mixed by weights (`mixed`), and the full matrices for tests (`dense`).
Labels are (c, p): one row per class, tokens row-major over the token grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from nerve_ref.grids import mean_pool, own_cells, resize_maps, spread_columns
from nerve_ref.params import NerveParams
from nerve_ref.providers.stable_diffusion import LayerHeads

DenseKind = Literal["softmax_dense", "relu_dense"]

KEY_FLOOR = 1e-6
"""Least mean weight of a key that key_norm divides by (a fair share is 1/256): below it lies only rounding (ours)."""
ENTRY_FLOOR = 1e-6
"""Added to every entry of the kinds without softmax, so that a row of zeros becomes uniform (method: eps)."""
FOCUS_POWER = 3
"""Power on the features of `linear`, which keeps their norm (peer: focused linear attention)."""
OWN_GUARD = 1e-4
"""Uniform distribution mixed into a row whose self-loop is removed: it decides where nothing else is left (ours)."""


@runtime_checkable
class MixedAffinity(Protocol):
    """S_global: a stochastic matrix over tokens, in whatever form its kind keeps it."""

    def apply(self, labels: Float[Tensor, "c p"]) -> Float[Tensor, "c p"]:
        """S P."""
        ...

    def dense(self) -> Float[Tensor, "p p"]:
        """S itself, for tests."""
        ...


@runtime_checkable
class Affinity(Protocol):
    """One stochastic matrix over tokens per head."""

    @property
    def grid_hw(self) -> tuple[int, int]:
        """The token grid."""
        ...

    def apply(self, labels: Float[Tensor, "c p"]) -> Float[Tensor, "n c p"]:
        """S_h P of each head."""
        ...

    def without_self_loop(self, labels: Float[Tensor, "c p"]) -> Float[Tensor, "n c p"]:
        """S_h P of each head, without the weight that each token gives itself."""
        ...

    def mixed(self, weights: Float[Tensor, " n"]) -> MixedAffinity:
        """sum_h w_h S_h, stochastic for any weights that are at least 0 and sum to 1."""
        ...

    def dense(self) -> Float[Tensor, "n p p"]:
        """All S_h, for tests."""
        ...


def token_grid_hw(heads: Sequence[LayerHeads]) -> tuple[int, int]:
    """The finest grid of the layers in use: the grid on which labels walk."""
    return max((layer.grid_hw for layer in heads), key=lambda grid_hw: grid_hw[0] * grid_hw[1])


def affinity_from_heads(heads: Sequence[LayerHeads], params: NerveParams) -> Affinity:
    """The affinity that the parameters name, over all heads of all layers, in their order."""
    grid_hw = token_grid_hw(heads)
    row_options = (params.sharpen, params.row_threshold, params.key_norm)
    if params.affinity == "softmax_pooled":
        rows = [
            pooled_affinity(
                layer.q, layer.k, layer.grid_hw, params.pooled_hw, grid_hw, params.temperature, *row_options
            )
            for layer in heads
        ]
        return PooledAffinity(torch.cat(rows), grid_hw, params.pooled_hw)
    if params.affinity == "linear":
        return LayeredAffinity(tuple(linear_factors(layer.q, layer.k, layer.grid_hw) for layer in heads), grid_hw)
    layers = [
        dense_affinity(layer.q, layer.k, layer.grid_hw, params.affinity, params.temperature, *row_options)
        for layer in heads
    ]
    return LayeredAffinity(tuple(layers), grid_hw)


def pooled_affinity(
    q: Float[Tensor, "n p d"],
    k: Float[Tensor, "n p d"],
    grid_hw: tuple[int, int],
    pooled_hw: tuple[int, int],
    token_grid_hw: tuple[int, int],
    temperature: float,
    sharpen: float,
    row_threshold: float,
    key_norm: bool,
) -> Float[Tensor, "n P m"]:
    """Rows B of one layer: attention of each token of the token grid over m pooled cells. Rows sum to 1.

    Softmax of Q Kp^T / sqrt(d) / temperature with keys mean-pooled over cells, then `sharpened_rows`, then rows
    upsampled bilinearly to the token grid. A layer coarser than the cells is not pooled; its columns are split
    evenly over the cells that they cover.

    Args:
        q: queries of a layer.
        k: keys of the layer.
        grid_hw: grid of the layer.
        pooled_hw: grid of the cells.
        token_grid_hw: grid of the result's rows.
        temperature: divides the logits.
        sharpen: power on the entries, 1 is off.
        row_threshold: share of the row's maximum below which entries are dropped, 0 is off.
        key_norm: whether each key's weights are divided by their mean over rows.

    Raises:
        ValueError: if a grid and the cells do not divide each other.
    """
    cells_hw = (min(grid_hw[0], pooled_hw[0]), min(grid_hw[1], pooled_hw[1]))
    pooled = mean_pool(k.transpose(1, 2).flatten(0, 1), grid_hw, cells_hw).unflatten(0, (k.shape[0], -1))
    weights = torch.softmax(q @ pooled * q.shape[-1] ** -0.5 / temperature, dim=-1)
    rows = spread_columns(sharpened_rows(weights, sharpen, row_threshold, key_norm), cells_hw, pooled_hw)
    columns = resize_maps(rows.transpose(1, 2).flatten(0, 1), grid_hw, token_grid_hw)
    return columns.unflatten(0, (k.shape[0], -1)).transpose(1, 2)


def sharpened_rows(
    weights: Float[Tensor, "n p m"], sharpen: float, row_threshold: float, key_norm: bool
) -> Float[Tensor, "n p m"]:
    """Key normalisation, then the power, then the threshold; rows sum to 1 after each.

    Args:
        weights: entries at least 0, each row with one above 0.
        sharpen: power on the entries, 1 is off.
        row_threshold: share of the row's maximum below which entries are dropped, 0 is off.
        key_norm: whether each key's weights are divided by their mean over rows (at least `KEY_FLOOR`).
    """
    if key_norm:
        weights = weights / weights.mean(1, keepdim=True).clamp_min(KEY_FLOOR)
    # Relative to the maximum a high power cannot underflow the whole row.
    relative = (weights / weights.amax(-1, keepdim=True)) ** sharpen
    above = relative * (relative >= row_threshold)
    return above / above.sum(-1, keepdim=True)


@dataclass(frozen=True, slots=True)
class PooledAffinity:
    """Kind `softmax_pooled`: S_h P = B_h pool(P).

    Attributes:
        B: rows over m cells, from `pooled_affinity`, heads of all layers.
        grid_hw: token grid.
        pooled_hw: grid of the cells.
    """

    B: Float[Tensor, "n p m"]
    grid_hw: tuple[int, int]
    pooled_hw: tuple[int, int]

    def apply(self, labels: Float[Tensor, "c p"]) -> Float[Tensor, "n c p"]:
        """S_h P of each head."""
        return mean_pool(labels, self.grid_hw, self.pooled_hw) @ self.B.transpose(1, 2)

    def without_self_loop(self, labels: Float[Tensor, "c p"]) -> Float[Tensor, "n c p"]:
        """S_h P without each token's own cell: (B pool(P) - b_own pool(P)_own) / (1 - b_own).

        Removing only the token's 1/s^2 share of its cell would not be enough. See `renormalised_without`.
        """
        own = own_cells(self.grid_hw, self.pooled_hw)
        pooled = mean_pool(labels, self.grid_hw, self.pooled_hw)
        own_weight = self.B.gather(2, own.expand(len(self.B), -1)[..., None])[..., 0]
        return renormalised_without(pooled @ self.B.transpose(1, 2), own_weight, pooled[:, own], labels)

    def mixed(self, weights: Float[Tensor, " n"]) -> "MixedPooled":
        """All heads mix into one (p, m) matrix."""
        return MixedPooled(torch.einsum("n,npm->pm", weights, self.B), self.grid_hw, self.pooled_hw)

    def dense(self) -> Float[Tensor, "n p p"]:
        """All S_h, for tests."""
        return spread_columns(self.B, self.pooled_hw, self.grid_hw)


@dataclass(frozen=True, slots=True)
class MixedPooled:
    """S_global of the pooled kind, as rows over cells: S_global P = S pool(P)."""

    S: Float[Tensor, "p m"]
    grid_hw: tuple[int, int]
    pooled_hw: tuple[int, int]

    def apply(self, labels: Float[Tensor, "c p"]) -> Float[Tensor, "c p"]:
        """S P."""
        return mean_pool(labels, self.grid_hw, self.pooled_hw) @ self.S.T

    def dense(self) -> Float[Tensor, "p p"]:
        """S over tokens, for tests."""
        return spread_columns(self.S[None], self.pooled_hw, self.grid_hw)[0]


def dense_affinity(
    q: Float[Tensor, "n p d"],
    k: Float[Tensor, "n p d"],
    grid_hw: tuple[int, int],
    kind: DenseKind,
    temperature: float,
    sharpen: float,
    row_threshold: float,
    key_norm: bool,
) -> "DenseLayer":
    """All-pairs affinity of one layer on its own grid; memory grows with p squared.

    `softmax_dense` is softmax(Q K^T / sqrt(d) / temperature), `relu_dense` max(0, (Q - mean)(K - mean)^T) + eps
    with means over tokens; both then go through `sharpened_rows`, which makes rows sum to 1.

    Raises:
        ValueError: if the kind is neither.
    """
    if kind == "softmax_dense":
        weights = torch.softmax(q @ k.transpose(1, 2) * q.shape[-1] ** -0.5 / temperature, dim=-1)
    elif kind == "relu_dense":
        weights = (_centred(q) @ _centred(k).transpose(1, 2)).clamp_min(0) + ENTRY_FLOOR
    else:
        raise ValueError(f"affinity is {kind!r}, expected 'softmax_dense' or 'relu_dense'")
    return DenseLayer(sharpened_rows(weights, sharpen, row_threshold, key_norm), grid_hw)


def linear_factors(q: Float[Tensor, "n p d"], k: Float[Tensor, "n p d"], grid_hw: tuple[int, int]) -> "LinearLayer":
    """Factors of one layer of kind `linear`: A = phi(Q) phi(K)^T + eps, rows divided by their sums, never p x p.

    phi(x) takes x minus its mean over tokens, keeps both signs (2d features at least 0), raises them to the power 3
    and restores the norm. eps is one more constant feature in either factor.
    """
    rows, columns = _positive_features(_centred(q)), _positive_features(_centred(k))
    sums = torch.einsum("npe,ne->np", rows, columns.sum(1))
    return LinearLayer(rows / sums[..., None], columns, grid_hw)


def _centred(x: Float[Tensor, "n p d"]) -> Float[Tensor, "n p d"]:
    return x - x.mean(1, keepdim=True)


def _positive_features(x: Float[Tensor, "n p d"]) -> Float[Tensor, "n p e"]:
    signs = torch.cat([x, -x], dim=-1).clamp_min(0)
    focused = functional.normalize(signs**FOCUS_POWER, dim=-1) * signs.norm(dim=-1, keepdim=True)
    return functional.pad(focused, (0, 1), value=ENTRY_FLOOR**0.5)


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """Stochastic matrices of one layer on its own grid."""

    S: Float[Tensor, "n q q"]
    grid_hw: tuple[int, int]

    def apply(self, labels: Float[Tensor, "c q"]) -> Float[Tensor, "n c q"]:
        """S_h P of each head."""
        return labels @ self.S.transpose(1, 2)

    def own_weights(self) -> Float[Tensor, "n q"]:
        """The diagonal: what each token gives itself."""
        return self.S.diagonal(dim1=1, dim2=2)

    def weighted(self, weights: Float[Tensor, " n"]) -> "DenseLayer":
        """One matrix: the weighted sum over heads."""
        return DenseLayer(torch.einsum("n,nqr->qr", weights, self.S)[None], self.grid_hw)

    def dense(self) -> Float[Tensor, "n q q"]:
        """All S_h."""
        return self.S


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """Factors of stochastic matrices of one layer on its own grid: S_h = rows_h columns_h^T."""

    rows: Float[Tensor, "n q e"]
    columns: Float[Tensor, "n q e"]
    grid_hw: tuple[int, int]

    def apply(self, labels: Float[Tensor, "c q"]) -> Float[Tensor, "n c q"]:
        """S_h P of each head, in time linear in the tokens."""
        return (labels @ self.columns) @ self.rows.transpose(1, 2)

    def own_weights(self) -> Float[Tensor, "n q"]:
        """The diagonal: what each token gives itself."""
        return (self.rows * self.columns).sum(-1)

    def weighted(self, weights: Float[Tensor, " n"]) -> "LinearLayer":
        """One pair of factors: features of all heads side by side, rows times their head's weight."""
        rows = (weights[:, None, None] * self.rows).transpose(0, 1).flatten(1)
        return LinearLayer(rows[None], self.columns.transpose(0, 1).flatten(1)[None], self.grid_hw)

    def dense(self) -> Float[Tensor, "n q q"]:
        """All S_h, for tests."""
        return self.rows @ self.columns.transpose(1, 2)


Layer = DenseLayer | LinearLayer


@dataclass(frozen=True, slots=True)
class LayeredAffinity:
    """Kinds `softmax_dense`, `relu_dense` and `linear`: each layer steps on its own grid, Up(S_h pool(P))."""

    layers: tuple[Layer, ...]
    grid_hw: tuple[int, int]

    def apply(self, labels: Float[Tensor, "c p"]) -> Float[Tensor, "n c p"]:
        """S_h P of each head."""
        pooled = [mean_pool(labels, self.grid_hw, layer.grid_hw) for layer in self.layers]
        return torch.cat([self._up(layer, layer.apply(maps)) for layer, maps in zip(self.layers, pooled, strict=True)])

    def without_self_loop(self, labels: Float[Tensor, "c p"]) -> Float[Tensor, "n c p"]:
        """S_h P of each head with the diagonal dropped on the layer's own grid; see `renormalised_without`."""
        steps = []
        for layer in self.layers:
            pooled = mean_pool(labels, self.grid_hw, layer.grid_hw)
            step = renormalised_without(layer.apply(pooled), layer.own_weights(), pooled, labels)
            steps.append(self._up(layer, step))
        return torch.cat(steps)

    def mixed(self, weights: Float[Tensor, " n"]) -> "MixedLayers":
        """All heads of a layer mix into one matrix, or one pair of factors, per layer."""
        counts = [len(layer.own_weights()) for layer in self.layers]
        parts = weights.split(counts)
        layers = tuple(layer.weighted(part) for layer, part in zip(self.layers, parts, strict=True))
        return MixedLayers(LayeredAffinity(layers, self.grid_hw))

    def dense(self) -> Float[Tensor, "n p p"]:
        """All S_h over tokens, for tests."""
        matrices = []
        for layer in self.layers:
            rows = layer.dense().transpose(1, 2)
            upsampled = self._up(layer, rows).transpose(1, 2)
            matrices.append(spread_columns(upsampled, layer.grid_hw, self.grid_hw))
        return torch.cat(matrices)

    def _up(self, layer: Layer, maps: Float[Tensor, "n c q"]) -> Float[Tensor, "n c p"]:
        return resize_maps(maps.flatten(0, 1), layer.grid_hw, self.grid_hw).unflatten(0, maps.shape[:2])


@dataclass(frozen=True, slots=True)
class MixedLayers:
    """S_global of the layered kinds: a sum over layers, whose weights are already inside."""

    layers: LayeredAffinity

    def apply(self, labels: Float[Tensor, "c p"]) -> Float[Tensor, "c p"]:
        """S P."""
        return self.layers.apply(labels).sum(0)

    def dense(self) -> Float[Tensor, "p p"]:
        """S over tokens, for tests."""
        return self.layers.dense().sum(0)


def renormalised_without(
    step: Float[Tensor, "n c q"],
    own_weight: Float[Tensor, "n q"],
    own_labels: Float[Tensor, "c q"],
    labels: Float[Tensor, "c p"],
) -> Float[Tensor, "n c q"]:
    """One step without the own cell's share, renormalised: (step - own) / (1 - own weight).

    The row of a token that attends to itself alone becomes uniform over the classes in use, the highest entropy, so
    that such a head gets little weight. `OWN_GUARD` of that uniform is mixed into every row, so no branch is needed.
    """
    uniform = functional.normalize((labels != 0).any(1).to(labels.dtype), p=1.0, dim=0)
    others = (step - own_weight[:, None] * own_labels).clamp_min(0)
    return (others + OWN_GUARD * uniform[:, None]) / (1 - own_weight[:, None] + OWN_GUARD)
