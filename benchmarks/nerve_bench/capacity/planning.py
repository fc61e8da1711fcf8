"""From the records of measured load to a comparison, plans and storms; says first what all of it assumes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nerve_bench.capacity.curve import DROP_TOLERANCE_POINTS, HIGH_LOAD, LATENCY_TOLERANCE, curve_record, load_records
from nerve_bench.capacity.plan import Goal, plan_records, stream_bytes
from nerve_bench.capacity.replica import Replica
from nerve_bench.capacity.service import Cadence, ServiceTimes, assumed_service, measured_service
from nerve_bench.capacity.storm import storm_records
from nerve_runtime.errors import UsageError

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What is given instead of measured; None takes what was measured.

    Attributes:
        policy, bound, batch: as in `Replica`.
        keyframe_every: frames.
        service_ms: as in `assumed_service`.
        bitrate_mbit: of one encoded stream.
        frame_hw: of raw frames.
        state_mb: of one stream on its replica.
        moving_s: from the death of a replica until its streams are elsewhere.
    """

    policy: str = "newest"
    bound: int = 8
    batch: int = 1
    keyframe_every: int | None = None
    service_ms: str | None = None
    bitrate_mbit: float | None = None
    frame_hw: tuple[int, int] | None = None
    state_mb: float | None = None
    moving_s: float = 2.0


def capacity_records(
    records: Sequence[Record],
    stream_counts: Sequence[int],
    goal: Goal,
    given: Assumptions,
    progress: Callable[..., Any],
) -> Iterator[dict[str, Any]]:
    """Yield the assumptions, the curve if nothing about service is assumed, the plans and the storms.

    Raises:
        UsageError: an option makes no sense, records are missing, or no replica can meet the goal.
    """
    if given.policy not in ("newest", "fifo"):
        raise UsageError(f"--policy is {given.policy!r}, expected newest or fifo")
    if not stream_counts or min(stream_counts) < 1:
        raise UsageError(f"--streams are {', '.join(map(str, stream_counts)) or 'none'}, expected one or more above 0")
    times = _service(records, given)
    if given.batch > max(times.batch_shares):
        raise UsageError(
            f"--batch is {given.batch}, but records of nerve-bench batch go up to {max(times.batch_shares)}; "
            "run: nerve-bench batch --json > out/evidence/batch.jsonl"
        )
    yield from _assumption_records(times, goal, given)
    if not times.assumed:
        for measured in progress(load_records(records), "simulating measured loads"):
            yield curve_record(measured, times)
    replica = Replica(times, given.policy, given.bound, batch=given.batch)
    weights = stream_bytes(records, goal.fps, given.bitrate_mbit, given.frame_hw, given.state_mb)
    plans = list(plan_records(replica, goal, progress(stream_counts, "planning"), weights))
    yield from plans
    fleets = [(plan["streams"], plan["replicas"]) for plan in plans]
    yield from storm_records(replica, goal, progress(fleets, "simulating failures"), given.moving_s)


def _service(records: Sequence[Record], given: Assumptions) -> ServiceTimes:
    if given.service_ms is None:
        times = measured_service(records)
    else:
        cadences = [record for record in records if record.get("bench") == "load_cadence"]
        times = assumed_service(given.service_ms, measured_service(records).cadence if cadences else Cadence())
    if given.keyframe_every is not None:
        times = replace(times, cadence=replace(times.cadence, every=given.keyframe_every))
    return times


def _assumption_records(times: ServiceTimes, goal: Goal, given: Assumptions) -> Iterator[dict[str, Any]]:
    cadence, kind = times.cadence, "assumed" if times.assumed else "measured"
    source = (
        "ASSUMED by --service-ms, nothing was measured" if times.assumed else "measured alone, drawn with repetition"
    )
    said = {
        "service times": f"{source}; mean {1000 * times.mean_s:.2f} ms, capacity {times.capacity_fps:.1f} frames a second",
        "keyframes": f"every {cadence.every} frames, after {cadence.longest_s:g} s, early in {100 * cadence.early_share(1):.1f} % "
        "of the frames between",
        "one replica": f"one frame at a time, policy {given.policy}"
        + (f" with {given.bound} waiting" if given.policy == "fifo" else "")
        + (f", up to {given.batch} in a batch" if given.batch > 1 else ""),
        "cameras": f"{goal.fps:g} frames a second, phases at random, up to a tenth of a period early or late, never waiting",
        "streams": "spread evenly and kept on their replica, where their state is",
        "goal": f"p99 {goal.p99_ms:g} ms, drops {goal.dropped_percent:g} %, utilisation at most {goal.utilisation:g}",
        "not in it": "decoding, network, load balancer, other work on the machine",
        "reproduces means": f"p50 and p99 within {100 * LATENCY_TOLERANCE:g} % below load {HIGH_LOAD:g}, "
        f"drops within {DROP_TOLERANCE_POINTS:g} points from there on",
    }
    yield from (
        {"bench": "capacity_assumptions", "service": kind, "assumption": name, "value": value}
        for name, value in said.items()
    )
