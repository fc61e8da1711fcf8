"""The picture of `nerve-bench capacity`: what was measured, as points, over what the simulation says, as lines."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nerve_runtime.errors import UsageError

Record = Mapping[str, Any]
SIZE_INCHES, DPI = (11.0, 4.6), 110
POLICIES = {"newest": "newest frame of each camera wins", "fifo": "first in, first out, rejected when full"}
LATENCIES = {"p50_ms": ("p50", "#1f5fbf", "o"), "p99_ms": ("p99", "#b42318", "s")}
DROP_COLORS = {"newest": "#14804a", "fifo": "#8a5a00"}


def draw_capacity(records: Sequence[Record], path: Path) -> None:
    """Draw p50 and p99 against offered load for each policy, and drops of both, from the records of one run.

    Raises:
        UsageError: none of them compares measured with simulated load.
    """
    found = [record for record in records if record.get("bench") == "capacity_curve"]
    if not found:
        raise UsageError("there are no measured loads to draw; run: nerve-bench load --json > out/evidence/load.jsonl")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    own = {policy: _of(found, policy) for policy in POLICIES if _of(found, policy)}
    figure, axes = pyplot.subplots(1, len(own) + 1, figsize=SIZE_INCHES, layout="constrained")
    top_ms = 1.1 * max(record[f"{side}_p99_ms"] for record in found for side in ("measured", "simulated"))
    for axis, (policy, curve) in zip(axes, own.items(), strict=False):
        _draw_latency(axis, curve)
        axis.set(
            title=POLICIES[policy], xlabel="offered load / capacity", ylabel="arrival to result, ms", ylim=(0, top_ms)
        )
    _draw_drops(axes[-1], own)
    # Below, as any corner of the panels may hold a point.
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize=8)
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower right", ncols=3, fontsize=8)
    figure.suptitle(
        "One node: points measured, lines simulated from service times alone, dotted the queueing estimate", size=10
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)


def _of(records: Sequence[Record], policy: str) -> list[Record]:
    return sorted(
        (record for record in records if record["policy"] == policy), key=lambda record: float(record["load"])
    )


def _draw_latency(axis: Any, curve: Sequence[Record]) -> None:
    loads = [record["load"] for record in curve]
    for name, (said, color, marker) in LATENCIES.items():
        axis.plot(
            loads, [record[f"simulated_{name}"] for record in curve], color=color, lw=1.5, label=f"{said}, simulated"
        )
        measured = [record[f"measured_{name}"] for record in curve]
        axis.plot(loads, measured, color=color, marker=marker, ls="", ms=5, label=f"{said}, measured")
    estimated = [record for record in curve if record["estimate_p99_ms"] is not None]
    axis.plot(
        [record["load"] for record in estimated],
        [record["estimate_p99_ms"] for record in estimated],
        color="grey",
        ls=":",
        label="p99, estimate (Poisson arrivals, none dropped)",
    )


def _draw_drops(axis: Any, own: Mapping[str, Sequence[Record]]) -> None:
    for policy, curve in own.items():
        loads = [record["load"] for record in curve]
        color = DROP_COLORS[policy]
        axis.plot(
            loads,
            [record["simulated_dropped_percent"] for record in curve],
            color=color,
            lw=1.5,
            label=f"{policy}, simulated",
        )
        measured = [record["measured_dropped_percent"] for record in curve]
        axis.plot(loads, measured, color=color, marker="o", ls="", ms=5, label=f"{policy}, measured")
    curve = next(iter(own.values()))
    axis.plot(
        [record["load"] for record in curve],
        [record["fluid_dropped_percent"] for record in curve],
        color="grey",
        ls=":",
        label="1 - 1 / load",
    )
    axis.set(title="dropped or rejected", xlabel="offered load / capacity", ylabel="% of the frames")
