"""How long a frame may be in the worker before it counts as hung."""

import math
from collections import deque
from dataclasses import dataclass, field

LEAST_S = 10.0
TIMES_THE_SLOWEST = 5
KEPT_FRAMES = 32


def _kept_times() -> deque[float]:
    return deque(maxlen=KEPT_FRAMES)


@dataclass(slots=True)
class HangLimit:
    """Follows what frames take here: 5 times the slowest of the latest 32 keyframes and 32 others, at least 10 s.

    Keyframes are kept apart, as one can take twenty times as long as the frames between, and come after hundreds of
    them. There is no limit before the first result: a true-size graph takes half a minute for a frame on a processor.

    Attributes:
        fixed_s: a limit that follows nothing, `math.inf` for none; None to follow.
    """

    fixed_s: float | None = None
    _keyframes_s: deque[float] = field(default_factory=_kept_times)
    _others_s: deque[float] = field(default_factory=_kept_times)

    def add(self, seconds: float, *, keyframe: bool) -> None:
        """Add how long a frame took that came out with a result."""
        (self._keyframes_s if keyframe else self._others_s).append(seconds)

    @property
    def seconds(self) -> float:
        """The limit now; `math.inf` where there is none."""
        if self.fixed_s is not None:
            return self.fixed_s
        slowest_s = max((*self._keyframes_s, *self._others_s), default=math.inf)
        return max(LEAST_S, TIMES_THE_SLOWEST * slowest_s)
