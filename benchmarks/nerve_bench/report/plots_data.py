"""Pictures of the records of `evaluate`, `reproduce` and `tiles`: one question each, drawn from the records alone."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nerve_bench.datasets import BENCHMARKS

SIZE_INCHES = (9.0, 3.6)
WAYS = {"stretch": "stretched to one frame", "separate_tiles": "tiles by themselves", "joint_tiles": "joint tiles"}

Records = Iterable[Mapping[str, Any]]


def draw_tiles(records: Records, path: Path) -> None:
    """Do tiles help on wide scenes, and joint keys beyond that? Bars of mIoU with their intervals, for each width."""
    found = [record for record in records if record.get("bench") == "tiles" and "miou" in record]
    figure, axes = _axes("mIoU, %", "Wide scenes: whole or in tiles")
    widths = sorted({record["width_px"] for record in found})
    for index, (way, said) in enumerate(WAYS.items()):
        own = {record["width_px"]: record for record in found if record["way"] == way}
        places = [place + 0.25 * (index - 1) for place, width in enumerate(widths) if width in own]
        heights = [own[width]["miou"] for width in widths if width in own]
        bounds = [own[width]["interval"] for width in widths if width in own]
        reach = [[height - low for height, (low, _) in zip(heights, bounds, strict=True)]]
        reach.append([high - height for height, (_, high) in zip(heights, bounds, strict=True)])
        axes.bar(places, heights, 0.23, yerr=reach, capsize=3, label=said)
    axes.set_xticks(range(len(widths)), [f"{width} x 128 px" for width in widths])
    _save(figure, axes, path)


def draw_reproduce(records: Records, path: Path) -> None:
    """How do we stand on the field's benchmarks? Published figures as grey dots, NERVE's in black, ours as stars."""
    rows = [record for record in records if record.get("bench") == "reproduce" and "row" in record]
    figure, axes = _axes("mIoU, %", "The field's benchmarks; published figures follow protocols of their own")
    for row in rows:
        at = [(place, row["miou"][name]) for place, name in enumerate(BENCHMARKS) if name in row["miou"]]
        if not at:
            continue
        marker, color, said = _look(row)
        axes.scatter(*zip(*at, strict=True), marker=marker, color=color, label=said, zorder=2 if said else 1)
    axes.set_xticks(range(len(BENCHMARKS)), [benchmark.title for benchmark in BENCHMARKS.values()])
    _save(figure, axes, path)


def _look(row: Mapping[str, Any]) -> tuple[str, str, str | None]:
    if not row["published"]:
        whole = all(row["complete"].values())
        return "*", "tab:red", "this run" if whole else "this run, of a part of the pictures or classes"
    return ("o", "black", "NERVE, published") if row["row"] == "NERVE" else ("o", "lightgrey", None)


def _axes(ylabel: str, title: str) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=SIZE_INCHES, layout="constrained")
    axes.set(ylabel=ylabel, title=title)
    return figure, axes


def _save(figure: Any, axes: Any, path: Path) -> None:
    from matplotlib import pyplot

    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
