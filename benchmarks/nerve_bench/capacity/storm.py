"""What happens when replicas die: their streams move, and each begins on its new replica with a keyframe.

A stream's state lies on its replica and is lost with it. Nothing is lost for good by that, but a keyframe takes several
times what a frame between takes, all moved streams need one at once, and counted from then on their keyframes stay in step.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nerve_bench.capacity.arrivals import FloatArray, camera_arrivals
from nerve_bench.capacity.plan import Goal, settled_figures
from nerve_bench.capacity.replica import Replica, enough_draws
from nerve_bench.capacity.service import random_ages

SEEDS = range(100)
FRAMES = 300_000
LENGTH_S = 60.0
BEFORE_S = 5.0
WINDOW_S = 1.0
BACK_WITHIN = 1.25
DROPS_WITHIN_POINTS = 1.0
IN_A_ROW = 5
"""All is back from the first of so many seconds in a row whose p99 and dropped share are within these of what the same
streams have for long; a single late second after that is chance."""


@dataclass(frozen=True, slots=True)
class Storm:
    """One replica that streams move to.

    Attributes:
        name: what died and where its streams went.
        staying: streams that were there before.
        moved: streams that come, all at the same moment.
        staggered: their second keyframes are spread at random; a what-if, nothing does that yet.
    """

    name: str
    staying: int
    moved: int
    staggered: bool = False


def storms_of(streams: int, replicas: int) -> list[Storm]:
    """The storms of a fleet whose streams are spread evenly: on the replica that gets most.

    One dies and the others take its streams; one dies and another, empty one takes them all, as it is and with
    keyframes spread; half of all die and the others take their streams.
    """
    usual = math.ceil(streams / replicas)
    one = Storm("one dies, an empty one takes its streams", 0, usual)
    storms = [one, replace(one, name="the same, second keyframes spread", staggered=True)]
    if replicas == 1:
        return storms
    half = replicas // 2
    among = Storm("one dies, the others take its streams", usual, math.ceil(usual / (replicas - 1)))
    return [
        among,
        *storms,
        Storm("half die, the others take their streams", usual, math.ceil(usual * half / (replicas - half))),
    ]


def storm_records(
    replica: Replica, goal: Goal, fleets: Iterable[tuple[int, int]], moving_s: float
) -> Iterator[dict[str, Any]]:
    """Yield a record of each storm of each fleet, given as streams and replicas.

    Args:
        replica: how replicas work.
        goal: says how many frames a second streams have.
        fleets: pairs of streams and replicas.
        moving_s: from the death of a replica until its streams arrive elsewhere; their frames meanwhile are lost.
    """
    known: dict[Storm, dict[str, Any]] = {}
    for streams, replicas in fleets:
        for storm in storms_of(streams, replicas):
            if storm not in known:  # large fleets have the same storms, and each takes seconds
                known[storm] = storm_figures(replica, storm, goal.fps)
            yield {
                "bench": "capacity_storm",
                "streams": streams,
                "replicas": replicas,
                "service": "assumed" if replica.times.assumed else "measured",
                "storm": storm.name,
                "staying": storm.staying,
                "moved": storm.moved,
                "moving_s": moving_s,
                "lost_frames_per_stream": round(moving_s * goal.fps, 1),
                **known[storm],
            }


def storm_figures(replica: Replica, storm: Storm, fps: float) -> dict[str, Any]:
    """p99 of each second around the moment at which the streams arrive, over many draws, and when it is back."""
    count = storm.staying + storm.moved
    seconds = int(LENGTH_S / WINDOW_S)
    windows: list[list[FloatArray]] = [[] for _ in range(seconds)]
    offered, dropped = np.zeros(seconds), np.zeros(seconds)
    for seed in enough_draws(SEEDS, count * fps * LENGTH_S, FRAMES):
        arrival_s, stream = camera_arrivals(count, fps, BEFORE_S + LENGTH_S, jitter=replica.jitter, seed=seed)
        kept = (stream < storm.staying) | (arrival_s >= BEFORE_S)
        arrival_s, stream = arrival_s[kept], stream[kept]
        ages = random_ages(storm.staying, replica.times.cadence.every, np.random.default_rng((seed, 1)))
        run, _ = replica.run(
            arrival_s, stream, fps, [*ages, *[None] * storm.moved], (seed, 2), staggered=storm.staggered
        )
        second = np.floor((arrival_s - BEFORE_S) / WINDOW_S).astype(int)
        for number in range(seconds):
            own = second == number
            offered[number] += own.sum()
            dropped[number] += run.dropped[own].sum()
            latency_s = run.latency_s[own]
            windows[number].append(latency_s[np.isfinite(latency_s)])
    tails_ms = [1000 * float(np.percentile(np.concatenate(window), 99)) for window in windows]
    settled = settled_figures(replica, count, fps)
    limit_ms = BACK_WITHIN * settled["p99_ms"]
    drops = 100 * dropped / offered
    most_dropped = settled["dropped_percent"] + DROPS_WITHIN_POINTS
    good = [tails_ms[number] <= limit_ms and drops[number] <= most_dropped for number in range(seconds)]
    back_s = first_of_a_row(good)
    return {
        "settled_p99_ms": settled["p99_ms"],
        "settled_dropped_percent": settled["dropped_percent"],
        "first_p99_ms": round(tails_ms[0], 1),
        "worst_p99_ms": round(max(tails_ms), 1),
        "first_dropped_percent": round(float(drops[0]), 2),
        "back_s": back_s,
        "back": f"not within {LENGTH_S:.0f} s" if back_s is None else f"{back_s} s",
        "p99_by_second": {str(number): round(tail_ms, 1) for number, tail_ms in enumerate(tails_ms)},
    }


def first_of_a_row(good: Sequence[bool]) -> int | None:
    """The first second from which `IN_A_ROW` in a row are good, None where there is none.

    >>> first_of_a_row([True, False, True, True, True, True, True, False])
    2
    """
    starts = range(len(good) - IN_A_ROW + 1)
    return next((start for start in starts if all(good[start : start + IN_A_ROW])), None)
