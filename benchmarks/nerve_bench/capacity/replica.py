"""One simulated replica with its streams, and the figures that are read off its runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerve_bench.capacity.arrivals import FloatArray, IntArray, camera_arrivals
from nerve_bench.capacity.service import ServiceTimes, StreamService, random_ages
from nerve_bench.capacity.simulation import BoundedFifo, NewestOfEach, SimulatedRun, WaitingFrames, simulate

PERCENTILES = (50, 90, 99)
LEAST_DRAWS = 4


def enough_draws(most: range, frames_of_one: float, frames: int) -> range:
    """As many draws of a run as give so many frames, four at least: with many streams one run tells more."""
    return most[: max(LEAST_DRAWS, math.ceil(frames / max(1.0, frames_of_one)))]


@dataclass(frozen=True, slots=True)
class Replica:
    """How a replica treats frames.

    Attributes:
        times: what frames take.
        policy: "newest" or "fifo".
        bound: frames that may wait under policy fifo.
        jitter: as in `camera_frames`.
        batch: most frames that are taken at once.
    """

    times: ServiceTimes
    policy: str = "newest"
    bound: int = 8
    jitter: float = 0.2
    batch: int = 1

    def waiting(self, streams: int) -> WaitingFrames:
        """An empty queue of its policy."""
        return NewestOfEach(streams) if self.policy == "newest" else BoundedFifo(self.bound)

    def run(
        self,
        arrival_s: FloatArray,
        stream: IntArray,
        fps: float,
        ages: Sequence[int | None],
        seed: int | tuple[int, ...],
        *,
        staggered: bool = False,
    ) -> tuple[SimulatedRun, StreamService]:
        """Let these frames through; see `StreamService` for the ages."""
        service = StreamService(self.times, fps, ages, seed, staggered=staggered)
        return simulate(arrival_s, stream, service, self.waiting(len(ages)), batch=self.batch), service

    def settled(self, streams: int, fps: float, seconds: float, seeds: range) -> dict[str, Any]:
        """Figures of streams that have been here for long, their keyframes not in step."""
        outcome = Outcome()
        for seed in seeds:
            arrival_s, stream = camera_arrivals(streams, fps, seconds, jitter=self.jitter, seed=seed)
            ages = random_ages(streams, self.times.cadence.every, np.random.default_rng((seed, 1)))
            run, service = self.run(arrival_s, stream, fps, ages, (seed, 2))
            outcome.add(run, service, from_s=self.times.cadence.every / fps)
        return outcome.figures()


class Outcome:
    """Figures over several runs; frames that came before `from_s` of their run are left out."""

    def __init__(self) -> None:
        self._latencies_s: list[FloatArray] = []
        self._offered = self._dropped = self._keyframes = self._taken = 0
        self._busy_s = self._seconds = 0.0

    def add(self, run: SimulatedRun, service: StreamService, *, from_s: float) -> None:
        """Count a run."""
        own: NDArray[np.bool_] = run.arrival_s >= from_s
        latency_s = run.latency_s[own]
        self._latencies_s.append(latency_s[np.isfinite(latency_s)])
        self._offered += int(own.sum())
        self._dropped += int(run.dropped[own].sum())
        self._keyframes += service.keyframes
        self._taken += service.taken
        self._busy_s += run.busy_s
        self._seconds += run.seconds

    def figures(self) -> dict[str, Any]:
        """Mean and percentiles of latency in milliseconds, drops, utilisation and keyframes in percent."""
        latencies_ms = 1000 * np.concatenate(self._latencies_s)
        found = np.percentile(latencies_ms, PERCENTILES) if len(latencies_ms) else [math.nan] * len(PERCENTILES)
        return {
            "mean_ms": round(float(latencies_ms.mean()), 3),
            **{f"p{share}_ms": round(float(value), 3) for share, value in zip(PERCENTILES, found, strict=True)},
            "dropped_percent": round(100 * self._dropped / self._offered, 3),
            "busy_percent": round(100 * self._busy_s / self._seconds, 1),
            "keyframe_percent": round(100 * self._keyframes / self._taken, 2),
            "n": len(latencies_ms),
        }
