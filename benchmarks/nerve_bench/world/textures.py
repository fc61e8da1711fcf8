"""One texture per kind of ground.

Lengths are in world pixels: one world pixel is one frame pixel at the tiny model's 128 x 128. Larger frames draw
the same world with `scale` frame pixels per world pixel.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

FloatImage = NDArray[np.float32]
Color = tuple[float, float, float]


class Canvas:
    """The surface a texture is drawn on: rotated, shifted coordinates and seeded noise.

    Args:
        rng: source of every random choice; equal states give equal textures.
        size_hw: height and width in frame pixels.
        scale: frame pixels per world pixel.
        world_hw: height and width in world pixels; how many random numbers are drawn depends on this alone, so the
            same seed draws the same world at every scale.
    """

    def __init__(
        self, rng: np.random.Generator, size_hw: tuple[int, int], scale: float, world_hw: tuple[int, int]
    ) -> None:
        self.rng, self.size_hw, self.world_hw = rng, size_hw, world_hw
        height, width = size_hw
        angle, zoom = rng.uniform(0, np.pi), rng.uniform(0.75, 1.3)
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        # Centres coincide at every scale: a sprite's pattern must not slide under its outline.
        x = (x - (width - 1) / 2) / scale + (world_hw[1] - 1) / 2
        y = (y - (height - 1) / 2) / scale + (world_hw[0] - 1) / 2
        x, y = x / zoom + rng.uniform(0, 50), y / zoom + rng.uniform(0, 50)
        self.u = x * np.cos(angle) - y * np.sin(angle) + 200
        self.v = x * np.sin(angle) + y * np.cos(angle) + 200

    def noise(self, blur_xy: tuple[float, float] = (0, 0)) -> FloatImage:
        """Gaussian noise of standard deviation 1 (h,w,1), blurred over `blur_xy` world pixels, then unit again."""
        grain = self.rng.normal(0, 1, self.world_hw).astype(np.float32)
        if any(blur_xy):
            blurred = cv2.GaussianBlur(grain, (0, 0), sigmaX=max(blur_xy[0], 0.1), sigmaY=max(blur_xy[1], 0.1))
            grain = np.asarray(blurred / np.float32(blurred.std() + 1e-6), np.float32)
        resized = cv2.resize(grain, self.size_hw[::-1], interpolation=cv2.INTER_LINEAR)
        return np.asarray(resized, np.float32)[..., None]


def _flat(color: Color, grain: FloatImage) -> FloatImage:
    return np.array(color, np.float32) + grain


STUFF: dict[str, Callable[[Canvas], FloatImage]] = {
    "grass": lambda c: _flat((70, 125, 50), c.noise((0.3, 1.8)) * 22),
    "sky": lambda c: _flat((135, 180, 230), c.noise((12, 12)) * 10),
    "sand": lambda c: _flat((205, 180, 130), c.noise() * 14),
    "water": lambda c: _flat((40, 95, 140), c.noise((5, 0.3)) * 20),
    "snow": lambda c: _flat((236, 240, 247), c.noise((6, 6)) * 5),
    "road": lambda c: _flat((95, 95, 98), c.noise() * 10),
}


def texture(
    class_name: str,
    rng: np.random.Generator,
    size_hw: tuple[int, int],
    scale: float,
    world_hw: tuple[int, int] | None = None,
) -> FloatImage:
    """Draw one instance of a kind of ground: RGB float32 (h,w,3), about 0..255, colour jittered per instance.

    `world_hw` is the size in world pixels, `size_hw / scale` rounded up unless told.

    Raises:
        KeyError: `class_name` is not in `STUFF`.
    """
    tint = rng.uniform(0.88, 1.1, 3).astype(np.float32)
    world = world_hw or (int(np.ceil(size_hw[0] / scale)), int(np.ceil(size_hw[1] / scale)))
    return (STUFF[class_name](Canvas(rng, size_hw, scale, world)) * tint).astype(np.float32)
