"""Segmenters that hang or crash, each opened in the worker process of a command whose options it ignores."""

import os
import time
from pathlib import Path

from nerve_runtime.stream import SegmenterOptions
from tests.data.stream_doubles import DoubleSegmenter

STARTS = "NERVE_TEST_STARTS"
"""Environment variable: a file that takes the monotonic time of every start, a line each."""


def opener(name: str) -> str:
    """The function of this module as a worker process is told it."""
    return f"{__name__}:{name}"


def starts_s() -> list[float]:
    """When a segmenter was opened, in seconds of the monotonic clock."""
    return [float(line) for line in Path(os.environ[STARTS]).read_text().splitlines()]


def _note_start() -> None:
    with Path(os.environ[STARTS]).open("a") as starts:
        starts.write(f"{time.monotonic()}\n")


def dies_at_the_start(options: SegmenterOptions) -> DoubleSegmenter:
    """Never opens: the process is gone."""
    _note_start()
    os._exit(3)


def dies_at_the_first_frame(options: SegmenterOptions) -> DoubleSegmenter:
    """Opens, and crashes with the first frame of a video."""
    _note_start()
    return DoubleSegmenter(crash_at=0)


def hangs_at_the_fourth_frame(options: SegmenterOptions) -> DoubleSegmenter:
    """Hangs once, deaf to a stop."""
    _note_start()
    return DoubleSegmenter(hang_at=3, deaf=True)


def is_slow(options: SegmenterOptions) -> DoubleSegmenter:
    """Takes 0.2 s for a frame."""
    return DoubleSegmenter(look_s=0.1, label_s=0.1)
