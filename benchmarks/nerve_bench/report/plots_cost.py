"""Pictures of cost and speed, each drawn from JSON lines alone: where the work is, how it grows, how long it takes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nerve_runtime.errors import UsageError

Record = Mapping[str, Any]
COLORS = {"dense": "#b42318", "pooled": "#14804a", "linear": "#1f5fbf"}
MARKERS = {"dense": "s", "pooled": "o", "linear": "^"}
RUNNER_NAMES = {
    "reference_eager": "reference, eager",
    "reference_compile": "reference, torch.compile",
    "bundle_ort": "bundle, ONNX Runtime",
    "bundle_openvino": "bundle, OpenVINO",
}
IMITATION = "bundle_fake_cuda"
"""Counts what crosses; its times mean nothing."""
WIDE_INCHES, SMALL_INCHES = (11.0, 4.2), (7.5, 4.6)
DPI = 110
LABEL_ROOM = 1.45
"""How much longer than the longest bar an axis is, so that the text behind the bar fits."""


def draw_cost(records: Sequence[Record], path: Path) -> None:
    """Bars of GMAC, bytes of weights and bytes alive at once, for each stage of the first bundle.

    Raises:
        UsageError: no record of `nerve-bench cost` is among them.
    """
    own = _own(records, "cost")
    first = [record for record in own if record["bundle"] == own[0]["bundle"] and record["stage"] != "frame"]
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(1, 3, figsize=WIDE_INCHES, layout="constrained", sharey=True)
    stages = [record["stage"] for record in first][::-1]
    for axis, (field, unit, title) in zip(
        axes,
        (
            ("gmac", 1, "GMAC of one run"),
            ("weight_bytes", 1e6, "MB of weights"),
            ("peak_activation_bytes", 1e6, "MB alive at once"),
        ),
        strict=True,
    ):
        bars = axis.barh(stages, [record[field] / unit for record in first][::-1], color=COLORS["linear"])
        axis.bar_label(bars, fmt="%.3g", padding=3, size=8)
        axis.set(title=title)
        axis.margins(x=0.18)
    figure.suptitle(f"Cost per stage of {own[0]['bundle']}, {own[0]['classes']} classes")
    _save(figure, path)


def draw_cost_sizes(records: Sequence[Record], path: Path) -> None:
    """GMAC against the size of the picture: presets whole, and the method's own part in its forms.

    Raises:
        UsageError: no record of `nerve-bench cost` with sizes is among them.
    """
    whole, method = _own(records, "cost_preset"), _own(records, "cost_method")
    figure, (left, right) = _pyplot().subplots(1, 2, figsize=WIDE_INCHES, layout="constrained")
    for preset in dict.fromkeys(record["preset"] for record in whole):
        own = [record for record in whole if record["preset"] == preset]
        left.plot([r["side_px"] for r in own], [r["gmac"] for r in own], marker="o", label=preset)
    left.set(
        xlabel="side of the picture, px",
        ylabel="GMAC of a cold frame",
        yscale="log",
        title="Presets, networks included",
    )
    left.legend(fontsize=8)
    for form, keys in dict.fromkeys((record["form"], record["keys"]) for record in method):
        own = [record for record in method if (record["form"], record["keys"]) == (form, keys)]
        label = {"fixed": "pooled, 256 keys", "growing": "pooled, cells of 4 x 4 tokens"}.get(keys, form)
        style = "--" if keys == "growing" else "-"
        points = [r["side_px"] for r in own], [r["gmac"] for r in own]
        right.plot(*points, marker=MARKERS[form], color=COLORS[form], ls=style, label=label)
    right.set(
        xlabel="side of the picture, px", ylabel="GMAC", yscale="log", title="Affinity, mix and 20 steps, 10 heads"
    )
    right.legend(fontsize=8)
    _save(figure, path)


def draw_walk(records: Sequence[Record], path: Path) -> None:
    """Time of affinity, mix and steps against the tokens for each form, with the slope of each.

    Raises:
        UsageError: no record of `nerve-bench walk` is among them.
    """
    scaling = _own(records, "walk_scaling")
    slopes = {record["form"]: record["exponent"] for record in records if record.get("bench") == "walk_exponent"}
    figure, axis = _pyplot().subplots(figsize=SMALL_INCHES, layout="constrained")
    for form in dict.fromkeys(record["form"] for record in scaling):
        own = [record for record in scaling if record["form"] == form]
        label = f"{form}, tokens to the {slopes[form]:.2f}" if form in slopes else form
        points = [r["tokens"] for r in own], [r["least_ms"] for r in own]
        axis.plot(*points, marker=MARKERS[form], color=COLORS[form], label=label)
    tokens = sorted({record["tokens"] for record in scaling})
    axis.set(
        xscale="log", yscale="log", xlabel="tokens", ylabel="ms, least of the turns", title="Affinity, mix and 20 steps"
    )
    axis.set_xticks(tokens, [str(count) for count in tokens], rotation=45)
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend()
    _save(figure, path)


def draw_latency(records: Sequence[Record], path: Path) -> None:
    """Bars of the median time of a frame for each runner, with a line up to the 99th percentile.

    Raises:
        UsageError: no record of `nerve-bench latency` is among them.
    """
    frames = [record for record in _own(records, "latency") if record["stage"] == "frame"]
    cadences = sorted({record["keyframe_every"] for record in frames})
    figure, axes = _pyplot().subplots(1, len(cadences), figsize=WIDE_INCHES, layout="constrained", squeeze=False)
    for axis, every in zip(axes[0], cadences, strict=True):
        own = [record for record in frames if record["keyframe_every"] == every and record["runner"] != IMITATION][::-1]
        names = [RUNNER_NAMES.get(record["runner"], record["runner"]) for record in own]
        typical = [record["typical_ms"] for record in own]
        reach = [max(0.0, record["p99_ms"] - record["typical_ms"]) for record in own]
        axis.barh(names, typical, xerr=[[0.0] * len(own), reach], color=COLORS["pooled"], ecolor="#666", capsize=3)
        for row, record in enumerate(own):
            ratio = record["ratio_to_eager"]
            text = f"{record['typical_ms']:.1f} ms" + ("" if ratio is None else f", {ratio:.2f} x")
            axis.annotate(text, (typical[row] + reach[row], row), xytext=(6, -3), textcoords="offset points", size=8)
        axis.set_xlim(0, LABEL_ROOM * max(time + more for time, more in zip(typical, reach, strict=True)))
        said = "every frame a keyframe" if every == 1 else f"a keyframe every {every} frames"
        axis.set(xlabel="ms a frame (line: up to p99)", title=said)
    _save(figure, path)


def draw_memory(records: Sequence[Record], path: Path) -> None:
    """Bars of steady and peak resident memory for each runner.

    Raises:
        UsageError: no record of `nerve-bench memory` is among them.
    """
    own = _own(records, "memory")[::-1]
    figure, axis = _pyplot().subplots(figsize=SMALL_INCHES, layout="constrained")
    names = [record["runner"] for record in own]
    axis.barh(names, [record["peak_bytes"] / 1e6 for record in own], color="#c9d3e0", label="peak")
    bars = axis.barh(
        names, [record["steady_bytes"] / 1e6 for record in own], color=COLORS["linear"], height=0.5, label="steady"
    )
    axis.bar_label(bars, fmt="%.0f", label_type="center", color="white", size=8)
    axis.set(xlabel="MB resident", title="Memory of one process")
    axis.legend()
    _save(figure, path)


def _own(records: Sequence[Record], bench: str) -> list[Record]:
    own = [record for record in records if record.get("bench") == bench]
    if not own:
        raise UsageError(f"there is no record of {bench!r} to draw; measure first, with --json")
    return own


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    _pyplot().close(figure)
