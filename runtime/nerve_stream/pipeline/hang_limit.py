"""How long a frame may be in the worker before it counts as hung."""

import math
from collections import deque
from dataclasses import dataclass, field

LEAST_S = 10.0
TIMES_THE_USUAL = 5
REMEMBERED = 32


@dataclass(slots=True)
class HangLimit:
    """Follows what frames take here: `TIMES_THE_USUAL` times the longest of the latest, at least `LEAST_S`.

    There is no limit before the first result: a graph of true size takes half a minute for a frame on a processor.

    Attributes:
        fixed_s: a limit that follows nothing, `math.inf` for none; None to follow.
    """

    fixed_s: float | None = None
    _latest_s: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def note(self, seconds: float) -> None:
        """Remember how long a frame took that came out with a result."""
        self._latest_s.append(seconds)

    @property
    def seconds(self) -> float:
        """The limit now; `math.inf` where there is none."""
        if self.fixed_s is not None:
            return self.fixed_s
        return max(LEAST_S, TIMES_THE_USUAL * max(self._latest_s)) if self._latest_s else math.inf
