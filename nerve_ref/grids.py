"""Moving rows and labels between grids: mean pooling down, bilinear up, and which cell holds which token."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

Scalar = float | int | Float[Tensor, ""]
"""A number, or a tensor of rank 0 where a graph takes it as an input."""


def mean_pool(maps: Float[Tensor, "n p"], grid_hw: tuple[int, int], cells_hw: tuple[int, int]) -> Float[Tensor, "n m"]:
    """Average maps on a token grid over equal cells; the method's `pool`.

    Args:
        maps: one map per row, tokens row-major over `grid_hw`.
        grid_hw: grid of the maps, a multiple of `cells_hw`.
        cells_hw: grid of cells.

    Raises:
        ValueError: if cells would not all hold the same number of tokens.
    """
    kernel_hw = cell_size_hw(grid_hw, cells_hw)
    if kernel_hw == (1, 1):
        return maps
    return functional.avg_pool2d(maps.unflatten(1, grid_hw)[None], kernel_hw)[0].flatten(1)


def resize_maps(maps: Float[Tensor, "n p"], grid_hw: tuple[int, int], to_hw: tuple[int, int]) -> Float[Tensor, "n q"]:
    """Resize maps bilinearly (align_corners False, no antialias) from one token grid to another.

    Each result is a convex mix of tokens of its own map, so sums over maps are kept.
    """
    if grid_hw == to_hw:
        return maps
    images = maps.unflatten(1, grid_hw)[None]
    return functional.interpolate(images, size=to_hw, mode="bilinear", align_corners=False)[0].flatten(1)


def spread_columns(
    rows: Float[Tensor, "n p m"], cells_hw: tuple[int, int], to_hw: tuple[int, int]
) -> Float[Tensor, "n p q"]:
    """Express rows over coarse cells as rows over finer cells, each weight split evenly; row sums are kept.

    `rows @ pool(P)` is the same number before and after, with `pool` to the respective cells.
    """
    size_hw = cell_size_hw(to_hw, cells_hw)
    split = rows.unflatten(2, cells_hw) / (size_hw[0] * size_hw[1])
    return split.repeat_interleave(size_hw[0], dim=2).repeat_interleave(size_hw[1], dim=3).flatten(2)


def own_cells(grid_hw: tuple[int, int], cells_hw: tuple[int, int]) -> Int[Tensor, " p"]:
    """Index of the cell that holds each token of the grid, int64, both row-major."""
    height, width = cell_size_hw(grid_hw, cells_hw)
    rows = torch.arange(grid_hw[0]) // height
    columns = torch.arange(grid_hw[1]) // width
    return (rows[:, None] * cells_hw[1] + columns[None, :]).flatten()


def cell_size_hw(grid_hw: tuple[int, int], cells_hw: tuple[int, int]) -> tuple[int, int]:
    """How many tokens high and wide a cell is.

    Raises:
        ValueError: if the grid is not a whole multiple of the cells.
    """
    if grid_hw[0] % cells_hw[0] or grid_hw[1] % cells_hw[1]:
        raise ValueError(
            f"a grid of {grid_hw} tokens cannot be divided into {cells_hw} equal cells; "
            "choose pooled_hw so that it divides, or is a multiple of, the grid of every layer in use"
        )
    return grid_hw[0] // cells_hw[0], grid_hw[1] // cells_hw[1]
