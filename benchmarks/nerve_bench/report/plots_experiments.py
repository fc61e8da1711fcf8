"""Pictures of `nerve-bench experiment`, one per question, from its records alone."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]
Draw = Callable[[Sequence[Record], Path], None]

WIDTH_INCHES = 11.0
ROW_INCHES = 0.27
CURVE_HEIGHT_INCHES = 4.4
VERDICT_COLOURS = {"better": "tab:green", "worse": "tab:red", "no difference shown": "tab:gray"}
GROUP_FIELDS = ("world", "group", "of")
"""Fields that tell records of the same setting apart."""


def draw_experiments(records: Sequence[Record], folder: Path) -> None:
    """Draw each experiment found among the records into `folder`, `<bench>.png` each."""
    for bench in dict.fromkeys(str(record.get("bench")) for record in records):
        if bench in DRAWINGS:
            DRAWINGS[bench]([record for record in records if record["bench"] == bench], folder / f"{bench}.png")


def draw_comparison(records: Sequence[Record], path: Path) -> None:
    """Left: mIoU of each setting with its interval. Right: each difference with its paired interval."""
    figures = [record for record in records if "miou" in record]
    differences = [record for record in records if "difference" in record]
    rows = max(len(figures), len(differences), 4)
    figure, (left, right) = _subplots(2, ROW_INCHES * rows + 1.2)
    for row, record in enumerate(reversed(figures)):
        _bar(left, row, record["miou"], record["interval"], "tab:blue")
    _name_rows(left, [_said(record, record["setting"]) for record in reversed(figures)])
    left.set(xlabel="mIoU, %", title="Each setting, test scenes, 95 %")
    for row, record in enumerate(reversed(differences)):
        _bar(right, row, record["difference"], record["interval"], VERDICT_COLOURS[record["verdict"]])
    _name_rows(right, [_said(record, f"{record['setting']} - {record['minus']}") for record in reversed(differences)])
    right.axvline(0, color="black", lw=0.8)
    right.set(xlabel="points of mIoU", title="Differences, paired, 95 %")
    _save(figure, path)


def draw_heads(records: Sequence[Record], path: Path) -> None:
    """MIoU against the temperature of the head weights, with the mean of the heads as a line."""
    figure, axes = _subplots(2, CURVE_HEIGHT_INCHES)
    curves = {record["curve"]: record for record in records if "curve" in record}
    for axis, (name, record) in zip(axes, curves.items(), strict=False):
        _curve(axis, record, "head_temperature", name)
        axis.set(xscale="log", xlabel="T_H", ylabel="mIoU, %", title=f"Head weights: {name}")
        for other in (other for other in records if "miou" in other and other["setting"] in ("mean", name)):
            style = ":" if other["setting"] == "mean" else "--"
            axis.axhline(other["miou"], color="black", ls=style, lw=0.9, label=f"{other['setting']}, own constants")
        axis.legend(fontsize=8)
    _save(figure, path)


def draw_steps(records: Sequence[Record], path: Path) -> None:
    """Left: mIoU against L with the knee. Right: the error against the limit beside its bound, logarithmic."""
    figure, (quality, error) = _subplots(2, CURVE_HEIGHT_INCHES)
    knees = {record["of"]: record["knee_steps"] for record in records if record.get("setting") == "knee"}
    for number, record in enumerate(record for record in records if "curve" in record):
        name, colour = record["curve"], f"C{number}"
        _curve(quality, record, "steps", name, colour)
        if knees.get(name) is not None:
            quality.axvline(knees[name], color=colour, ls=":", lw=1, label=f"knee: L {knees[name]}")
        bound, measured = (record[f"{what}_l1_by_steps"] for what in ("bound", "error"))
        error.plot(
            [int(step) for step in bound], list(bound.values()), color=colour, ls="--", label=f"2 alpha^L, {name}"
        )
        error.plot([int(step) for step in measured], list(measured.values()), color=colour, label=f"mean, {name}")
        worst = record["worst_error_l1_by_steps"]
        error.plot([int(step) for step in worst], list(worst.values()), color=colour, ls="-.", label=f"worst, {name}")
    quality.set(xlabel="steps L", ylabel="mIoU, %", title="What steps are worth")
    error.set(xlabel="steps L", ylabel="L1 distance to the limit, per token", yscale="log", title="Error and its bound")
    quality.legend(fontsize=8)
    error.legend(fontsize=8)
    _save(figure, path)


def draw_sweep(records: Sequence[Record], path: Path) -> None:
    """MIoU over alpha and beta, one field per T_H, on validation scenes."""
    curves = [record for record in records if "curve" in record]
    temperatures = sorted({record["head_temperature"] for record in curves})
    figure, axes = _subplots(len(temperatures), 3.6)
    values = [value for record in curves for value in record["miou_by_alpha"].values()]
    shown = {"vmin": max(values) - 12, "vmax": max(values), "cmap": "viridis", "aspect": "auto"}
    for axis, temperature in zip(axes, temperatures, strict=True):
        rows = sorted((record for record in curves if record["head_temperature"] == temperature), key=_beta)
        field = [list(record["miou_by_alpha"].values()) for record in rows]
        axis.imshow(field, origin="lower", **shown)
        for row, numbers in enumerate(field):
            for column, number in enumerate(numbers):
                axis.text(column, row, f"{number:.1f}", ha="center", va="center", size=6, color="white")
        axis.set_xticks(range(len(field[0])), list(rows[0]["miou_by_alpha"]), size=7)
        axis.set_yticks(range(len(rows)), [str(_beta(record)) for record in rows], size=7)
        axis.set(xlabel="alpha", ylabel="beta", title=f"T_H {temperature}: mIoU, %")
    _save(figure, path)


def draw_exact(records: Sequence[Record], path: Path) -> None:
    """Error against the closed form at equal cost: truncated walks as curves, the exact walk as stars."""
    figure, axes = _subplots(2, CURVE_HEIGHT_INCHES)
    timed = [record for record in records if "walk" in record]
    for axis, (cost, label) in zip(
        axes,
        (
            ("million_macs", "million multiply-adds, neighbours counted once"),
            ("cpu_ms", "ms of the processor, PyTorch"),
        ),
        strict=True,
    ):
        for number, name in enumerate(dict.fromkeys(record["of"] for record in timed)):
            own = [record for record in timed if record["of"] == name]
            truncated = [record for record in own if record["walk"].isdigit()]
            found = [[record[field] for record in truncated] for field in (cost, "error_l1")]
            axis.plot(*found, marker=".", color=f"C{number}", label=f"truncated, L 1 to 160, {name}")
            for record, marker in zip([record for record in own if not record["walk"].isdigit()], "*X", strict=False):
                said = f"{record['walk']}, {name}"
                axis.scatter(record[cost], record["error_l1"], marker=marker, s=90, color=f"C{number}", label=said)
        axis.set(xscale="log", yscale="log", xlabel=label, ylabel="L1 distance to the closed form, per token")
    axes[0].legend(fontsize=7)
    axes[0].set(title="Truncated against exact, real affinities")
    _save(figure, path)


def _subplots(columns: int, height_inches: float) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, columns, figsize=(WIDTH_INCHES, height_inches), layout="constrained", squeeze=False
    )
    return figure, list(axes[0])


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _bar(axis: Any, row: int, value: float, interval: Sequence[float], colour: str) -> None:
    axis.plot(list(interval), [row, row], color=colour, lw=2)
    axis.plot([value], [row], marker="o", color=colour, ms=5)


def _name_rows(axis: Any, names: Sequence[str]) -> None:
    axis.set_yticks(range(len(names)), names, size=7)
    axis.grid(axis="x", lw=0.4)


def _curve(axis: Any, record: Record, field: str, name: str, colour: str = "C0") -> None:
    points = record[f"miou_by_{field}"]
    intervals = list(record[f"interval_by_{field}"].values())
    places = [float(value) for value in points]
    axis.plot(places, list(points.values()), marker=".", color=colour, label=name)
    low, high = ([interval[end] for interval in intervals] for end in (0, 1))
    axis.fill_between(places, low, high, color=colour, alpha=0.15)


def _said(record: Record, name: str) -> str:
    return ", ".join([*(str(record[field]) for field in GROUP_FIELDS if field in record), name])


def _beta(record: Record) -> float:
    return float(record["beta"])


DRAWINGS: dict[str, Draw] = {
    "experiment_parts": draw_comparison,
    "experiment_heads": draw_heads,
    "experiment_steps": draw_steps,
    "experiment_affinity": draw_comparison,
    "experiment_sweep": draw_sweep,
    "experiment_layers": draw_comparison,
    "experiment_providers": draw_comparison,
    "experiment_adaptive": draw_comparison,
    "experiment_groups": draw_comparison,
    "experiment_transfer": draw_comparison,
    "experiment_things": draw_comparison,
    "experiment_better": draw_comparison,
    "experiment_exact": draw_exact,
    "experiment_solo": draw_comparison,
}
"""How each experiment is drawn, by what its records carry as "bench"."""
