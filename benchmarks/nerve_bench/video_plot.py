"""The picture of `nerve-bench video`: what each way costs and is worth, and how accuracy falls with age."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

AGED = ("temporal", "shift_only", "exact", "warm", "hold")
"""Variants with a keyframe at times, from the best to the worst in the paper's sense of effort."""
SIZE_INCHES = (11.0, 4.2)
SETTINGS = frozenset({"unsmoothed", "scores_every_2", "every_4", "every_16"})
"""Variants that are `temporal` with another setting; they lie so close that their names would hide each other."""


def draw_video(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw accuracy against cost, and accuracy against the age of the affinity, from the records of one run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = {record["variant"]: record for record in records if record.get("bench") == "video"}
    figure, (cost, age) = pyplot.subplots(1, 2, figsize=SIZE_INCHES, layout="constrained")
    for name, record in found.items():
        at = (record["ratio_to_cold"], record["miou"])
        if name in SETTINGS:
            cost.scatter(*at, color="lightgrey", s=30, zorder=1)
            continue
        star = name == "temporal"
        cost.scatter(*at, marker="*" if star else "o", s=160 if star else 40, zorder=2)
        cost.annotate(name, at, xytext=(8, -3), textcoords="offset points", size=8)
    cost.scatter([], [], color="lightgrey", s=30, label="temporal with other settings")
    cost.legend(fontsize=8, loc="lower right")
    cost.set(
        xlabel="cost of a frame, average, cold being 1", ylabel="mIoU, %", title="Cost and accuracy on moving scenes"
    )
    cost.axvline(1 / 3, color="grey", lw=0.8, ls=":")
    cost.margins(x=0.15)
    cold = found["cold"]["pixel_accuracy"]
    age.axhline(cold, color="black", lw=0.8, ls="--", label="cold (every frame a keyframe)")
    for name in (name for name in AGED if name in found):
        curve = found[name]["accuracy_by_age"]
        age.plot([int(frames) for frames in curve], list(curve.values()), marker=".", label=name)
    age.set(xlabel="frames since the keyframe", ylabel="pixels right, %", title="What age does")
    age.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
