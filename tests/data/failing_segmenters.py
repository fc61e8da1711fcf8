"""Segmenters that hang or crash, each opened in the worker process of a command whose options it ignores."""

import os
import signal
import time
from pathlib import Path

from nerve_runtime.frames import Frame
from nerve_stream.pipeline import SegmenterOptions
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


def never_opens(options: SegmenterOptions) -> DoubleSegmenter:
    """Takes its time to open, as an engine of gigabytes does."""
    _note_start()
    time.sleep(60)
    return DoubleSegmenter()


class _Dying(DoubleSegmenter):
    """Takes its process with it whenever it is shown a frame."""

    def misbehave(self, frame: Frame) -> None:
        """Crash."""
        os.kill(os.getpid(), signal.SIGSEGV)


def dies_at_every_frame(options: SegmenterOptions) -> DoubleSegmenter:
    """Opens, and crashes with the first frame that it sees."""
    _note_start()
    return _Dying()


def hangs_at_the_fourth_frame(options: SegmenterOptions) -> DoubleSegmenter:
    """Hangs once, deaf to a stop."""
    _note_start()
    return DoubleSegmenter(hang_at=3, deaf=True)


def is_slow(options: SegmenterOptions) -> DoubleSegmenter:
    """Takes 0.2 s for a frame."""
    return DoubleSegmenter(encode_s=0.1, decode_s=0.1)
