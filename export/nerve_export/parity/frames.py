"""Seeded pictures that reference and bundle are compared on."""

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.errors import UsageError

FRAMES = 4
"""Frames of a comparison where nobody asks for another number."""
REGIONS = 6


def parity_frames(size_hw: tuple[int, int], count: int = FRAMES) -> list[NDArray[np.uint8]]:
    """Seeded frames uint8 (H,W,3): patchworks of textured regions, as a walk likes them; no two the same."""
    height, width = size_hw
    y, x = np.mgrid[0:height, 0:width]
    frames = []
    for seed in range(count):
        rng = np.random.default_rng([8248, seed])
        centers = rng.uniform(0, 1, (REGIONS, 2)) * size_hw
        region = np.argmin((y[..., None] - centers[:, 0]) ** 2 + (x[..., None] - centers[:, 1]) ** 2, axis=-1)
        colors, tilts = rng.uniform(20, 235, (REGIONS, 3)), rng.uniform(-0.9, 0.9, (REGIONS, 2))
        waves = (
            np.sin(y * tilts[region, 0] + x * tilts[region, 1])[..., None] * rng.uniform(0, 50, (REGIONS, 1))[region]
        )
        noise = rng.normal(0, 8, (height, width, 3))
        frames.append(np.clip(colors[region] + waves + noise, 0, 255).astype(np.uint8))
    return frames


def chain_frames(size_hw: tuple[int, int], frames: int) -> list[NDArray[np.uint8]]:
    """A short video uint8 (H,W,3): the first parity frame, then `frames` - 1 (at least one) that drift away from it.

    Warm frames see the keyframe's picture drift towards another: a warm walk across a cut means nothing.

    Raises:
        UsageError: `frames` is below 1.
    """
    if frames < 1:
        raise UsageError(f"--frames is {frames}, expected 1 or more (1: a keyframe and one warm frame)")
    first, *others = parity_frames(size_hw, max(2, frames))
    return [first, *((0.9 * first + 0.1 * other).astype(np.uint8) for other in others)]
