"""How well the labels of a moving scene follow the truth of every frame: accuracy, flicker, consistency, ghosts."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nerve_bench.measure.accuracy import Confusion
from nerve_bench.world import CLASS_NAMES, STUFF
from nerve_bench.world.clips import MovingFrame
from nerve_runtime import Labels

GHOST_FRAMES = 8
"""How far back a label counts as a ghost: pixels that showed another class within so many frames."""
RECOVERED_POINTS = 1.0
"""A frame after a cut is recovered when its pixel accuracy is at most so far below that of every-frame-cold."""

LARGE_SHARE = 0.05
"""A thing that fills so much of a frame is one that nobody overlooks."""


@dataclass(slots=True)
class Ratio:
    """Pixels counted, and those of them that are of interest."""

    hits: int = 0
    of: int = 0

    def add(self, hits: NDArray[np.bool_], of: NDArray[np.bool_]) -> None:
        """Count the pixels of `hits` among those of `of`."""
        self.hits += int((hits & of).sum())
        self.of += int(of.sum())

    def percent(self) -> float:
        """Per cent, NaN of nothing."""
        return 100 * self.hits / self.of if self.of else float("nan")


@dataclass(slots=True)
class VideoScore:
    """Scores of one variant over clips; frames of a clip are added in order, `begin_clip` between clips.

    Attributes:
        table: confusion of all pixels.
        changed: pixels whose surface did not move (it shows at the same place in both frames) and whose label changed.
        consistent: pixels whose surface was visible in the frame before, and which kept its label.
        ghosts: pixels that showed another class within `GHOST_FRAMES` frames, and carry such a class's label.
        by_age: correct pixels by the age of the affinity.
        accuracies: pixel accuracy of every frame, in order, for `recovery`.
        cuts: places in `accuracies` where a shot starts, other than the first.
        named_frames: frames in which most pixels of each large thing carry its name.
    """

    table: Confusion = field(default_factory=lambda: Confusion(len(CLASS_NAMES)))
    changed: Ratio = field(default_factory=Ratio)
    consistent: Ratio = field(default_factory=Ratio)
    ghosts: Ratio = field(default_factory=Ratio)
    by_age: dict[int, Ratio] = field(default_factory=dict)
    accuracies: list[float] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    named_frames: int = 0
    _before: tuple[MovingFrame, Labels] | None = None
    _truths: deque[Labels] = field(default_factory=lambda: deque(maxlen=GHOST_FRAMES))

    def begin_clip(self) -> None:
        """Forget the frame before."""
        self._before = None
        self._truths.clear()

    def add(self, frame: MovingFrame, labels: Labels, age: int) -> None:
        """Count one frame: its truth, the labels found, (H, W), and the age of the affinity in frames."""
        right = labels == frame.labels
        everything = np.ones_like(right)
        self.table.add(frame.labels, labels)
        self.by_age.setdefault(age, Ratio()).add(right, everything)
        if frame.cut and self._before is not None:
            self.cuts.append(len(self.accuracies))
        self.accuracies.append(100 * float(right.mean()))
        self.named_frames += large_things_are_named(frame.labels, labels)
        if frame.cut:
            self.begin_clip()
        if self._before is not None:
            self._compare(frame, labels, *self._before)
        self._count_ghosts(frame.labels, labels)
        self._before = frame, labels
        self._truths.append(frame.labels)

    def _compare(self, frame: MovingFrame, labels: Labels, previous: MovingFrame, previous_labels: Labels) -> None:
        rows, columns = frame.came_from()
        height, width = labels.shape
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        at = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
        seen = inside & (previous.surfaces[at] == frame.surfaces)
        kept = previous_labels[at] == labels
        self.consistent.add(kept, seen)
        own_rows, own_columns = np.indices(labels.shape)
        self.changed.add(~kept, seen & (rows == own_rows) & (columns == own_columns))

    def _count_ghosts(self, truth: Labels, labels: Labels) -> None:
        past, ghost = np.zeros_like(truth, dtype=np.bool_), np.zeros_like(truth, dtype=np.bool_)
        for earlier in self._truths:
            other = earlier != truth
            past |= other
            ghost |= other & (labels == earlier)
        self.ghosts.add(ghost, past)

    def stationary_percent(self) -> float:
        """Share of all pixels whose surface did not move."""
        return 100 * self.changed.of / int(self.table.counts.sum())

    def named_percent(self) -> float:
        """Share of the frames in which every large thing has its right name."""
        return 100 * self.named_frames / len(self.accuracies)

    def recovery_frames(self, cold: "VideoScore") -> float:
        """Frames after a cut, mean over the cuts, until a frame is as good as the same frame of `cold`; 0 is at once."""
        waits = []
        for cut in self.cuts:
            pairs = zip(self.accuracies[cut:], cold.accuracies[cut:], strict=True)
            good = (index for index, (own, best) in enumerate(pairs) if own >= best - RECOVERED_POINTS)
            waits.append(next(good, len(self.accuracies) - cut))
        return float(np.mean(waits)) if waits else float("nan")


def large_things_are_named(truth: Labels, labels: Labels) -> bool:
    """Whether each thing that fills `LARGE_SHARE` of the truth has its own label more often than any other."""
    classes = len(CLASS_NAMES)
    shares = np.bincount(truth.ravel(), minlength=classes) / truth.size
    large = [label for label in range(len(STUFF), classes) if shares[label] >= LARGE_SHARE]
    return all(np.bincount(labels[truth == label]).argmax() == label for label in large)
