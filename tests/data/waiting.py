"""Waiting until something holds, in place of a sleep that would be too short on a busy machine."""

import time
from collections.abc import Callable

PATIENCE_S = 30.0


def wait_for(holds: Callable[[], object], timeout_s: float = PATIENCE_S) -> bool:
    """Wait until something holds; whether it does."""
    deadline_s = time.monotonic() + timeout_s
    while not holds() and time.monotonic() < deadline_s:
        time.sleep(0.005)
    return bool(holds())
