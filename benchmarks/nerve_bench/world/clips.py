"""Moving scenes with the truth of every frame: motion, occlusion, camera pan, cuts."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nerve_bench.world.scenes import WORLD_PX, Sprite, background, expose, light, make_sprite, paste, scene_rng
from nerve_bench.world.textures import FloatImage
from nerve_runtime.opencv import cv2, opencv_path

PAN_MARGIN = 0.5
"""How much more background than frame there is on each side, as a share of the frame."""


@dataclass(frozen=True, slots=True)
class MovingFrame:
    """One frame of a clip with its truth.

    Attributes:
        rgb: uint8 (H,W,3).
        labels: uint8 (H,W), index into `CLASS_NAMES`.
        cut: true on the first frame of a shot.
        surfaces: uint8 (H,W), which surface a pixel shows: 0 what is behind, then the bodies in the order of painting.
        motion_yx: float64 (n,2), by how many pixels each surface has moved in the picture since the frame before;
            zeros on the first frame of a shot.
    """

    rgb: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    cut: bool
    surfaces: NDArray[np.uint8]
    motion_yx: NDArray[np.float64]

    def came_from(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Row and column, (H,W) each, of every pixel's surface point in the frame before; may lie outside of it."""
        rows, columns = np.indices(self.labels.shape)
        shift = np.round(self.motion_yx).astype(np.intp)[self.surfaces]
        return rows - shift[..., 0], columns - shift[..., 1]


@dataclass(slots=True)
class _Body:
    sprite: Sprite
    center_yx: NDArray[np.float64]
    velocity_yx: NDArray[np.float64]


@dataclass(slots=True)
class _Shot:
    canvas: FloatImage
    labels: NDArray[np.uint8]
    bodies: list[_Body]
    light: FloatImage
    pan_yx: NDArray[np.float64]
    size_px: int

    def render(self, rng: np.random.Generator, time: int) -> MovingFrame:
        """Draw the shot `time` frames after its start, with fresh sensor noise."""
        places_yx = self._places_yx(time)
        window = tuple(slice(-int(place), self.size_px - int(place)) for place in places_yx[0])
        canvas, labels = self.canvas[window].copy(), self.labels[window].copy()
        surfaces = np.zeros_like(labels)
        for number, (body, place) in enumerate(zip(self.bodies, places_yx[1:], strict=True), start=1):
            surfaces[paste(body.sprite, canvas, labels, (float(place[0]), float(place[1])))] = number
        rgb = expose(canvas * self.light, rng, self.size_px / WORLD_PX)
        return MovingFrame(rgb, labels, time == 0, surfaces, places_yx - self._places_yx(max(0, time - 1)))

    def _places_yx(self, time: int) -> NDArray[np.float64]:
        """Where in the frame the canvas's corner and the centres of the bodies are, pixels (1 + bodies, 2)."""
        room = PAN_MARGIN * self.size_px
        corner = np.round(room + room * np.sin(self.pan_yx * time / room))
        centers = [
            _bounce(body.center_yx + body.velocity_yx * time, self.size_px) + room - corner for body in self.bodies
        ]
        return np.stack([-corner, *centers])


def moving_scene(seed: int, frames: int = 120, *, size_px: int = WORLD_PX, cuts: int = 1) -> Iterator[MovingFrame]:
    """Play the clip with this seed, frame by frame.

    Things move up to 5 world pixels a frame (a token of the tiny model is 4), overlap and bounce; in most shots the
    camera pans; the light stays with the camera.

    Args:
        seed: one of `SEEDS["clips"]` for figures, of `SEEDS["train"]` otherwise.
        frames: number of frames.
        size_px: side of the square frame in pixels.
        cuts: number of cuts, evenly spread; each starts a new shot.
    """
    rng = scene_rng(seed)
    starts = {round(k * frames / (cuts + 1)) for k in range(cuts + 1)}
    shot, since = _make_shot(rng, size_px), 0
    for index in range(frames):
        if index in starts and index:
            shot, since = _make_shot(rng, size_px), index
        yield shot.render(rng, index - since)


def _make_shot(rng: np.random.Generator, size_px: int) -> _Shot:
    scale = size_px / WORLD_PX
    wide_world = round(WORLD_PX * (1 + 2 * PAN_MARGIN)) + 2
    wide = int(np.ceil(wide_world * scale))
    canvas, labels = background(rng, (wide, wide), scale, (wide_world, wide_world))
    bodies = []
    for _ in range(int(rng.integers(2, 5))):
        speed, heading = rng.uniform(0.3, 5.0) * rng.choice([0.25, 1.0]), rng.uniform(0, 2 * np.pi)
        sprite = make_sprite(rng, rng.uniform(14, 38), scale)
        velocity = speed * scale * np.array([np.sin(heading), np.cos(heading)])
        bodies.append(_Body(sprite, rng.uniform(0.2, 0.8, 2) * size_px, velocity))
    pan = scale * rng.uniform(-2, 2, 2) * np.array([0.5, 1.0]) * (rng.random() < 0.7)
    return _Shot(canvas, labels, bodies, light(rng, (size_px, size_px)), pan, size_px)


def _bounce(position: NDArray[np.float64], side: float) -> NDArray[np.float64]:
    """Fold an unbounded position into 0..side, as a body that bounces off the walls."""
    return np.asarray(side - np.abs(position % (2 * side) - side))


def write_video(frames: Iterator[MovingFrame], path: str, fps: float) -> int:
    """Write a clip's pictures as an mp4 (mp4v) at `fps` and return the number of frames.

    Raises:
        OSError: the file cannot be opened for writing.
    """
    writer, count = None, 0
    try:
        for frame in frames:
            if writer is None:
                size_wh = frame.rgb.shape[1::-1]
                writer = cv2.VideoWriter(opencv_path(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size_wh)
                if not writer.isOpened():
                    raise OSError(f"cannot open {path} for writing; is its folder there and writable?")
            writer.write(frame.rgb[..., ::-1])
            count += 1
    finally:
        if writer is not None:
            writer.release()
    return count
