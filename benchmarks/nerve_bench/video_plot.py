"""The picture of `nerve-bench video`: what each way costs and is worth, and how accuracy falls with age."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

AGED = ("temporal", "shift_only", "exact", "warm", "hold")
"""Variants with a keyframe at times, from the best to the worst in the paper's sense of effort."""
SIZE_INCHES = (11.0, 4.2)


def draw_video(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw accuracy against cost, and accuracy against the age of the affinity, from the records of one run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = {record["variant"]: record for record in records if record.get("bench") == "video"}
    figure, (cost, age) = pyplot.subplots(1, 2, figsize=SIZE_INCHES, layout="constrained")
    for name, record in found.items():
        marker = "*" if name == "temporal" else "o"
        cost.scatter(record["ms_per_frame"], record["miou"], marker=marker, s=160 if name == "temporal" else 40)
        cost.annotate(
            name, (record["ms_per_frame"], record["miou"]), xytext=(6, -3), textcoords="offset points", size=8
        )
    cost.set(xlabel="ms a frame, average", ylabel="mIoU, %", title="Cost and accuracy on moving scenes")
    cost.axvline(found["cold"]["ms_per_frame"] / 3, color="grey", lw=0.8, ls=":")
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
