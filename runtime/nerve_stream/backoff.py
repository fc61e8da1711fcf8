"""How often, and how soon, something that broke is started again."""

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

RESTARTS = 5
WITHIN_S = 60.0
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 10.0
GROWTH = 2.0
JITTER = 0.2
"""Share of a delay that is random, so that cameras which fell together do not come back together."""


@dataclass(slots=True)
class RestartBudget:
    """Allows `restarts` restarts in any `within_s` seconds; what breaks more often has failed and is left alone.

    Attributes:
        total: restarts granted so far.
    """

    restarts: int = RESTARTS
    within_s: float = WITHIN_S
    clock: Callable[[], float] = time.monotonic
    total: int = 0
    _granted_s: deque[float] = field(default_factory=deque)

    def grant(self) -> bool:
        """Take one restart from the budget, now; false when it is spent."""
        now_s = self.clock()
        while self._granted_s and now_s - self._granted_s[0] >= self.within_s:
            self._granted_s.popleft()
        if len(self._granted_s) >= self.restarts:
            return False
        self._granted_s.append(now_s)
        self.total += 1
        return True


@dataclass(slots=True)
class Backoff:
    """Delays between attempts: 0.5 s, then twice as long each time up to 10 s, each shortened by up to a fifth at random."""

    first_s: float = FIRST_DELAY_S
    longest_s: float = LONGEST_DELAY_S
    source: Callable[[], float] = random.random
    _next_s: float | None = None

    def delay_s(self) -> float:
        """Seconds to wait before the next attempt."""
        delay_s = self.first_s if self._next_s is None else self._next_s
        self._next_s = min(self.longest_s, delay_s * GROWTH)
        return delay_s * (1 - JITTER * self.source())

    def reset(self) -> None:
        """Begin again with the shortest delay, after a success."""
        self._next_s = None
