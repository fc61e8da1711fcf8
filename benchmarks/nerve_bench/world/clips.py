"""Moving scenes with the truth of every frame: motion, occlusion, camera pan, cuts."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nerve_bench.world.scenes import (
    CLASS_NAMES,
    WORLD_PX,
    Sprite,
    background,
    expose,
    light,
    make_sprite,
    paste,
    scene_rng,
)
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
        motion: float64 (n,2,3), for each surface the affine map from (row, column, 1) in this picture to row and
            column in the frame before; the identity on the first frame of a shot.
    """

    rgb: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    cut: bool
    surfaces: NDArray[np.uint8]
    motion: NDArray[np.float64]

    def came_from(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Row and column, (H,W) each, of every pixel's surface point in the frame before; may lie outside of it."""
        rows, columns = np.indices(self.labels.shape)
        here = np.stack([rows, columns, np.ones_like(rows)], axis=-1)[..., None]
        before = np.round((self.motion[self.surfaces] @ here)[..., 0]).astype(np.intp)
        return before[..., 0], before[..., 1]


FLYING = ("rocket", "parrot", "airplane", "butterfly", "helicopter", "balloon", "owl", "bee")
ROLLING = ("apple", "soccer ball", "doughnut", "watermelon", "lemon", "orange", "cookie")
BOB_PX, BOB_FRAMES = 1.2, 9.0
"""How high things walk, world pixels, and how many frames a step takes."""


@dataclass(slots=True)
class _Body:
    """A thing on its way; flying ones swing to the sides, rolling ones turn, all others walk (and bob)."""

    sprite: Sprite
    center_yx: NDArray[np.float64]
    velocity_yx: NDArray[np.float64]
    swing_yx: NDArray[np.float64]
    swing_frames: float
    radius_px: float | None = None

    def pose(self, time: int, side_px: int) -> tuple[float, float, float]:
        """Row, column and turn (radians, counter-clockwise) after `time` frames, with a still camera."""
        swing = self.swing_yx * np.sin(2 * np.pi * time / self.swing_frames)
        row, column = _bounce(self.center_yx + self.velocity_yx * time + swing, side_px)
        turn = -column / self.radius_px if self.radius_px else 0.0
        return float(row), float(column), float(turn)


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
        poses, before = self._poses(time), self._poses(max(0, time - 1))
        window = tuple(slice(-int(place), self.size_px - int(place)) for place in poses[0][:2])
        canvas, labels = self.canvas[window].copy(), self.labels[window].copy()
        surfaces = np.zeros_like(labels)
        for number, (body, (row, column, turn)) in enumerate(zip(self.bodies, poses[1:], strict=True), start=1):
            surfaces[paste(body.sprite, canvas, labels, (row, column), turn)] = number
        rgb = expose(canvas * self.light, rng, self.size_px / WORLD_PX)
        motion = np.stack([_motion(old, new) for old, new in zip(before, poses, strict=True)])
        return MovingFrame(rgb, labels, time == 0, surfaces, motion)

    def _poses(self, time: int) -> list[tuple[float, float, float]]:
        """Row, column (pixels) and turn of the canvas's corner and of the centres of the bodies, in the frame."""
        room = PAN_MARGIN * self.size_px
        corner = np.round(room + room * np.sin(self.pan_yx * time / room))
        shift_y, shift_x = room - corner
        poses = [(-float(corner[0]), -float(corner[1]), 0.0)]
        for body in self.bodies:
            row, column, turn = body.pose(time, self.size_px)
            poses.append((row + float(shift_y), column + float(shift_x), turn))
        return poses


def _motion(old: tuple[float, float, float], new: tuple[float, float, float]) -> NDArray[np.float64]:
    """Affine map (2,3) from (row, column, 1) of a surface point in the new picture to where it was in the old one."""
    turn = old[2] - new[2]
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.column_stack([rotation, np.array(old[:2]) - rotation @ np.array(new[:2])])


def moving_scene(seed: int, frames: int = 120, *, size_px: int = WORLD_PX, cuts: int = 1) -> Iterator[MovingFrame]:
    """Play the clip with this seed, frame by frame.

    Things walk, roll or fly up to 5 world pixels a frame (a token of the tiny model is 4), overlap and bounce; in most
    shots the camera pans; the light stays with the camera.

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
    bodies = [_make_body(rng, size_px) for _ in range(int(rng.integers(2, 5)))]
    pan = scale * rng.uniform(-2, 2, 2) * np.array([0.5, 1.0]) * (rng.random() < 0.7)
    return _Shot(canvas, labels, bodies, light(rng, (size_px, size_px)), pan, size_px)


def _make_body(rng: np.random.Generator, size_px: int) -> _Body:
    """A random thing with the way of moving that its kind has."""
    scale = size_px / WORLD_PX
    radius = rng.uniform(14, 34)
    sprite = make_sprite(rng, radius, scale)
    name = CLASS_NAMES[sprite.label]
    center = rng.uniform(0.2, 0.8, 2) * size_px
    speed, heading = rng.uniform(0.3, 5.0) * rng.choice([0.25, 1.0]), rng.uniform(0, 2 * np.pi)
    direction, swing, swing_frames = np.array([np.sin(heading), np.cos(heading)]), np.zeros(2), BOB_FRAMES
    if name in FLYING:
        swing, swing_frames = 6 * direction[::-1] * (1, -1), rng.uniform(20, 40)
    else:
        direction = np.array([0.15 * direction[0], np.sign(direction[1])])
        swing = np.array([0.0 if name in ROLLING else BOB_PX, 0.0])
    return _Body(
        sprite,
        center,
        speed * scale * direction,
        swing * scale,
        swing_frames,
        radius * scale if name in ROLLING else None,
    )


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
