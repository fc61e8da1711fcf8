"""Cameras without a network: frames prepared in memory, given out when they are due, whether or not anybody keeps up."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from nerve_bench.capacity.arrivals import FloatArray, camera_arrivals
from nerve_bench.world import SEEDS, moving_scene
from nerve_runtime.frames import Frame, resize_frame

NS_PER_S = 1_000_000_000
MILLI = 1000
CLIPS, CLIP_FRAMES = 4, 100
Pictures = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Camera:
    """One camera of a run.

    Attributes:
        name: tells it from the others.
        due_s: when its frames come, seconds from the start of the run, float64 (n,).
        pictures: uint8 (H, W, 3) each; played to and fro, so that no cut lies between two.
    """

    name: str
    due_s: FloatArray
    pictures: Pictures

    def picture(self, index: int) -> NDArray[np.uint8]:
        """What it sees in a frame."""
        turn = index % (2 * len(self.pictures) - 2)
        return self.pictures[min(turn, 2 * len(self.pictures) - 2 - turn)]

    def frames(self, start_ns: int) -> Iterator[Frame]:
        """The frames, each not before it is due; `arrived_ns` is when it was due, so that lateness of ours counts.

        Args:
            start_ns: of the run, in nanoseconds of the monotonic clock.
        """
        for index, due_s in enumerate(self.due_s.tolist()):
            due_ns = start_ns + round(due_s * NS_PER_S)
            time.sleep(max(0, due_ns - time.monotonic_ns()) / NS_PER_S)
            yield Frame(self.picture(index), index, Fraction(round(due_s * MILLI), MILLI), due_ns)


def synthetic_clips(size_hw: tuple[int, int]) -> list[Pictures]:
    """Moving scenes of the synthetic world, without cuts, drawn beforehand: `CLIPS` times `CLIP_FRAMES` frames."""
    seeds = SEEDS["clips"][:CLIPS]
    return [
        [resize_frame(frame.rgb, size_hw) for frame in moving_scene(seed, CLIP_FRAMES, size_px=max(size_hw), cuts=0)]
        for seed in seeds
    ]


def cameras_of(
    count: int, clips: Sequence[Pictures], fps: float, seconds: float, *, jitter: float, late_frames: int, seed: int
) -> list[Camera]:
    """Some cameras whose frames come as `camera_arrivals` says."""
    arrival_s, camera = camera_arrivals(count, fps, seconds, jitter=jitter, late_frames=late_frames, seed=seed)
    return [
        Camera(f"camera {number}", arrival_s[camera == number], clips[number % len(clips)]) for number in range(count)
    ]
