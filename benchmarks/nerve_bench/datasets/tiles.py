"""Wide pictures in overlapping tiles that share one affinity: the networks see tiles, the method sees the picture.

What is joint: keys. Each tile's keys lie on the picture's own token grid (averaged where tiles overlap) and are
mean-pooled over cells of the whole picture, so that a token of one tile looks at cells of all others. Queries stay with
their tile; where tiles overlap, rows are averaged, so a token there is an even mix of what its tiles say, and so is its
P after each step. Key normalisation, entropies, head weights, the local affinity and the walk are those of the whole
picture. For one tile all of this is the plain method, number by number.

What it costs: the networks once per tile. Rows are tokens x cells: with cells as large as in the plain method both grow
with the picture, so above `KEYS_LIMIT` cells are merged 2 x 2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nerve_ref.affinity import PooledAffinity, sharpened_rows
from nerve_ref.grids import mean_pool, resize_maps, spread_columns
from nerve_ref.local import local_features, local_weights
from nerve_ref.params import SIZE_MULTIPLE_PX, NerveParams
from nerve_ref.pipeline import Observation, mix_heads, observe, seeds, working_frame
from nerve_ref.providers.stable_diffusion import LayerHeads
from nerve_ref.text import TextBank
from nerve_ref.walk import mixed_step, walk
from nerve_ref.weights.networks import Models
from nerve_runtime.errors import UsageError

KEYS_LIMIT = 1024
"""Most pooled keys of a picture (ours): four times those of a 512 px frame; ten heads over the 22,500 tokens of a street
scene at 832 x 1728 px then take at most 0.9 GB."""

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Tiling:
    """Where the tiles lie.

    Attributes:
        canvas_hw: pixels of the resized picture, multiples of 64.
        tile_hw: pixels of a tile, the working size.
        corners: top left pixel of each tile, (row, column), multiples of 64.
    """

    canvas_hw: Size
    tile_hw: Size
    corners: tuple[Size, ...]

    def grid_hw(self, tile_grid_hw: Size) -> Size:
        """The canvas in tokens of a layer that has `tile_grid_hw` tokens in a tile.

        Raises:
            UsageError: a token of the layer does not divide 64 pixels.
        """
        for side, tokens in zip(self.tile_hw, tile_grid_hw, strict=True):
            if SIZE_MULTIPLE_PX * tokens % side:
                raise UsageError(
                    f"a layer of {tile_grid_hw} tokens at {self.tile_hw} pixels cannot be tiled every 64 px"
                )
        return (
            self.canvas_hw[0] * tile_grid_hw[0] // self.tile_hw[0],
            self.canvas_hw[1] * tile_grid_hw[1] // self.tile_hw[1],
        )

    def joined(self, tiles: Sequence[Tensor]) -> Tensor:
        """Maps (n, gh, gw) of all tiles as maps (n, GH, GW) of the canvas, averaged where tiles overlap."""
        grid_hw = (tiles[0].shape[1], tiles[0].shape[2])
        total = torch.zeros(tiles[0].shape[0], *self.grid_hw(grid_hw), dtype=tiles[0].dtype)
        count = torch.zeros_like(total[0])
        for maps, (row, column) in zip(tiles, self.corners, strict=True):
            top, left = row * grid_hw[0] // self.tile_hw[0], column * grid_hw[1] // self.tile_hw[1]
            total[:, top : top + grid_hw[0], left : left + grid_hw[1]] += maps
            count[top : top + grid_hw[0], left : left + grid_hw[1]] += 1
        return total / count


def make_tiling(picture_hw: Size, tile_hw: Size, short_side_px: int, overlap: float) -> Tiling:
    """Lay tiles over a picture whose short side becomes `short_side_px`, at least a tile; sides are rounded to 64 px.

    Args:
        picture_hw: pixels of the picture.
        tile_hw: the working size.
        short_side_px: of the picture before it is cut.
        overlap: least share of a tile's side that its neighbour sees too, 0 to below 1.
    """
    scale = short_side_px / min(picture_hw)
    canvas_hw = tuple(
        max(tile, SIZE_MULTIPLE_PX * round(side * scale / SIZE_MULTIPLE_PX))
        for side, tile in zip(picture_hw, tile_hw, strict=True)
    )
    rows, columns = (_starts(side, tile, overlap) for side, tile in zip(canvas_hw, tile_hw, strict=True))
    return Tiling((canvas_hw[0], canvas_hw[1]), tile_hw, tuple((row, column) for row in rows for column in columns))


def _starts(side: int, tile: int, overlap: float) -> list[int]:
    """First pixels of tiles along a side, evenly spread, multiples of 64."""
    free = (side - tile) // SIZE_MULTIPLE_PX
    stride = max(1, int(tile * (1 - overlap)) // SIZE_MULTIPLE_PX)
    count = math.ceil(free / stride) + 1
    return [SIZE_MULTIPLE_PX * round(index * free / max(1, count - 1)) for index in range(count)]


def joint_scores(
    models: Models, rgb: Tensor, bank: TextBank, params: NerveParams, short_side_px: int, overlap: float
) -> tuple[Tensor, Size]:
    """Label scores of a picture of any size, in tiles with one joint affinity.

    Args:
        models: networks.
        rgb: uint8 (H, W, 3).
        bank: vocabulary.
        params: constants; `size_hw` is the size of a tile.
        short_side_px: of the picture before it is cut.
        overlap: least share of a tile that its neighbour sees too.

    Returns:
        P (c, p), columns sum to 1, and the token grid of the whole picture.

    Raises:
        UsageError: the affinity has no pooled keys that tiles could share.
    """
    if params.affinity != "softmax_pooled":
        raise UsageError(f"tiles share pooled keys, and the affinity is {params.affinity!r}; expected softmax_pooled")
    tiling = make_tiling((rgb.shape[0], rgb.shape[1]), params.size_hw, short_side_px, overlap)
    canvas = working_frame(rgb, tiling.canvas_hw)
    tiles = [observe(models, cut(canvas, corner, params.size_hw), params) for corner in tiling.corners]
    return joint_walk(tiling, canvas, tiles, bank, params)


def cut(canvas: Tensor, corner: Size, tile_hw: Size) -> Tensor:
    """The tile (h, w, 3) of the canvas whose top left pixel is `corner`."""
    return canvas[corner[0] : corner[0] + tile_hw[0], corner[1] : corner[1] + tile_hw[1]].contiguous()


def joint_walk(
    tiling: Tiling, canvas: Tensor, tiles: Sequence[Observation], bank: TextBank, params: NerveParams
) -> tuple[Tensor, Size]:
    """The method's arithmetic on what the networks said about each tile; as `joint_scores` for the rest."""
    with torch.no_grad():
        heads = [joined_layer(tiling, layers) for layers in zip(*(tile.heads for tile in tiles), strict=True)]
        tile_grid_hw = max((layer.grid_hw for layer in tiles[0].heads), key=math.prod)
        grid_hw = tiling.grid_hw(tile_grid_hw)
        cells_hw = joint_cells(grid_hw, tile_grid_hw, params.pooled_hw)
        B = torch.cat(
            [
                joint_rows(tiling, layers, joined, cells_hw, grid_hw, params)
                for joined, *layers in zip(heads, *(tile.heads for tile in tiles), strict=True)
            ]
        )
        G = tiling.joined(
            [seeds(tile.features, bank, params, tile_grid_hw).unflatten(1, tile_grid_hw) for tile in tiles]
        )
        latents = [tile.latent[0] for tile in tiles if tile.latent is not None]
        latent = tiling.joined(latents)[None] if latents else None
        W = local_weights(local_features(params.local_features, heads, latent, canvas, grid_hw), params.sigma)
        mix = mix_heads(PooledAffinity(B, grid_hw, cells_hw), G.flatten(1), params)
        return walk(G.flatten(1), mixed_step(mix.S_global, W, params.beta), params.alpha, params.steps), grid_hw


def joined_layer(tiling: Tiling, layers: Sequence[LayerHeads]) -> LayerHeads:
    """One layer's queries and keys over the whole picture, averaged where tiles overlap."""
    grid_hw = layers[0].grid_hw

    def whole(parts: Sequence[Tensor]) -> Tensor:
        maps = [part.transpose(1, 2).flatten(0, 1).unflatten(1, grid_hw) for part in parts]
        return tiling.joined(maps).flatten(1).unflatten(0, (parts[0].shape[0], -1)).transpose(1, 2)

    q, k = whole([layer.q for layer in layers]), whole([layer.k for layer in layers])
    return LayerHeads(layers[0].name, q, k, tiling.grid_hw(grid_hw))


def joint_cells(grid_hw: Size, tile_grid_hw: Size, pooled_hw: Size) -> Size:
    """Cells of the whole picture: as large as in a tile, merged 2 x 2 while they are more than `KEYS_LIMIT`."""
    height, width = (max(1, side // cells) for side, cells in zip(tile_grid_hw, pooled_hw, strict=True))
    while (grid_hw[0] // height) * (grid_hw[1] // width) > max(KEYS_LIMIT, math.prod(pooled_hw)):
        if grid_hw[0] % (2 * height) or grid_hw[1] % (2 * width):
            break  # a picture of an odd number of cells keeps them; it only costs more
        height, width = 2 * height, 2 * width
    return grid_hw[0] // height, grid_hw[1] // width


def joint_rows(
    tiling: Tiling,
    layers: Sequence[LayerHeads],
    joined: LayerHeads,
    cells_hw: Size,
    token_grid_hw: Size,
    params: NerveParams,
) -> Tensor:
    """Rows B (n, P, m) of one layer over the picture's cells, as `nerve_ref.affinity.pooled_affinity` for one frame.

    Each tile's queries look at the picture's pooled keys; rows are averaged where tiles overlap and only then
    normalised by key, over all rows of the picture: done per tile, every tile would have to use every key.
    """
    n = joined.k.shape[0]
    own_cells_hw = (min(joined.grid_hw[0], cells_hw[0]), min(joined.grid_hw[1], cells_hw[1]))
    keys = mean_pool(joined.k.transpose(1, 2).flatten(0, 1), joined.grid_hw, own_cells_hw).unflatten(0, (n, -1))
    scale = joined.k.shape[-1] ** -0.5
    looks = [torch.softmax(layer.q @ keys * scale / params.temperature, dim=-1) for layer in layers]
    maps = [look.transpose(1, 2).flatten(0, 1).unflatten(1, layers[0].grid_hw) for look in looks]
    weights = tiling.joined(maps).flatten(1).unflatten(0, (n, -1)).transpose(1, 2)
    rows = sharpened_rows(weights, params.sharpen, params.row_threshold, params.key_norm)
    columns = spread_columns(rows, own_cells_hw, cells_hw).transpose(1, 2).flatten(0, 1)
    return resize_maps(columns, joined.grid_hw, token_grid_hw).unflatten(0, (n, -1)).transpose(1, 2)
