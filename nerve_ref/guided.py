"""Read-out that follows the picture's edges: label scores upsampled by colour as well as by distance (ours).

Joint bilateral upsampling: a pixel takes the scores of the tokens around it, those of its own colour first. The
bilinear read-out of the method knows distances only, so its borders run where tokens meet, not where colours do.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from nerve_ref.local import NEIGHBOURS

AROUND = ((0, 0), *NEIGHBOURS)
"""(down, right) offsets in tokens, from the token that holds a pixel, of those whose scores the pixel may take."""
REACH_TOKENS = 0.75
"""Standard deviation in tokens of the weight by distance: about the reach of a bilinear kernel."""


def guide_weights(
    frame: UInt8[Tensor, "H W 3"], grid_hw: tuple[int, int], colour_width: float
) -> Float[Tensor, "9 H W"]:
    """How much each pixel takes of the 9 tokens around it; sums to 1 at each pixel, 0 for tokens outside the grid.

    exp(-distance^2 / 2 REACH_TOKENS^2 - difference of colour^2 / 2 colour_width^2), normalised, as a softmax.

    Args:
        frame: RGB of the working size; its sides are multiples of the grid's.
        grid_hw: token grid.
        colour_width: standard deviation of the weight by colour, in the units of 0..1 colours, above 0; a token's
            colour is its mean.

    Raises:
        ValueError: if the frame is no whole multiple of the grid.
    """
    height, width = frame.shape[:2]
    if height % grid_hw[0] or width % grid_hw[1]:
        raise ValueError(f"a frame of {(height, width)} pixels is no multiple of a grid of {grid_hw} tokens")
    pixels = frame.permute(2, 0, 1).float() / 255
    colours = _around(functional.adaptive_avg_pool2d(pixels, grid_hw), (height, width))
    inside = _around(torch.ones(1, *grid_hw), (height, width))[:, 0] > 0
    logits = -(colours - pixels).square().sum(1) / (2 * colour_width**2) - _squared_distances(grid_hw, (height, width))
    return torch.softmax(logits.masked_fill(~inside, -torch.inf), dim=0)


def guided_maps(
    P: Float[Tensor, "c p"], grid_hw: tuple[int, int], weights: Float[Tensor, "9 H W"]
) -> Float[Tensor, "c H W"]:
    """Label scores of every pixel: the tokens around it, mixed by `guide_weights`; each pixel's sum to 1 if P's do."""
    size_hw = (weights.shape[1], weights.shape[2])
    maps = torch.zeros(len(P), *size_hw)
    for weight, shifted in zip(weights, _shifts(P.unflatten(1, grid_hw)), strict=True):
        maps += weight * functional.interpolate(shifted[None], size=size_hw, mode="nearest")[0]
    return maps


def guided_scores(
    P: Float[Tensor, "c p"],
    frame: UInt8[Tensor, "h w 3"],
    grid_hw: tuple[int, int],
    size_hw: tuple[int, int],
    colour_width: float,
) -> Float[Tensor, "c H W"]:
    """Label scores of every pixel of a result of any size: guided at the size of the frame, bilinear from there.

    Args:
        P: label scores of tokens.
        frame: the guide, RGB of the working size.
        grid_hw: token grid.
        size_hw: pixels of the result.
        colour_width: as `guide_weights` takes it.

    Raises:
        ValueError: if the frame is no whole multiple of the grid.
    """
    maps = guided_maps(P, grid_hw, guide_weights(frame, grid_hw, colour_width))
    if tuple(maps.shape[1:]) == size_hw:
        return maps
    return functional.interpolate(maps[None], size=size_hw, mode="bilinear", align_corners=False)[0]


def _shifts(maps: Float[Tensor, "c h w"]) -> Float[Tensor, "9 c h w"]:
    """The maps as seen from each offset of `AROUND`; 0 outside the grid."""
    height, width = maps.shape[1:]
    padded = functional.pad(maps, (1, 1, 1, 1))
    return torch.stack([padded[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width] for dy, dx in AROUND])


def _around(maps: Float[Tensor, "c h w"], size_hw: tuple[int, int]) -> Float[Tensor, "9 c H W"]:
    return functional.interpolate(_shifts(maps), size=size_hw, mode="nearest")


def _squared_distances(grid_hw: tuple[int, int], size_hw: tuple[int, int]) -> Float[Tensor, "9 H W"]:
    """Squared distance in tokens from each pixel to the centre of each token around it, over 2 REACH_TOKENS^2."""
    offsets = []
    for side, tokens in zip(size_hw, grid_hw, strict=True):
        positions = (torch.arange(side) + 0.5) * (tokens / side)
        offsets.append(positions - positions.floor() - 0.5)
    down, right = torch.tensor(AROUND, dtype=torch.float32).T
    rows = (offsets[0][None] - down[:, None]).square()
    columns = (offsets[1][None] - right[:, None]).square()
    return (rows[:, :, None] + columns[:, None, :]) / (2 * REACH_TOKENS**2)
