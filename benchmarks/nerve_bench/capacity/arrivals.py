"""When the frames of cameras come: one schedule for the measured load and for the simulation of it."""

import numpy as np
from numpy.typing import NDArray

PHASE_FRAMES = 50
"""After so many frames a camera draws its phase anew, so that a curve is not that of one lucky set of phases."""

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]


def camera_frames(frames: int, fps: float, *, jitter: float, seed: int | tuple[int, int]) -> FloatArray:
    """Seconds at which one camera gives its frames, float64 (frames,), rising.

    Args:
        frames: how many.
        fps: frames a second.
        jitter: range in which a frame may be early or late, as a share of the period, 0 to 1: 0.2 is a tenth either way.
        seed: of phases and jitter.
    """
    rng = np.random.default_rng(seed)
    phases = rng.random(frames // PHASE_FRAMES + 1)[np.arange(frames) // PHASE_FRAMES]
    moved = jitter * (rng.random(frames) - 0.5)
    return np.sort(np.maximum(0.0, np.arange(frames) + phases + moved)) / fps


def camera_arrivals(
    cameras: int, fps: float, seconds: float, *, jitter: float, late_frames: int = 0, seed: int = 0
) -> tuple[FloatArray, IntArray]:
    """All frames of some cameras in the order in which they come: seconds, float64 (n,), and cameras, intp (n,).

    Args:
        cameras: how many, each with phases of its own.
        fps: frames a second of each.
        seconds: how long they run.
        jitter: as in `camera_frames`.
        late_frames: cameras begin at random within so many frames, so that their keyframes are not in step.
        seed: of everything that is random.
    """
    begins = np.random.default_rng((seed, cameras)).random(cameras) * late_frames / fps
    times, numbers = [], []
    for camera, begin_s in enumerate(begins):
        own = begin_s + camera_frames(int(np.ceil(seconds * fps)), fps, jitter=jitter, seed=(seed, camera))
        own = own[own < seconds]
        times.append(own)
        numbers.append(np.full(len(own), camera, dtype=np.intp))
    arrival_s, camera_of = np.concatenate(times), np.concatenate(numbers)
    order = np.argsort(arrival_s, kind="stable")
    return arrival_s[order], camera_of[order]
