"""Wide scenes of the tiny world, segmented in three ways: what tiles are worth, and what their joint keys add."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nerve_bench.datasets.pixel_counts import Counts, class_iou, confusion, interval, pixel_counts, resampled_mious
from nerve_bench.datasets.tiles import Tiling, cut, joint_walk, make_tiling
from nerve_bench.measure.accuracy import World
from nerve_bench.world import CLASS_NAMES, Scene
from nerve_bench.world.scenes import WORLD_PX, background, expose, light, make_sprite, paste, scene_rng
from nerve_ref.pipeline import Observation, observe, segment, solve, working_frame
from nerve_ref.walk import readout
from nerve_runtime import IGNORE_LABEL

WAYS = ("stretch", "separate_tiles", "joint_tiles")


def wide_scene(seed: int, width_px: int) -> Scene:
    """A scene of the world, one world high and `width_px` world pixels wide, with as many things per area as others."""
    rng, size_hw = scene_rng(seed), (WORLD_PX, width_px)
    canvas, labels = background(rng, size_hw, 1.0)
    for _ in range(round(int(rng.integers(2, 6)) * width_px / WORLD_PX)):
        row, column = rng.uniform(0.08, 0.92, 2) * size_hw
        paste(make_sprite(rng, rng.uniform(11, 38), 1.0), canvas, labels, (float(row), float(column)))
    return Scene(expose(canvas * light(rng, size_hw), rng, 1.0), labels, close_up=False)


def wide_labels(world: World, rgb: NDArray[np.uint8], overlap: float) -> dict[str, NDArray[np.uint8]]:
    """Labels uint8 (H, W) of a picture in each of `WAYS`."""
    picture, tile_hw = torch.from_numpy(rgb), world.params.size_hw
    size_hw = (rgb.shape[0], rgb.shape[1])
    tiling = make_tiling(size_hw, tile_hw, min(tile_hw), overlap)
    canvas = working_frame(picture, tiling.canvas_hw)
    seen = [observe(world.models, cut(canvas, corner, tile_hw), world.params) for corner in tiling.corners]
    params = replace(world.params, readout="bilinear")  # as the joined scores of tiles, which no one frame could guide
    stretched = segment(world.models, working_frame(picture, tile_hw), world.bank, params, size_hw)
    scores = {
        "separate_tiles": _separate_scores(world, tiling, seen),
        "joint_tiles": joint_walk(tiling, canvas, seen, world.bank, world.params),
    }
    labels = {way: readout(P, grid_hw, size_hw, 0.0, has_background=False)[0] for way, (P, grid_hw) in scores.items()}
    return {way: found.numpy() for way, found in {"stretch": stretched.labels, **labels}.items()}


def _separate_scores(world: World, tiling: Tiling, seen: list[Observation]) -> tuple[torch.Tensor, tuple[int, int]]:
    """Each tile by itself; P averaged where they overlap."""
    solved = [solve(tile, world.bank, world.params) for tile in seen]
    joined = tiling.joined([result.P.unflatten(1, result.grid_hw) for result in solved])
    return joined.flatten(1), (joined.shape[1], joined.shape[2])


def measure_tiles(
    world: World, seeds: range, width_px: int, overlap: float, progress: Callable[..., Any]
) -> Iterator[dict[str, Any]]:
    """Yield one record per way, and the gain of joint tiles over each other way on the same scenes.

    Args:
        world: networks, vocabulary, constants.
        seeds: of the scenes.
        width_px: width of the scenes.
        overlap: least share of a tile that its neighbour sees too.
        progress: wraps the scenes in a progress bar.
    """
    counts: dict[str, dict[str, Counts]] = {way: {} for way in WAYS}
    for seed in progress(seeds, "segmenting wide scenes"):
        scene = wide_scene(seed, width_px)
        for way, labels in wide_labels(world, scene.rgb, overlap).items():
            counts[way][str(seed)] = pixel_counts(scene.labels, labels, len(CLASS_NAMES), IGNORE_LABEL)
    shared = {"bench": "tiles", "width_px": width_px, "overlap": overlap, "n": len(seeds)}
    draws = {way: resampled_mious(pictures, len(CLASS_NAMES)) for way, pictures in counts.items()}
    matrices = {way: confusion(pictures, len(CLASS_NAMES)) for way, pictures in counts.items()}
    mious = {way: float(np.nanmean(class_iou(matrix))) for way, matrix in matrices.items()}
    for way, matrix in matrices.items():
        accuracy = round(float(100 * np.trace(matrix) / matrix.sum()), 3)
        figures = {"miou": round(mious[way], 3), "interval": interval(draws[way]), "pixel_accuracy": accuracy}
        yield {**shared, "way": way, **figures}
    for other in WAYS[:-1]:
        gain, bounds = mious["joint_tiles"] - mious[other], interval(draws["joint_tiles"] - draws[other])
        yield {**shared, "way": "joint_tiles", "against": other, "gain": round(gain, 3), "interval": bounds}
