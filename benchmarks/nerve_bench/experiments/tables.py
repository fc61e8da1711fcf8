"""What comes out of an experiment: one confusion matrix per scene and setting, and intervals from resampled scenes."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerve_runtime import Labels

Counts = NDArray[np.int32]
Record = dict[str, Any]
Interval = tuple[float, float]

RESAMPLES = 2000
CONFIDENCE_PERCENT = 95
RESAMPLING_SEED = 8248
DIGITS = 3


def confusion_counts(truth: Labels, found: Labels, classes: int) -> Counts:
    """Pixels of one scene by truth (rows) and label found (columns), int32 (c,c); both inputs (H,W), below c."""
    index = truth.astype(np.int64).ravel() * classes + found.ravel()
    return np.bincount(index, minlength=classes**2).reshape(classes, classes).astype(np.int32)


def mean_iou(counts: NDArray[Any], classes: Sequence[int] | None = None) -> NDArray[np.float64]:
    """Mean intersection over union in percent over the classes that occur, for counts (..., c, c).

    Args:
        counts: truth in rows.
        classes: over which of the classes; all by default. Pixels of the others still count as errors.
    """
    hits = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    union = counts.sum(-1) + counts.sum(-2) - hits
    iou = np.divide(100 * hits, union, out=np.full_like(hits, np.nan), where=union > 0)
    return np.nanmean(iou if classes is None else iou[..., list(classes)], axis=-1)


@lru_cache(maxsize=8)
def scene_weights(scenes: int) -> NDArray[np.float64]:
    """How often each scene is drawn in each resample, float64 (2000, scenes); the same for the same number of scenes."""
    shares = np.full(scenes, 1 / scenes)
    return np.random.default_rng(RESAMPLING_SEED).multinomial(scenes, shares, RESAMPLES).astype(np.float64)


def central_interval(figures: NDArray[np.float64]) -> Interval:
    """The middle 95 % of the figures of all resamples."""
    tail = (100 - CONFIDENCE_PERCENT) / 2
    low, high = np.nanpercentile(figures, [tail, 100 - tail])
    return round(float(low), DIGITS), round(float(high), DIGITS)


def mean_interval(values: Iterable[float]) -> Interval:
    """Bootstrap interval of the mean of one value per scene."""
    per_scene = np.array(list(values), np.float64)
    means = scene_weights(len(per_scene)) @ per_scene / len(per_scene)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(f"{low:.4g}"), float(f"{high:.4g}")


class Tables:
    """One confusion matrix per scene for each named setting; scenes are the same for all, hence paired."""

    def __init__(self, counts: Mapping[str, Counts]) -> None:
        """Take the counts (scenes, c, c) of each setting."""
        self.counts = dict(counts)

    @property
    def scenes(self) -> int:
        """Over how many scenes."""
        return len(next(iter(self.counts.values())))

    def miou(self, name: str, classes: Sequence[int] | None = None) -> float:
        """Of all pixels of all scenes together, percent."""
        return float(mean_iou(self.counts[name].sum(0), classes))

    def interval(self, name: str, classes: Sequence[int] | None = None) -> Interval:
        """Bootstrap interval of `miou` over scenes."""
        return central_interval(self._resampled(name, classes))

    def difference(self, name: str, other: str, classes: Sequence[int] | None = None) -> tuple[float, Interval]:
        """`miou` of one setting minus that of another, and its paired bootstrap interval: both see the same scenes."""
        resampled = self._resampled(name, classes) - self._resampled(other, classes)
        return self.miou(name, classes) - self.miou(other, classes), central_interval(resampled)

    def best(self, names: Iterable[str]) -> str:
        """The setting of greatest mIoU, the first of equals."""
        return max(names, key=self.miou)

    def _resampled(self, name: str, classes: Sequence[int] | None) -> NDArray[np.float64]:
        counts = self.counts[name]
        sums = scene_weights(len(counts)) @ counts.reshape(len(counts), -1)
        return mean_iou(sums.reshape(-1, *counts.shape[1:]), classes)


def bench_name(experiment: str) -> str:
    """What the lines of an experiment carry as "bench"."""
    return f"experiment_{experiment}"


def curve_record(
    experiment: str, name: str, axis: str, points: Mapping[float, str], tables: Tables, **more: Any
) -> Record:
    """One line for a curve: mIoU and its interval by the value of a constant, `points` naming the setting of each."""
    return {
        "bench": bench_name(experiment),
        "curve": name,
        f"miou_by_{axis}": {str(value): round(tables.miou(setting), DIGITS) for value, setting in points.items()},
        f"interval_by_{axis}": {str(value): tables.interval(setting) for value, setting in points.items()},
        "scenes": tables.scenes,
        **more,
    }


def figure_record(experiment: str, name: str, tables: Tables, **more: Any) -> Record:
    """The line of one setting: mIoU with its interval."""
    return {
        "bench": bench_name(experiment),
        "setting": name,
        "miou": round(tables.miou(name), DIGITS),
        "interval": tables.interval(name),
        "scenes": tables.scenes,
        **more,
    }


def difference_record(experiment: str, name: str, other: str, tables: Tables, **more: Any) -> Record:
    """The line of one comparison; `wins` is whether the interval lies above 0, `loses` below."""
    difference, interval = tables.difference(name, other)
    return {
        "bench": bench_name(experiment),
        "setting": name,
        "minus": other,
        "difference": round(difference, DIGITS),
        "interval": interval,
        "verdict": verdict(interval),
        "scenes": tables.scenes,
        **more,
    }


def verdict(interval: Interval) -> str:
    """What an interval of a difference says: `better`, `worse`, or `no difference shown` where it holds 0."""
    if interval[0] > 0:
        return "better"
    return "worse" if interval[1] < 0 else "no difference shown"
