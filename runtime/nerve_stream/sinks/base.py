"""The interface of a sink, file names made from names of sources, and a frame-rate meter."""

import os
import re
import time
import unicodedata
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Container
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from nerve_runtime import FrameResult, NerveError

UInt8Array = NDArray[np.uint8]

SAFE_NAME_CHARACTERS = 100
RESERVED_NAMES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
)
FPS_FRAMES = 50
FPS_WINDOW_S = 2.0


class ReaderGoneError(NerveError):
    """The reader of stdout or of a pipe, such as `head`, has closed it; the exit code is that of SIGPIPE."""

    exit_code = 128 + 13


def discard_buffer(stream: IO[str]) -> None:
    """Send what is left in a stream's buffer to the null device: flushing it at exit would raise again."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


class Sink(ABC):
    """Takes results one by one; `commit` puts the finished file in place, `abort` leaves nothing behind.

    As a context manager it commits at the end of the block and aborts when an error leaves it.

    Attributes:
        path: where the results are after the commit; `-` for stdout, the scheme and host of the URL for a stream.
        kind: one word, such as `masks`.
    """

    path: Path
    kind: str

    @abstractmethod
    def write(self, rgb: UInt8Array, result: FrameResult) -> None:
        """Take one frame, uint8 (H, W, 3), and its result.

        Raises:
            ResourceError: there is no space, or the place cannot be written.
            ReaderGoneError: the reader of the pipe has closed it.
        """

    @abstractmethod
    def commit(self) -> None:
        """Finish and rename to the final name."""

    @abstractmethod
    def abort(self) -> None:
        """Delete what was written so far; does nothing after a commit."""

    def __enter__(self) -> "Sink":
        """Return the sink itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit, or abort after an error."""
        try:
            if kind is None:
                self.commit()
        finally:
            self.abort()


class FpsMeter:
    """Measures frames a second over the last two seconds, at most the last 50 frames.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times_s: deque[float] = deque(maxlen=FPS_FRAMES)

    def count_frame(self) -> float | None:
        """Count one frame now and return frames a second, None for the first."""
        now_s = self._clock()
        self._times_s.append(now_s)
        while now_s - self._times_s[0] > FPS_WINDOW_S and len(self._times_s) > 2:
            self._times_s.popleft()
        elapsed_s = now_s - self._times_s[0]
        return (len(self._times_s) - 1) / elapsed_s if elapsed_s > 0 else None


def safe_name(text: str, used: Container[str] = ()) -> str:
    """A file name without folder from any text: letters, digits, `-`, `_` and `.` stay, the rest becomes `_`.

    Args:
        text: such as the name of a source.
        used: names in use; a number is added to differ from them.
    """
    composed = unicodedata.normalize("NFC", text)
    name = re.sub(r"[^\w.-]+", "_", composed).strip("._")[:SAFE_NAME_CHARACTERS].rstrip("._") or "source"
    if name.partition(".")[0].casefold() in RESERVED_NAMES:
        name = f"_{name}"
    number, unique = 1, name
    while unique in used:
        number += 1
        unique = f"{name}_{number}"
    return unique
