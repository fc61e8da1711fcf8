"""When to compute attention anew, and how to go on between: decisions only, no state (method, section 9)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from nerve_runtime.errors import UsageError

Decision = Literal["cut", "keyframe", "between"]
"""Forget all that came before; compute attention anew; go on with the last keyframe's."""
Between = Literal["follow", "warm", "exact", "hold"]

_RANGES: Mapping[str, tuple[str, Callable[[float], bool]]] = {
    "keyframe_every": ("1 or more frames", lambda value: value >= 1),
    "longest_s": ("above 0 seconds", lambda value: value > 0),
    "scores_every": ("1 or more frames", lambda value: value >= 1),
    "smoothing": ("0 to below 1", lambda value: 0 <= value < 1),
    "change": ("0 to 1", lambda value: 0 <= value <= 1),
    "cut": ("0 to 1", lambda value: 0 <= value <= 1),
}


@dataclass(frozen=True, slots=True)
class Temporal:
    """How a video's frames use those before them. The defaults were chosen on validation clips (docs/video.md).

    Attributes:
        keyframe_every: attention is never older than so many frames; 1 makes each frame a keyframe.
        longest_s: nor older than so many seconds of the video, which counts where frames are dropped or left out.
        between: what happens between keyframes. "follow": scores and affinities move with the picture, 3 steps of the
            walk. "warm": 3 steps from the scores before, nothing moves. "exact": the walk's limit with the keyframe's
            affinity, nothing moves. "hold": the keyframe's labels stay.
        scores_every: CLIP runs every so many frames, 1 is each; between, its scores are carried along.
        smoothing: share of a token's seed scores that is kept from the frame before, where its origin is known; 0 is
            off. Less flicker, slower to change its mind: 0.5 halves what is old every frame.
        change: a keyframe is due when less than this share of the picture is still what the keyframe showed; 0 is off.
        cut: all is forgotten when less than this share of the picture is found in the frame before; 0 is off.

    Raises:
        UsageError: a value is out of its range.
    """

    keyframe_every: int = 10
    longest_s: float = 2.0
    between: Between = "follow"
    scores_every: int = 1
    smoothing: float = 0.5
    change: float = 0.35
    cut: float = 0.45

    def __post_init__(self) -> None:
        for name, (expected, in_range) in _RANGES.items():
            if not in_range(getattr(self, name)):
                raise UsageError(f"{name.replace('_', '-')} is {getattr(self, name)}, expected {expected}")
        if self.between not in get_args(Between):
            raise UsageError(f"between is {self.between!r}, expected one of {', '.join(get_args(Between))}")

    @classmethod
    def plain(cls, keyframe_every: int) -> "Temporal":
        """Keyframes by count alone and warm walks between, as the reference does it; motion is not measured."""
        return cls(keyframe_every, math.inf, "warm", smoothing=0.0, change=0.0, cut=0.0)

    @property
    def watches(self) -> bool:
        """Whether the motion of the picture has to be measured."""
        follows = self.keyframe_every > 1 and self.between == "follow"
        return follows or self.smoothing > 0 or self.change > 0 or self.cut > 0

    def decide(self, age: int | None, age_s: float, *, same_size: bool, traced: float, visible: float) -> Decision:
        """Say how the next frame is computed.

        Args:
            age: frames since the keyframe, 1 for the one after it; None when there is none to go on from.
            age_s: seconds since the keyframe.
            same_size: the frame has the size of the one before; another size is another view.
            traced: share of the picture that was found in the frame before, 0 to 1; 1 when it is not watched.
            visible: share of the picture that was found in the keyframe; 1 when it is not watched.
        """
        if age is None or not same_size or traced < self.cut:
            return "cut"
        if age >= self.keyframe_every or not 0 <= age_s < self.longest_s or visible < self.change:
            return "keyframe"
        return "between"


EVERY_FRAME = Temporal.plain(1)
"""Each frame by itself, as for pictures that have nothing to do with each other."""
