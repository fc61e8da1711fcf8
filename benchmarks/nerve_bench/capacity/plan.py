"""How many replicas some streams need, what they wait there, what crosses the network, and what a replica holds."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nerve_bench.capacity.queueing import shared_queue_wait_s
from nerve_bench.capacity.replica import Replica, enough_draws
from nerve_runtime.errors import UsageError

Record = Mapping[str, Any]
FAILED_SHARE = 0.01
SEEDS, SECONDS = range(20), 60.0
FRAMES = 60_000
"""Enough for a p99: 600 frames lie beyond it."""
BITS = 8
MEGA, GIGA = 1e6, 1e9
HOURS_A_DAY = 24


@dataclass(frozen=True, slots=True)
class Goal:
    """What is asked of a fleet.

    Attributes:
        fps: frames a second of each stream.
        p99_ms: most that the slowest hundredth of the frames may take, from arrival to result.
        dropped_percent: most frames that may be dropped.
        utilisation: share of its capacity to which a replica is filled at most, 0 to 1.
        price_per_hour: of one replica, in any currency; None where none is known.
    """

    fps: float = 10.0
    p99_ms: float = 200.0
    dropped_percent: float = 1.0
    utilisation: float = 0.8
    price_per_hour: float | None = None


@dataclass(frozen=True, slots=True)
class StreamBytes:
    """What one frame and one stream weigh, in bytes; None where nobody measured it."""

    encoded: float | None = None
    raw: float | None = None
    working: float | None = None
    labels_png: float | None = None
    state: float | None = None


def streams_per_replica(replica: Replica, goal: Goal) -> tuple[int, str]:
    """The most streams with which a simulated replica meets the goal, and what forbids one more: utilisation, p99 or drops.

    Raises:
        UsageError: it cannot serve one.
    """
    most = math.floor(goal.utilisation * replica.times.capacity_fps * _batch_gain(replica) / goal.fps + 1e-9)
    figures: dict[str, Any] = {}
    limit = "utilisation"
    for streams in range(most, 0, -1):
        figures = settled_figures(replica, streams, goal.fps)
        if figures["p99_ms"] <= goal.p99_ms and figures["dropped_percent"] <= goal.dropped_percent:
            return streams, limit
        limit = "p99" if figures["p99_ms"] > goal.p99_ms else "drops"
    capacity = f"a replica does {replica.times.capacity_fps:.1f} frames a second"
    said = (
        f"one stream alone has p99 {figures['p99_ms']:.0f} ms and drops {figures['dropped_percent']:.1f} %"
        if figures
        else capacity
    )
    raise UsageError(
        f"no replica can serve one stream of {goal.fps:g} fps within p99 {goal.p99_ms:g} ms, {goal.dropped_percent:g} % drops and "
        f"utilisation {goal.utilisation:g}: {said}; ask for less, or for fewer frames a second"
    )


def settled_figures(replica: Replica, streams: int, fps: float) -> dict[str, Any]:
    """Figures of a replica that has had these streams for long."""
    return replica.settled(streams, fps, SECONDS, enough_draws(SEEDS, streams * fps * SECONDS, FRAMES))


def _batch_gain(replica: Replica) -> float:
    return 1 / replica.times.batch_share(replica.batch)


def plan_records(
    replica: Replica, goal: Goal, stream_counts: Iterable[int], weights: StreamBytes
) -> Iterator[dict[str, Any]]:
    """Yield a plan for each number of streams.

    Streams are spread evenly and stay where they are. The spare replicas serve like the others; `failed_*` are figures of
    a replica when as many as there are spare have died, and their streams have moved and settled.

    Raises:
        UsageError: one replica cannot serve one stream.
    """
    most, limit = streams_per_replica(replica, goal)
    for streams in stream_counts:
        needed = math.ceil(streams / most)
        spare = max(1, math.ceil(FAILED_SHARE * needed))
        usual, failed = math.ceil(streams / (needed + spare)), math.ceil(streams / needed)
        yield {
            "bench": "capacity_plan",
            "streams": streams,
            "service": "assumed" if replica.times.assumed else "measured",
            "policy": replica.policy,
            "fps": goal.fps,
            "offered_fps": streams * goal.fps,
            "capacity_fps": round(replica.times.capacity_fps, 2),
            "streams_per_replica": most,
            "limited_by": limit,
            "needed": needed,
            "spare": spare,
            "replicas": needed + spare,
            **_figures("", replica, usual, goal),
            **_figures("failed_", replica, failed, goal),
            **_shared(replica, streams, needed + spare, goal),
            **_network(streams * goal.fps, weights),
            **_costs(needed + spare, failed, goal, weights),
        }


def _figures(prefix: str, replica: Replica, streams: int, goal: Goal) -> dict[str, Any]:
    found = settled_figures(replica, streams, goal.fps)
    names = ("p50_ms", "p99_ms", "dropped_percent", "busy_percent")
    return {f"{prefix}streams": streams} | {f"{prefix}{name}": found[name] for name in names} if prefix else {
        "usual_streams": streams, **{name: found[name] for name in names},
    }  # fmt: skip


def _shared(replica: Replica, streams: int, replicas: int, goal: Goal) -> dict[str, float]:
    """What the queueing estimate says of these replicas, each with its own streams, and behind one queue for all."""
    times = replica.times
    load = streams * goal.fps / (replicas * times.capacity_fps)
    alone_s, shared_s = (
        shared_queue_wait_s(load, times.mean_s, times.scv, servers=servers) for servers in (1, replicas)
    )
    return {
        "load": round(load, 3),
        "estimate_wait_ms": round(1000 * alone_s, 3),
        "estimate_shared_wait_ms": round(1000 * shared_s, 3),
    }


def _network(frames_a_second: float, weights: StreamBytes) -> dict[str, float | None]:
    """Megabits a second over the whole fleet, into it in three forms and out of it."""

    def megabits(frame_bytes: float | None) -> float | None:
        return None if frame_bytes is None else round(frame_bytes * BITS * frames_a_second / MEGA, 3)

    return {
        "in_encoded_mbit": megabits(weights.encoded),
        "in_raw_mbit": megabits(weights.raw),
        "in_working_mbit": megabits(weights.working),
        "out_png_mbit": megabits(weights.labels_png),
    }


def _costs(replicas: int, streams: int, goal: Goal, weights: StreamBytes) -> dict[str, float | None]:
    hours = replicas * HOURS_A_DAY
    price = goal.price_per_hour
    return {
        "state_mb_per_replica": None if weights.state is None else round(weights.state * streams / MEGA, 1),
        "replica_hours_a_day": hours,
        "price_a_day": None if price is None else round(hours * price, 2),
    }


def stream_bytes(
    records: Iterable[Record],
    fps: float,
    bitrate_mbit: float | None,
    frame_hw: tuple[int, int] | None,
    state_mb: float | None,
) -> StreamBytes:
    """From the records of `nerve-bench load`, and from what was given instead.

    A size of frames that was given says nothing about its encoded bytes; a bit rate does.
    """
    kept = list(records)
    network = next((record for record in kept if record.get("bench") == "load_network"), {})
    state = next((record for record in kept if record.get("bench") == "load_state"), {})
    measured_encoded = network.get("encoded_bytes") if frame_hw is None else None
    return StreamBytes(
        encoded=measured_encoded if bitrate_mbit is None else bitrate_mbit * MEGA / BITS / fps,
        raw=network.get("raw_bytes") if frame_hw is None else 3 * frame_hw[0] * frame_hw[1],
        working=network.get("working_bytes"),
        labels_png=network.get("labels_png_bytes") if frame_hw is None else None,
        state=state.get("bytes_per_stream") if state_mb is None else state_mb * MEGA,
    )
