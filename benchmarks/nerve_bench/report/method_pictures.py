"""Pictures for people: what each head looks at, where the labels come from, and what comes out."""

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from nerve_bench.measure.accuracy import World
from nerve_bench.world import CLASS_NAMES, STUFF, make_scene
from nerve_bench.world.grids import colored, write_png
from nerve_ref.affinity import PooledAffinity
from nerve_ref.pipeline import Intermediates, segment
from nerve_ref.walk import readout

TILE_PX = 192
CAPTION_PX = 22
LEGEND_PX = 28
Picture = NDArray[np.uint8]


SHOWN_EVERY = 50
"""The method picture shows every so many test scenes, whatever comes out of them."""
LEGEND_SHARE = 0.02
"""Smallest share of a label map that a class must cover to be in the legend below its row."""


def method_picture(world: World, seeds_of_scenes: list[int]) -> Picture:
    """One row a scene: frame, CLIP alone (G), best head, worst head, NERVE (P), truth, and a legend; RGB uint8."""
    return np.concatenate([_scene_row(world, seed) for seed in seeds_of_scenes])


def _scene_row(world: World, seed: int) -> Picture:
    scene = make_scene(seed, size_px=world.params.size_hw[0], close_up=False)
    result = segment(world.models, torch.from_numpy(scene.rgb), world.bank, world.params)
    by_clip = readout(result.G, result.grid_hw, world.params.size_hw, 0.0, has_background=False)[0].numpy()
    token = _token_inside(scene.labels, result.grid_hw)
    best, worst = int(result.head_weights.argmax()), int(result.head_weights.argmin())
    tiles = {
        "frame": scene.rgb,
        "CLIP alone": colored(by_clip),
        f"best head, {result.head_weights[best]:.2f}": _head_tile(scene.rgb, result, best, token),
        f"worst head, {result.head_weights[worst]:.2f}": _head_tile(scene.rgb, result, worst, token),
        "NERVE": colored(result.labels.numpy()),
        "truth": colored(scene.labels),
    }
    row = np.concatenate([captioned(tile, text) for text, tile in tiles.items()], axis=1)
    return np.concatenate([row, _legend([by_clip, result.labels.numpy(), scene.labels], row.shape[1])])


def _legend(label_maps: list[Picture], width_px: int) -> Picture:
    """A line of names beside their colours, of all classes that cover `LEGEND_SHARE` of one of the maps."""
    shares = [np.bincount(labels.ravel(), minlength=len(CLASS_NAMES)) / labels.size for labels in label_maps]
    shown = np.flatnonzero(np.max(shares, axis=0) >= LEGEND_SHARE)
    strip = np.full((LEGEND_PX, width_px, 3), 255, np.uint8)
    left = 6
    for label in shown:
        name = CLASS_NAMES[label]
        (text_px, _), _ = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
        if left + 26 + text_px > width_px:
            break  # a row of more classes than fit shows the first ones
        strip[4:18, left : left + 18] = colored(np.array([[label]], np.uint8))[0, 0]
        cv2.putText(strip, name, (left + 22, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)
        left += 44 + text_px
    return strip


def _token_inside(labels: Picture, grid_hw: tuple[int, int]) -> tuple[int, int]:
    """The token deepest inside the largest thing of the scene."""
    things = np.bincount(labels.ravel(), minlength=len(CLASS_NAMES))
    things[: len(STUFF)] = 0
    mask = (labels == things.argmax()).astype(np.uint8)
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(y) * grid_hw[0] // labels.shape[0], int(x) * grid_hw[1] // labels.shape[1]


def _head_tile(rgb: Picture, result: Intermediates, head: int, token: tuple[int, int]) -> Picture:
    """Where one head looks from one token: the frame, darkened elsewhere, the token marked."""
    affinity = result.affinity
    if not isinstance(affinity, PooledAffinity):
        raise TypeError(f"pictures of heads need the kind softmax_pooled, got {type(affinity).__name__}")
    row = affinity.B[head, token[0] * result.grid_hw[1] + token[1]].unflatten(0, affinity.pooled_hw).numpy()
    look = cv2.resize(row / row.max(), rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR)[..., None]
    # The root lifts what a sharpened row leaves faint, as the eye would want it.
    tile = np.ascontiguousarray((rgb * (0.3 + 0.7 * np.sqrt(look))).astype(np.uint8))
    scale = rgb.shape[0] / result.grid_hw[0]
    center = (round((token[1] + 0.5) * scale), round((token[0] + 0.5) * scale))
    cv2.circle(tile, center, 3, (255, 0, 0), -1)
    return tile


def captioned(tile: Picture, text: str) -> Picture:
    """A tile enlarged to `TILE_PX` with a caption above and a thin margin; RGB uint8."""
    enlarged = cv2.resize(tile, (TILE_PX, TILE_PX), interpolation=cv2.INTER_NEAREST)
    framed = cv2.copyMakeBorder(enlarged, CAPTION_PX, 2, 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    cv2.putText(framed, text, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)
    return np.asarray(framed, np.uint8)


def write_method_picture(world: World, seeds_of_scenes: list[int], path: Path) -> None:
    """Write `method_picture` as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(method_picture(world, seeds_of_scenes), path)
