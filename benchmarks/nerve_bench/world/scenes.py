"""Still scenes: stuff behind, things in front, light over all, with the exact label of every pixel."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from nerve_bench.world.textures import CLASS_NAMES, STUFF, THINGS, FloatImage, texture

WORLD_PX = 128
"""Side of the square world in world pixels."""

SEEDS = {
    "train": range(0, 1_000_000),
    "validation": range(1_000_000, 2_000_000),
    "test": range(2_000_000, 3_000_000),
    "clips": range(3_000_000, 4_000_000),
}
"""Disjoint seeds: models learn on `train`, constants are chosen on `validation`, figures come from `test` and `clips`."""

CLOSE_UP_SHARE = 0.7
"""Share of object-centric pictures in the training mix: they are what aligns patches with words."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture with its truth.

    Attributes:
        rgb: uint8 (H,W,3).
        labels: uint8 (H,W), index into `CLASS_NAMES`.
        close_up: whether one thing fills most of the frame.
    """

    rgb: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    close_up: bool


@dataclass(frozen=True, slots=True)
class Sprite:
    """A thing cut out: `rgb` float32 (k,k,3), `alpha` float32 (k,k) in 0..1, `label` its class."""

    rgb: FloatImage
    alpha: FloatImage
    label: int


def scene_rng(seed: int) -> np.random.Generator:
    """The random source of the scene or clip with this seed."""
    return np.random.default_rng([8248, seed])


def make_scene(seed: int, *, size_px: int = WORLD_PX, close_up: bool | None = None) -> Scene:
    """Make the scene with this seed: the same picture for the same seed, at any `size_px`.

    Args:
        seed: see `SEEDS` for the ranges that keep training and testing apart.
        size_px: side of the square frame in pixels; the world is scaled to it.
        close_up: force an object-centric picture (True) or a full scene (False); None mixes both as in training.
    """
    rng = scene_rng(seed)
    scale = size_px / WORLD_PX
    drawn_close_up = bool(rng.random() < CLOSE_UP_SHARE)
    near = drawn_close_up if close_up is None else close_up
    canvas, labels = background(rng, (size_px, size_px), scale)
    for _ in range(1 if near else int(rng.integers(2, 6))):
        radius = rng.uniform(38, 80) if near else rng.uniform(11, 38)
        low, high = (0.3, 0.7) if near else (0.08, 0.92)
        center_yx = rng.uniform(low, high, 2) * size_px
        paste(make_sprite(rng, radius, scale), canvas, labels, (float(center_yx[0]), float(center_yx[1])))
    return Scene(expose(canvas * light(rng, (size_px, size_px)), rng, scale), labels, near)


def background(
    rng: np.random.Generator, size_hw: tuple[int, int], scale: float, world_hw: tuple[int, int] | None = None
) -> tuple[FloatImage, NDArray[np.uint8]]:
    """One kind of stuff, or two that meet at a slanted horizon: colours float32 (h,w,3) and labels uint8 (h,w)."""
    names = list(STUFF)
    first, second = rng.choice(len(names), 2, replace=False)
    canvas = texture(names[first], rng, size_hw, scale, world_hw)
    labels = np.full(size_hw, first, np.uint8)
    if rng.random() < 0.4:
        height, width = size_hw
        slope, level = rng.uniform(-0.3, 0.3), rng.uniform(0.25, 0.75)
        y, x = np.mgrid[0:height, 0:width]
        below = y > level * height + slope * (x - width / 2)
        canvas = np.where(below[..., None], texture(names[second], rng, size_hw, scale, world_hw), canvas)
        labels[below] = second
    return canvas, labels


def make_sprite(rng: np.random.Generator, radius: float, scale: float) -> Sprite:
    """A random thing of about `radius` world pixels with a random outline."""
    name = list(THINGS)[int(rng.integers(len(THINGS)))]
    half_world = int(np.ceil(radius * 1.5)) + 2
    half = int(np.ceil(half_world * scale))
    side, side_world = 2 * half + 1, 2 * half_world + 1
    alpha = np.zeros((side, side), np.uint8)
    cv2.fillPoly(alpha, [_outline(rng, radius * scale, half)], 255, cv2.LINE_AA, 4)
    rgb = texture(name, rng, (side, side), scale, (side_world, side_world))
    shade = np.linspace(-1, 1, side, dtype=np.float32) * np.float32(rng.uniform(-0.25, 0.25))
    shaded = np.asarray(rgb * (1 + shade)[None, :, None], np.float32)
    return Sprite(shaded, np.asarray(alpha.astype(np.float32) / 255, np.float32), CLASS_NAMES.index(name))


def _outline(rng: np.random.Generator, radius: float, half: int) -> NDArray[np.int32]:
    """Closed polygon (48,2) in 1/16 pixels around (half,half): an ellipse, a soft blob or a rotated polygon."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    kind = int(rng.integers(3))
    reach = np.full(48, radius)
    if kind == 1:
        waves = [rng.uniform(-0.15, 0.15) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4, 5)]
        reach = radius * np.clip(1 + sum(waves), 0.4, 1.4)
    if kind == 2:
        corners, turn = int(rng.integers(3, 7)), rng.uniform(0, 6)
        reach = radius * np.cos(np.pi / corners) / np.cos((angle + turn) % (2 * np.pi / corners) - np.pi / corners)
    squash, turn = rng.uniform(0.65, 1.0), rng.uniform(0, np.pi)
    x, y = reach * np.cos(angle), reach * np.sin(angle) * squash
    points = np.stack([half + x * np.cos(turn) - y * np.sin(turn), half + x * np.sin(turn) + y * np.cos(turn)], 1)
    return np.round(points * 16).astype(np.int32)


def paste(
    sprite: Sprite, canvas: FloatImage, labels: NDArray[np.uint8], center_yx: tuple[float, float]
) -> NDArray[np.bool_]:
    """Draw a sprite onto colours and labels in place, its centre at `center_yx` (pixels, fractions allowed).

    Returns:
        Which pixels it covers, bool (H,W).
    """
    half = sprite.alpha.shape[0] // 2
    height, width = labels.shape
    shift = np.array([[1, 0, center_yx[1] - half], [0, 1, center_yx[0] - half]], np.float32)
    alpha = cv2.warpAffine(sprite.alpha, shift, (width, height))
    rgb = cv2.warpAffine(sprite.rgb, shift, (width, height), borderMode=cv2.BORDER_REPLICATE)
    canvas += (rgb - canvas) * alpha[..., None]
    covered = np.asarray(alpha > 0.5)
    labels[covered] = sprite.label
    return covered


def light(rng: np.random.Generator, size_hw: tuple[int, int]) -> FloatImage:
    """Illumination (h,w,3) around 1: exposure, colour cast, a smooth field, and in half of the scenes a soft shadow."""
    height, width = size_hw
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / np.float32(max(size_hw))
    coarse = rng.normal(0, 0.16, (4, 4)).astype(np.float32)
    field = 1 + cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.5:
        angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.3)
        distance = (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle) - offset
        depth, softness = rng.uniform(0.3, 0.55), rng.uniform(0.01, 0.05)
        field = field * (1 - depth / (1 + np.exp(-distance / softness)))
    cast = rng.uniform(0.82, 1.12) * rng.uniform(0.94, 1.06, 3)
    return np.clip(field, 0.25, 1.6)[..., None].astype(np.float32) * cast.astype(np.float32)


def expose(canvas: FloatImage, rng: np.random.Generator, scale: float) -> NDArray[np.uint8]:
    """Turn colours into a uint8 frame with sensor noise (standard deviation 4 per world pixel)."""
    height, width = canvas.shape[:2]
    grain = rng.normal(0, 4, (int(np.ceil(height / scale)), int(np.ceil(width / scale)), 3)).astype(np.float32)
    resized = cv2.resize(grain, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(canvas + resized, 0, 255).astype(np.uint8)
