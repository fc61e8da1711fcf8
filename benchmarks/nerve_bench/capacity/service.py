"""What frames take: samples of keyframes and of frames between, and when a stream has a keyframe."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nerve_bench.capacity.arrivals import FloatArray
from nerve_runtime.errors import UsageError

KINDS = ("keyframe", "follow")
DRAWN_AT_ONCE = 1024
LEAST_MS = 0.1
"""Of a frame: 10,000 a second, with which a plan takes a minute. With 0.01 ms it takes many, with 1e-9 ms all memory."""
Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Cadence:
    """When a stream has a keyframe, as `nerve_runtime.Temporal` decides it.

    Attributes:
        every: attention is never older than so many frames.
        longest_s: nor older than so many seconds.
        early: share of the frames between that become keyframes because the picture has moved too far, by how many
            frames of the camera lie between two that are taken: dropped frames make motion larger.
    """

    every: int = 10
    longest_s: float = 2.0
    early: Mapping[int, float] = field(default_factory=dict)

    def early_share(self, stride: float) -> float:
        """The share at a stride, between two that were measured in proportion."""
        if not self.early:
            return 0.0
        strides = sorted(self.early)
        return float(np.interp(stride, strides, [self.early[key] for key in strides]))

    @property
    def keyframe_share(self) -> float:
        """Share of keyframes where no frame is dropped and the count alone or motion decides."""
        goes_on = 1 - self.early_share(1)
        return 1 / sum(goes_on**age for age in range(self.every))


@dataclass(frozen=True, slots=True)
class ServiceTimes:
    """What frames take, each alone on its replica.

    Attributes:
        keyframe_s: samples of keyframes, float64 (n,).
        follow_s: samples of frames between, float64 (n,).
        cadence: when each comes.
        assumed: they were given, not measured.
        batch_shares: for each batch size what a frame takes in it against one alone; {1: 1.0} where nothing is batched.
    """

    keyframe_s: FloatArray
    follow_s: FloatArray
    cadence: Cadence = field(default_factory=Cadence)
    assumed: bool = False
    batch_shares: Mapping[int, float] = field(default_factory=lambda: {1: 1.0})

    @property
    def mean_s(self) -> float:
        """Of a stream that loses no frame."""
        share = self.cadence.keyframe_share
        return float(share * self.keyframe_s.mean() + (1 - share) * self.follow_s.mean())

    @property
    def scv(self) -> float:
        """Variance over the squared mean, of a stream that loses no frame."""
        share = self.cadence.keyframe_share
        square = share * (self.keyframe_s**2).mean() + (1 - share) * (self.follow_s**2).mean()
        return float(square / self.mean_s**2 - 1)

    @property
    def capacity_fps(self) -> float:
        """Frames a second of a replica that never waits."""
        return 1 / self.mean_s

    def batch_share(self, frames: int) -> float:
        """What each of so many frames takes together against alone; sizes between are in proportion."""
        sizes = sorted(self.batch_shares)
        return float(np.interp(frames, sizes, [self.batch_shares[size] for size in sizes]))


def measured_service(records: Iterable[Record]) -> ServiceTimes:
    """The service times of the records of `nerve-bench load`.

    Raises:
        UsageError: there are none.
    """
    kept = list(records)
    samples = {record["kind"]: record["samples_ms"] for record in kept if record.get("bench") == "load_service"}
    rules = [record for record in kept if record.get("bench") == "load_cadence"]
    if set(samples) != set(KINDS) or not rules:
        raise UsageError(
            "there are no records of service times; run: nerve-bench load --json > out/evidence/load.jsonl"
        )
    early = {int(record["stride"]): float(record["early_percent"]) / 100 for record in rules}
    cadence = Cadence(int(rules[0]["keyframe_every"]), float(rules[0]["longest_s"]), early)
    keyframe, follow = (np.asarray(samples[kind], dtype=np.float64) / 1000 for kind in KINDS)
    return ServiceTimes(keyframe, follow, cadence, batch_shares=_batch_shares(kept))


def _batch_shares(records: Sequence[Record]) -> dict[int, float]:
    """From the records of `nerve-bench batch`: what a frame takes in a run of several against one alone.

    They are of unrelated frames, each a keyframe; frames between are taken to gain as much, though no runtime of ours
    takes them together.
    """
    batches = [record for record in records if record.get("bench") == "batch"]
    return {1: 1.0} | {int(record["batch"]): 1 / record["ratio_to_one"] for record in batches}


def assumed_service(words: str, cadence: Cadence) -> ServiceTimes:
    """Constant service times from words such as "keyframe=40,follow=5", in milliseconds.

    Raises:
        UsageError: they do not say both, not in numbers, or in less than `LEAST_MS`.
    """
    given: dict[str, float] = {}
    for word in words.split(","):
        name, _, number = word.strip().partition("=")
        try:
            given[name] = float(number)
        except ValueError:
            given[name] = math.nan
    if set(given) != set(KINDS) or not all(0 < value < math.inf for value in given.values()):
        raise UsageError(
            f"--service-ms is {words!r}, expected milliseconds of both kinds, such as keyframe=40,follow=5"
        )
    if min(given.values()) < LEAST_MS:
        raise UsageError(f"--service-ms is {words!r}, expected {LEAST_MS} ms or more for each kind")
    keyframe, follow = (np.array([given[kind] / 1000]) for kind in KINDS)
    return ServiceTimes(keyframe, follow, cadence, assumed=True)


class _Draws:
    """Samples drawn again and again, with repetition."""

    def __init__(self, samples: FloatArray, rng: np.random.Generator) -> None:
        self._samples, self._rng = samples, rng
        self._left: list[float] = []

    def next(self) -> float:
        if not self._left:
            self._left = self._rng.choice(self._samples, DRAWN_AT_ONCE).tolist()
        return self._left.pop()


class StreamService:
    """What the frames of each stream take, for `simulate`: a `BatchSeconds` that remembers keyframes.

    Args:
        times: samples and cadence.
        fps: frames a second of each stream, which say how many were left out between two.
        ages: frames since its keyframe of each stream at the start; None for a stream that has no state here yet.
        seed: of samples and early keyframes.
        staggered: a stream without state counts from a random age after its first keyframe, as no runtime of ours does.

    Attributes:
        keyframes: how many there were.
        taken: how many frames there were.
    """

    def __init__(
        self,
        times: ServiceTimes,
        fps: float,
        ages: Sequence[int | None],
        seed: int | tuple[int, ...] = 0,
        *,
        staggered: bool = False,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.keyframes = self.taken = 0
        self._times, self._fps = times, fps
        self._draws = {kind: _Draws(getattr(times, f"{kind}_s"), rng) for kind in KINDS}
        self._chance = _Draws(rng.random(DRAWN_AT_ONCE), rng)
        self._rng = rng if staggered else None
        self._ages = list(ages)
        self._keyframe_s = [-(age or 0) / fps for age in ages]
        self._last_s: list[float | None] = [None] * len(ages)

    def __call__(self, streams: Sequence[int], now_s: float) -> float:
        """Seconds of these frames together."""
        alone_s = sum(self._draws[self._kind(stream, now_s)].next() for stream in streams)
        return alone_s * self._times.batch_share(len(streams)) if len(streams) > 1 else alone_s

    def _kind(self, stream: int, now_s: float) -> str:
        age, last_s = self._ages[stream], self._last_s[stream]
        self._last_s[stream] = now_s
        self.taken += 1
        if age is None or self._due(age + 1, now_s - self._keyframe_s[stream], last_s, now_s):
            self._ages[stream] = 0 if self._rng is None or age is not None else self._random_age(self._rng)
            self._keyframe_s[stream] = now_s
            self.keyframes += 1
            return "keyframe"
        self._ages[stream] = age + 1
        return "follow"

    def _random_age(self, rng: np.random.Generator) -> int:
        return int(rng.integers(self._times.cadence.every))

    def _due(self, age: int, age_s: float, last_s: float | None, now_s: float) -> bool:
        cadence = self._times.cadence
        if age >= cadence.every or age_s >= cadence.longest_s:
            return True
        stride = 1.0 if last_s is None else max(1.0, (now_s - last_s) * self._fps)
        return self._chance.next() < cadence.early_share(stride)


def random_ages(streams: int, every: int, rng: np.random.Generator) -> list[int | None]:
    """Ages of streams that have run for long and are not in step."""
    return [int(age) for age in rng.integers(0, every, streams)]
