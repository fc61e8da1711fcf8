"""Segmenters that hang or crash, each opened in the worker process of a command."""

import os
import signal
import time
from pathlib import Path

from nerve_runtime.frames import Frame
from tests.data.stream_doubles import DoubleSegmenter

SLOW_S = 0.2
STARTS = "NERVE_TEST_STARTS"
"""Environment variable: a file that takes the monotonic time of every start, a line each."""


def starts_s() -> list[float]:
    """When a segmenter was opened, in seconds of the monotonic clock."""
    return [float(line) for line in Path(os.environ[STARTS]).read_text().splitlines()]


def _note_start() -> None:
    with Path(os.environ[STARTS]).open("a") as starts:
        starts.write(f"{time.monotonic()}\n")


def dies_at_the_start() -> DoubleSegmenter:
    """Never opens: the process is gone."""
    _note_start()
    os._exit(3)


def never_opens() -> DoubleSegmenter:
    """Takes its time to open, as an engine of gigabytes does."""
    _note_start()
    time.sleep(60)
    return DoubleSegmenter()


class _Dying(DoubleSegmenter):
    """Takes its process with it whenever it is shown a frame."""

    def misbehave(self, frame: Frame) -> None:
        """Crash."""
        os.kill(os.getpid(), signal.SIGSEGV)


def dies_at_every_frame() -> DoubleSegmenter:
    """Opens, and crashes with the first frame that it sees."""
    _note_start()
    return _Dying()


def hangs_at_the_fourth_frame() -> DoubleSegmenter:
    """Hangs once, deaf to a stop."""
    _note_start()
    return DoubleSegmenter(hang_at=3, deaf=True)


def is_slow() -> DoubleSegmenter:
    """Takes `SLOW_S` for a frame."""
    return DoubleSegmenter(encode_s=SLOW_S / 2, decode_s=SLOW_S / 2)


class _SlowKeyframe(DoubleSegmenter):
    """Takes 11 s for the first frame."""

    def misbehave(self, frame: Frame) -> None:
        """Take longer than the least limit of a hung frame."""
        time.sleep(11.0 if frame.index == 0 else 0.0)


def takes_11_s_for_the_first_frame() -> DoubleSegmenter:
    """As a true-size bundle does on a processor."""
    _note_start()
    return _SlowKeyframe()
