"""S_local: affinity of each token with its 8 neighbours (method, section 7; E5)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from nerve_ref.grids import resize_maps
from nerve_ref.params import LocalFeatures
from nerve_ref.providers.stable_diffusion import LayerHeads

NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
"""(down, right) offsets in the order of the first axis of W: row-major over 3 x 3 without the centre."""
DIAGONAL_FACTOR = 0.5**0.5
"""Weight of a diagonal neighbour against a straight one, one over its distance (ours)."""


def local_features(
    kind: LocalFeatures,
    heads: Sequence[LayerHeads],
    latent: Float[Tensor, "1 z a b"] | None,
    frame: UInt8[Tensor, "H W 3"],
    grid_hw: tuple[int, int],
) -> Float[Tensor, "f h w"]:
    """What neighbours are compared by: unit vectors on the token grid.

    `keys`: keys of all heads side by side, coarser layers upsampled bilinearly. `latent`: the clean latent, averaged
    over each token. `rgb`: the frame in -0.5..0.5, averaged over each token; centred, because cosines of raw colours
    are all near 1.

    Raises:
        ValueError: if the kind is unknown, or is `latent` and there is none.
    """
    if kind == "keys":
        keys = [resize_maps(layer.k.transpose(1, 2).flatten(0, 1), layer.grid_hw, grid_hw) for layer in heads]
        features = torch.cat(keys).unflatten(1, grid_hw)
    elif kind == "latent":
        if latent is None:
            raise ValueError(
                "local_features is 'latent', but this provider of affinities (DINOv2) has none; choose keys or rgb"
            )
        features = functional.adaptive_avg_pool2d(latent, grid_hw)[0]
    elif kind == "rgb":
        features = functional.adaptive_avg_pool2d(frame.permute(2, 0, 1).float() / 255 - 0.5, grid_hw)
    else:
        raise ValueError(f"local_features is {kind!r}, expected keys, latent or rgb")
    return functional.normalize(features, dim=0)


def local_weights(features: Float[Tensor, "f h w"], sigma: float) -> Float[Tensor, "8 h w"]:
    """W: weights of the 8 neighbours, exp(-(1 - cos) / sigma), diagonals times 0.707, summing to 1 at each token.

    Neighbours outside the grid weigh exactly 0; there is no self-loop. Computed as a softmax, which is the same and
    cannot underflow to 0 / 0 for a small sigma.

    Args:
        features: vectors of any length.
        sigma: width of the kernel, above 0.

    Raises:
        ValueError: for a grid of one token, which has no neighbour.
    """
    grid_hw = (features.shape[1], features.shape[2])
    if grid_hw == (1, 1):
        raise ValueError("a token grid of (1, 1) has no neighbours; use a larger frame or a finer layer")
    unit = functional.normalize(features, dim=0)
    cosines = (unit[None] * neighbour_values(unit)).sum(1)
    factors = torch.tensor([DIAGONAL_FACTOR if dy and dx else 1.0 for dy, dx in NEIGHBOURS])
    logits = (cosines - 1) / sigma + factors.log()[:, None, None]
    inside = neighbour_values(torch.ones(1, *grid_hw))[:, 0] > 0
    return torch.softmax(logits.masked_fill(~inside, -torch.inf), dim=0)


def neighbour_values(maps: Float[Tensor, "c h w"]) -> Float[Tensor, "8 c h w"]:
    """The maps as each of the 8 neighbours sees them; 0 outside the grid."""
    height, width = maps.shape[1:]
    padded = functional.pad(maps, (1, 1, 1, 1))
    return torch.stack([padded[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width] for dy, dx in NEIGHBOURS])


def local_apply(W: Float[Tensor, "8 h w"], labels: Float[Tensor, "c p"]) -> Float[Tensor, "c p"]:
    """S_local P."""
    maps = labels.unflatten(1, tuple(W.shape[1:]))
    return (W[:, None] * neighbour_values(maps)).sum(0).flatten(1)


def local_dense(W: Float[Tensor, "8 h w"]) -> Float[Tensor, "p p"]:
    """S_local itself, for tests and the closed form."""
    return local_apply(W, torch.eye(W[0].numel(), dtype=W.dtype)).T
