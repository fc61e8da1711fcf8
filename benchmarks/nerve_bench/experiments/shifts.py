"""Worlds that the constants were not chosen for: the same classes under other light, other noise, other scale."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nerve_bench.world import Scene, make_scene
from nerve_bench.world.scenes import WORLD_PX, background, expose, light, make_sprite, paste, scene_rng

SceneMaker = Callable[[int, int], Scene]
"""Seed and side in pixels to scene."""

HUE_SHIFT_DEGREES = 20
NIGHT_LIGHT = 0.3
"""Share of the light that is left at night."""
NIGHT_NOISE, NOISE = 8.0, 24.0
"""Standard deviations of added sensor noise, in levels of 0 to 255 (the world as it is has 4)."""
AERIAL_WORLD = 2 * WORLD_PX
"""Side of the part of the world that an aerial picture shows: twice the usual, so that all is half as large."""
AERIAL_THINGS = (8, 16)
AERIAL_RADII = (11.0, 30.0)
"""World pixels; half of it in the picture: a thing is 3 to 8 tokens wide."""


def as_is(seed: int, size_px: int) -> Scene:
    """The world for which networks were trained and constants chosen."""
    return make_scene(seed, size_px=size_px)


def other_hues(seed: int, size_px: int) -> Scene:
    """All colours turned by 20 degrees of hue: textures that CLIP has not seen."""
    scene = make_scene(seed, size_px=size_px)
    hsv = cv2.cvtColor(scene.rgb, cv2.COLOR_RGB2HSV)
    # OpenCV keeps hues of uint8 pictures in half degrees, 0 to 179.
    hsv[..., 0] = (hsv[..., 0].astype(np.int32) + HUE_SHIFT_DEGREES // 2) % 180
    return Scene(np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8), scene.labels, scene.close_up)


def night(seed: int, size_px: int) -> Scene:
    """Three tenths of the light, and twice the noise on what is left."""
    scene = make_scene(seed, size_px=size_px)
    return Scene(_noisy(scene.rgb * np.float32(NIGHT_LIGHT), NIGHT_NOISE, seed), scene.labels, scene.close_up)


def noise(seed: int, size_px: int) -> Scene:
    """Six times the noise."""
    scene = make_scene(seed, size_px=size_px)
    return Scene(_noisy(scene.rgb, NOISE, seed), scene.labels, scene.close_up)


def aerial(seed: int, size_px: int) -> Scene:
    """Seen from twice as far: everything half as large, and many more things."""
    rng = scene_rng(seed)
    scale = size_px / WORLD_PX
    side = round(AERIAL_WORLD * scale)
    canvas, labels = background(rng, (side, side), scale)
    for _ in range(int(rng.integers(*AERIAL_THINGS))):
        center_yx = rng.uniform(0.04, 0.96, 2) * side
        sprite = make_sprite(rng, rng.uniform(*AERIAL_RADII), scale)
        paste(sprite, canvas, labels, (float(center_yx[0]), float(center_yx[1])))
    small = cv2.resize(canvas, (size_px, size_px), interpolation=cv2.INTER_AREA)
    truth = np.asarray(cv2.resize(labels, (size_px, size_px), interpolation=cv2.INTER_NEAREST), np.uint8)
    lit = np.asarray(small * light(rng, (size_px, size_px)), np.float32)
    return Scene(expose(lit, rng, scale), truth, close_up=False)


def _noisy(rgb: NDArray[Any], deviation: float, seed: int) -> NDArray[np.uint8]:
    grain = np.random.default_rng([seed, 1]).normal(0, deviation, rgb.shape)
    return np.clip(rgb + grain, 0, 255).astype(np.uint8)


SHIFTS: dict[str, SceneMaker] = {
    "as_is": as_is,
    "other_hues": other_hues,
    "night": night,
    "noise": noise,
    "aerial": aerial,
}
"""Worlds by name."""
