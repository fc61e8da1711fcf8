"""The picture of `nerve-bench video`: what each way costs and is worth, and how accuracy falls with age."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

AGED = ("temporal", "shift_only", "exact", "warm", "hold")
"""Variants with a keyframe at times, from the best to the worst in the paper's sense of effort."""
SIZE_INCHES = (11.0, 4.2)
RIGHT_HALF = 0.6
SETTINGS = frozenset({"unsmoothed", "scores_every_2", "every_4", "every_16"})
"""Variants that are `temporal` with another setting; they lie so close that their names would hide each other."""


COLOURS = {
    "cold": "black",
    "cold_smoothed": "dimgrey",
    "temporal": "tab:orange",
    "shift_only": "tab:green",
    "exact": "tab:blue",
    "warm": "tab:red",
    "hold": "tab:purple",
    "cold_guided": "slategrey",
    "temporal_guided": "tab:brown",
}


def draw_video(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw accuracy against cost, and accuracy against the age of the affinity, from the records of one run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = {record["variant"]: record for record in records if record.get("bench") == "video"}
    figure, (cost, age) = pyplot.subplots(1, 2, figsize=SIZE_INCHES, layout="constrained")
    _draw_cost(cost, found)
    age.axhline(found["cold"]["pixel_accuracy"], color="black", lw=0.8, ls="--", label="cold (every frame a keyframe)")
    for name in (name for name in AGED if name in found):
        curve = found[name]["accuracy_by_age"]
        age.plot([int(frames) for frames in curve], list(curve.values()), marker=".", label=name, color=COLOURS[name])
    age.set(xlabel="frames since the keyframe", ylabel="pixels right, %", title="What age does")
    age.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw_cost(axes: Any, found: Mapping[str, dict[str, Any]]) -> None:
    """One point a variant; its bar is the interval of the difference from cold."""
    cold = found["cold"]["miou"]
    for name, record in found.items():
        at = (record["ratio_to_cold"], record["miou"])
        if name in SETTINGS:
            axes.scatter(*at, color="lightgrey", s=30, zorder=1)
            continue
        star, colour = name == "temporal", COLOURS[name]
        axes.vlines(at[0], *(cold + bound for bound in record["miou_interval"]), color=colour, lw=1, zorder=2)
        axes.scatter(*at, marker="*" if star else "o", s=160 if star else 40, color=colour, zorder=3)
        beside = {"xytext": (8, -3), "ha": "left"} if at[0] < RIGHT_HALF else {"xytext": (-4, 7), "ha": "right"}
        under = {"xytext": (0, -16), "ha": "center"}
        axes.annotate(name, at, textcoords="offset points", size=8, **(under if name == "cold" else beside))
    axes.scatter([], [], color="lightgrey", s=30, label="temporal with other settings")
    axes.vlines([], 0, 0, color="grey", lw=1, label="95 % interval of the difference from cold")
    axes.axvline(1 / 3, color="grey", lw=0.8, ls=":", label="a third of cold")
    axes.legend(fontsize=8, loc="lower right")
    axes.set(
        xlabel="cost of a frame, average, cold being 1", ylabel="mIoU, %", title="Cost and accuracy on moving scenes"
    )
    axes.margins(x=0.15)
