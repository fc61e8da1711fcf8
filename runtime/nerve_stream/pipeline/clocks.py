"""Time for watchdogs and for paced sources: monotonic, and undisturbed by a process that was suspended."""

import time
from collections.abc import Callable
from fractions import Fraction

LONGEST_TICK_S = 0.5
"""More than this between two ticks was no waiting of ours: the process was suspended, or starved of its processor."""
LATE_S = 0.25
"""A source that is later than this has missed its time; what it missed is not made up for."""
LONGEST_PAUSE_S = 2.0
"""Timestamps that ask for a longer pause are not believed."""


class AwakeClock:
    """Seconds during which this process was awake; a watchdog that reads it does not bark at a process just resumed.

    Args:
        clock: monotonic seconds, those of a suspension included.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_tick = clock(), 0.0

    def tick(self) -> float:
        """Seconds awake so far; to be called at least twice a second, for longer gaps are not counted in full."""
        now_s = self._clock()
        self._last_tick = now_s, self._awake_at(now_s)
        return self._last_tick[1]

    @property
    def awake_s(self) -> float:
        """Seconds awake so far; may be asked by any thread."""
        return self._awake_at(self._clock())

    def _awake_at(self, now_s: float) -> float:
        ticked_s, awake_s = self._last_tick
        return awake_s + min(max(0.0, now_s - ticked_s), LONGEST_TICK_S)


class Pacer:
    """Tells how long a recorded frame has to wait so that a file plays as fast as it was recorded.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._origin_s: float | None = None

    def pause_s(self, time_s: Fraction) -> float:
        """Seconds until the frame with this presentation time is due; 0 when it is due or late, never negative.

        After a long delay, a suspension or a jump in the timestamps the schedule begins anew with this frame.
        """
        now_s = self._clock()
        if self._origin_s is None:
            self._origin_s = now_s - float(time_s)
        pause_s = self._origin_s + float(time_s) - now_s
        if not -LATE_S <= pause_s <= LONGEST_PAUSE_S:
            self._origin_s = now_s - float(time_s)
            return 0.0
        return max(0.0, pause_s)
