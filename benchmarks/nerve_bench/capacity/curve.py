"""The simulation and the queueing estimate beside the measured curve, and whether the simulation reproduces it.

The claim, stated beforehand: below a load of 0.9 the simulated p50 and p99 are within 25 % of the measured ones; from 0.9
on the dropped share is within 3 points. Where it does not hold, the record says so.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from nerve_bench.capacity.arrivals import camera_arrivals
from nerve_bench.capacity.queueing import mean_wait_s, wait_quantile_s
from nerve_bench.capacity.replica import Outcome, Replica
from nerve_bench.capacity.service import ServiceTimes, measured_service
from nerve_runtime.errors import UsageError

Record = Mapping[str, Any]
LATENCY_TOLERANCE = 0.25
DROP_TOLERANCE_POINTS = 3.0
HIGH_LOAD = 0.9
SEEDS = range(10)
TAIL = 0.99


def load_records(records: Iterable[Record]) -> list[Record]:
    """The measured loads among records.

    Raises:
        UsageError: there are none.
    """
    found = [record for record in records if record.get("bench") == "load"]
    if not found:
        raise UsageError(
            "there are no records of measured load; run: nerve-bench load --json > out/evidence/load.jsonl"
        )
    return found


def curve_records(records: Iterable[Record]) -> Iterator[dict[str, Any]]:
    """Yield for each measured load what the simulation of the very same arrivals gives, and the estimate."""
    kept = list(records)
    times = measured_service(kept)
    for measured in load_records(kept):
        yield curve_record(measured, times)


def curve_record(measured: Record, times: ServiceTimes) -> dict[str, Any]:
    """One measured load beside its simulation.

    `*_ratio` are simulated over measured. Those of `own` are of a second simulation whose service times are scaled to the
    mean that the run itself had: what is left of a difference there is not the service, it is the queue.
    """
    simulated = simulated_figures(measured, times)
    own_times = scaled(times, measured, simulated)
    own = simulated_figures(measured, own_times)
    record = {
        "bench": "capacity_curve",
        **{name: measured[name] for name in ("policy", "load", "cameras", "fps", "offered_fps")},
        **{f"measured_{name}": measured[name] for name in ("mean_ms", "p50_ms", "p99_ms", "dropped_percent", "busy_percent")},
        **{f"simulated_{name}": simulated[name] for name in ("mean_ms", "p50_ms", "p99_ms", "dropped_percent", "busy_percent")},
        **{f"{name}_ratio": round(simulated[f"{name}_ms"] / measured[f"{name}_ms"], 3) for name in ("p50", "p99")},
        **{f"own_{name}_ratio": round(own[f"{name}_ms"] / measured[f"{name}_ms"], 3) for name in ("p50", "p99")},
        "own_dropped_percent": own["dropped_percent"],
        "service_ratio": round(float(own_times.mean_s / times.mean_s), 3),
        **estimate(float(measured["load"]), times),
        "n": measured["n"],
    }  # fmt: skip
    return {**record, "holds": verdict(record), "own_holds": verdict(record, "own_")}


def simulated_figures(measured: Record, times: ServiceTimes) -> dict[str, Any]:
    """Figures of the arrivals of a measured load, simulated with several draws of service times."""
    replica = Replica(times, measured["policy"], measured["bound"] or 0, measured["jitter"])
    count, fps, warm_s = measured["cameras"], measured["fps"], measured["warm_s"]
    arrival_s, camera = camera_arrivals(
        count,
        fps,
        warm_s + measured["seconds"],
        jitter=measured["jitter"],
        late_frames=measured["late_frames"],
        seed=measured["seed"],
    )
    outcome = Outcome()
    for seed in SEEDS:
        outcome.add(*replica.run(arrival_s, camera, fps, [None] * count, seed), from_s=warm_s)
    return outcome.figures()


def scaled(times: ServiceTimes, measured: Record, simulated: Record) -> ServiceTimes:
    """The samples with the mean service that a measured run had, at the share of keyframes that the simulation has."""
    share = simulated["keyframe_percent"] / 100
    alone_ms = 1000 * (share * float(times.keyframe_s.mean()) + (1 - share) * float(times.follow_s.mean()))
    factor = measured["service_ms"] / alone_ms
    return replace(times, keyframe_s=times.keyframe_s * factor, follow_s=times.follow_s * factor)


def estimate(load: float, times: ServiceTimes) -> dict[str, float | None]:
    """Pollaczek and Khinchine's mean and an exponential tail, None from load 1 on; and the drops of a fluid."""
    fluid = {"fluid_dropped_percent": round(100 * max(0.0, 1 - 1 / load), 2)}
    if load >= 1:
        return {"estimate_mean_ms": None, "estimate_p99_ms": None, **fluid}
    wait_s = mean_wait_s(load, times.mean_s, times.scv)
    tail_s = wait_quantile_s(TAIL, load, wait_s)
    return {
        "estimate_mean_ms": round(1000 * (wait_s + times.mean_s), 3),
        "estimate_p99_ms": round(1000 * (tail_s + times.mean_s), 3),
        **fluid,
    }


def verdict(record: Record, prefix: str = "") -> str:
    """Whether a record is within the tolerance: "yes", or what is not."""
    if record["load"] < HIGH_LOAD:
        ratios = {name: record[f"{prefix}{name}_ratio"] for name in ("p50", "p99")}
        wrong = [f"{name} x {ratio:.2f}" for name, ratio in ratios.items() if abs(ratio - 1) > LATENCY_TOLERANCE]
    else:
        simulated = record[f"{prefix or 'simulated_'}dropped_percent"]
        points = simulated - record["measured_dropped_percent"]
        wrong = [f"drops {points:+.1f} points"] if abs(points) > DROP_TOLERANCE_POINTS else []
    return f"no: {', '.join(wrong)}" if wrong else "yes"
