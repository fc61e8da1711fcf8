"""One texture per class: what a class looks like, wherever its outline happens to run.

Lengths are in world pixels: one world pixel is one frame pixel at the tiny model's 128 x 128. Larger frames draw
the same world with `scale` frame pixels per world pixel. Several classes are look-alikes on purpose (orange and
pumpkin, ladybug and strawberry, sapphire and water, moon and road): a patch alone does not always tell them apart.
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

    def dots(self, period: float, radius: float) -> FloatImage:
        """Mask (h,w,1) of discs of `radius` on a staggered lattice of `period` world pixels."""
        du = self.u % period - period / 2
        dv = (self.v + (np.floor(self.u / period) % 2) * period / 2) % period - period / 2
        return _mask(du * du + dv * dv < radius * radius)

    def stripes(self, period: float, width: float) -> FloatImage:
        """Mask (h,w,1) of parallel bars of `width` every `period` world pixels."""
        return _mask(self.u % period < width)

    def checks(self, side: float) -> FloatImage:
        """Mask (h,w,1) of a checkerboard with squares of `side` world pixels."""
        return _mask((np.floor(self.u / side) + np.floor(self.v / side)) % 2 == 1)

    def mortar(self, length: float, height: float, joint: float) -> FloatImage:
        """Mask (h,w,1) of the joints of a running-bond brick wall."""
        row = np.floor(self.v / height)
        return _mask((self.v % height < joint) | ((self.u + (row % 2) * length / 2) % length < joint))


def _mask(inside: NDArray[np.bool_]) -> FloatImage:
    return inside.astype(np.float32)[..., None]


def _blend(low: Color, high: Color, mask: FloatImage) -> FloatImage:
    return np.array(low, np.float32) * (1 - mask) + np.array(high, np.float32) * mask


def _flat(color: Color, grain: FloatImage) -> FloatImage:
    return np.array(color, np.float32) + grain


THINGS: dict[str, Callable[[Canvas], FloatImage]] = {
    "ladybug": lambda c: _blend((210, 35, 30), (20, 15, 15), c.dots(12, 3.4)),
    "strawberry": lambda c: _blend((205, 40, 50), (240, 205, 120), c.dots(7, 1.2)),
    "zebra": lambda c: _blend((240, 240, 235), (20, 20, 22), c.stripes(9, 4.2)),
    "chessboard": lambda c: _blend((235, 225, 205), (60, 40, 30), c.checks(6)),
    "brick": lambda c: _blend((175, 80, 50), (210, 200, 190), c.mortar(14, 7, 1.3)) + c.noise() * 5,
    "orange": lambda c: _flat((245, 140, 25), c.noise() * 7),
    "pumpkin": lambda c: _blend((235, 125, 25), (180, 80, 15), c.stripes(11, 2.2)) + c.noise() * 4,
    "lemon": lambda c: _flat((248, 225, 70), c.noise() * 4),
    "tennis ball": lambda c: _flat((195, 225, 60), c.noise() * 15),
    "watermelon": lambda c: _blend((30, 95, 45), (110, 180, 80), c.stripes(10, 4)),
    "moon": lambda c: _blend((178, 178, 174), (120, 120, 118), c.dots(15, 4.5)) + c.noise() * 4,
    "cookie": lambda c: _blend((200, 155, 95), (85, 50, 25), c.dots(10, 2.4)) + c.noise() * 5,
    "lavender": lambda c: _blend((140, 95, 185), (200, 170, 225), _mask(c.noise()[..., 0] > 0.8)),
    "sapphire": lambda c: _blend((25, 50, 170), (70, 120, 235), _mask(c.u % 16 > c.v % 16)),
}

STUFF: dict[str, Callable[[Canvas], FloatImage]] = {
    "grass": lambda c: _flat((70, 125, 50), c.noise((0.3, 1.8)) * 22),
    "sky": lambda c: _flat((135, 180, 230), c.noise((12, 12)) * 10),
    "sand": lambda c: _flat((205, 180, 130), c.noise() * 14),
    "water": lambda c: _flat((40, 95, 140), c.noise((5, 0.3)) * 20),
    "snow": lambda c: _flat((236, 240, 247), c.noise((6, 6)) * 5),
    "road": lambda c: _flat((95, 95, 98), c.noise() * 10),
}

CLASS_NAMES: tuple[str, ...] = (*STUFF, *THINGS)
"""Class names in label order: label `i` in a label map is `CLASS_NAMES[i]`."""


def texture(
    class_name: str,
    rng: np.random.Generator,
    size_hw: tuple[int, int],
    scale: float,
    world_hw: tuple[int, int] | None = None,
) -> FloatImage:
    """Draw one instance of a class: RGB float32 (h,w,3), about 0..255, colour jittered per instance.

    `world_hw` is the size in world pixels, `size_hw / scale` rounded up unless told.

    Raises:
        KeyError: `class_name` is not in `CLASS_NAMES`.
    """
    draw = THINGS[class_name] if class_name in THINGS else STUFF[class_name]
    tint = rng.uniform(0.88, 1.1, 3).astype(np.float32)
    world = world_hw or (int(np.ceil(size_hw[0] / scale)), int(np.ceil(size_hw[1] / scale)))
    return (draw(Canvas(rng, size_hw, scale, world)) * tint).astype(np.float32)
