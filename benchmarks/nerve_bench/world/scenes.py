"""Still scenes: ground behind, things in front, light over all, with the exact label of every pixel."""

from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np
from numpy.typing import NDArray

from nerve_bench.world.textures import STUFF, FloatImage, texture
from nerve_bench.world.things import PICTURE_PX, THINGS, thing_pictures

WORLD_PX = 128
"""Side of the square world in world pixels."""

SEEDS = {
    "train": range(0, 1_000_000),
    "validation": range(1_000_000, 2_000_000),
    "test": range(2_000_000, 3_000_000),
    "clips": range(3_000_000, 4_000_000),
}
"""Disjoint seeds: models learn on `train`, constants are chosen on `validation`, figures come from `test` and `clips`."""

WORLD_THINGS = 32
"""How many of the atlas's things the world is made of, its first ones: a tiny CLIP does not tell all 64 apart well."""

CLASS_NAMES: tuple[str, ...] = (*STUFF, *islice(THINGS, WORLD_THINGS))
"""Class names in label order: label `i` in a label map is `CLASS_NAMES[i]`."""

CLOSE_UP_SHARE = 0.6
"""Share of object-centric pictures in the training mix: they are what aligns patches with words."""


THING_PX = 118
"""Diameter of a thing in its picture of the atlas, pixels."""

LARGEST_TURN_DEG = 22.0


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


def make_scene(
    seed: int, *, size_px: int = WORLD_PX, close_up: bool | None = None, things: int = WORLD_THINGS
) -> Scene:
    """Make the scene with this seed: the same picture for the same seed, at any `size_px`.

    Args:
        seed: see `SEEDS` for the ranges that keep training and testing apart.
        size_px: side of the square frame in pixels; the world is scaled to it.
        close_up: force an object-centric picture (True) or a full scene (False); None mixes both as in training.
        things: draw from the first so many things of the atlas; beyond `WORLD_THINGS` labels have no class name.
    """
    rng = scene_rng(seed)
    scale = size_px / WORLD_PX
    drawn_close_up = bool(rng.random() < CLOSE_UP_SHARE)
    near = drawn_close_up if close_up is None else close_up
    canvas, labels = background(rng, (size_px, size_px), scale)
    for _ in range(1 if near else int(rng.integers(2, 6))):
        radius = rng.uniform(34, 62) if near else rng.uniform(13, 34)
        low, high = (0.3, 0.7) if near else (0.1, 0.9)
        center_yx = rng.uniform(low, high, 2) * size_px
        paste(make_sprite(rng, radius, scale, things), canvas, labels, (float(center_yx[0]), float(center_yx[1])))
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


def make_sprite(rng: np.random.Generator, radius: float, scale: float, things: int = WORLD_THINGS) -> Sprite:
    """A random thing out of the first `things`: flipped or not, turned, stretched, tinted, lit from one side.

    Args:
        rng: the random source.
        radius: its size, world pixels, about.
        scale: frame pixels to a world pixel.
        things: how many of the atlas it may be.
    """
    number = int(rng.integers(things))
    picture = thing_pictures()[number].astype(np.float32)
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
    half = int(np.ceil(radius * scale * 1.45))
    side = 2 * half + 1
    zoom = 2 * radius * scale / THING_PX * rng.uniform(0.92, 1.08)
    middle = (PICTURE_PX - 1) / 2
    turn = rng.uniform(-LARGEST_TURN_DEG, LARGEST_TURN_DEG)
    place = np.asarray(cv2.getRotationMatrix2D((middle, middle), turn, zoom), np.float64)
    place[0] *= rng.uniform(0.88, 1.12)  # narrower or wider
    place[:, 2] += half - place @ (middle, middle, 1)
    weighted = np.concatenate([picture[..., :3] * (picture[..., 3:] / 255), picture[..., 3:] / 255], axis=2)
    warped = cv2.warpAffine(_smaller(weighted, zoom), _after_smaller(place, zoom), (side, side))
    alpha = np.clip(warped[..., 3], 0, 1)
    rgb = warped[..., :3] / np.maximum(alpha, 1 / 255)[..., None]
    shade = np.linspace(-1, 1, side, dtype=np.float32) * np.float32(rng.uniform(-0.2, 0.2))
    tint = rng.uniform(0.85, 1.12, 3).astype(np.float32)
    shaded = np.asarray(rgb * tint * (1 + shade)[None, :, None], np.float32)
    return Sprite(shaded, np.asarray(alpha, np.float32), len(STUFF) + number)


def _smaller(picture: FloatImage, zoom: float) -> FloatImage:
    """The picture at half its size as often as `zoom` asks for: bilinear warping alone would skip pixels."""
    for _ in range(_halvings(zoom)):
        picture = np.asarray(cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.float32)
    return picture


def _after_smaller(place: NDArray[np.float64], zoom: float) -> NDArray[np.float64]:
    """The map from the full picture as a map from the smaller one; pixel centres stay where they are."""
    factor = 2 ** _halvings(zoom)
    back = np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2], [0, 0, 1]])
    return np.asarray(place @ back, np.float64)


def _halvings(zoom: float) -> int:
    return max(0, int(np.floor(np.log2(1 / zoom))))


def paste(
    sprite: Sprite,
    canvas: FloatImage,
    labels: NDArray[np.uint8],
    center_yx: tuple[float, float],
    turn: float = 0.0,
) -> NDArray[np.bool_]:
    """Draw a sprite onto colours and labels in place.

    Args:
        sprite: what to draw.
        canvas: colours float32 (H,W,3).
        labels: uint8 (H,W).
        center_yx: where its centre goes, pixels, fractions allowed.
        turn: by how much it is turned, counter-clockwise, radians.

    Returns:
        Which pixels it covers, bool (H,W).
    """
    half = sprite.alpha.shape[0] // 2
    height, width = labels.shape
    place = cv2.getRotationMatrix2D((half, half), float(np.degrees(turn)), 1)
    place[:, 2] += (center_yx[1] - half, center_yx[0] - half)
    alpha = cv2.warpAffine(sprite.alpha, place, (width, height))
    rgb = cv2.warpAffine(sprite.rgb, place, (width, height), borderMode=cv2.BORDER_REPLICATE)
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
