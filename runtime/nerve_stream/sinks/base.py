"""The interface of a sink, file names made from names of sources, and a frame-rate meter."""

import os
import re
import shutil
import tempfile
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

from nerve_runtime import FrameResult, NerveError, UsageError
from nerve_runtime.atomic import link_target, refuse_special, resource_errors
from nerve_stream.sources.images import Picture

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
    def write(self, rgb: UInt8Array, result: FrameResult, picture: Picture | None = None) -> None:
        """Take one frame and its result.

        Args:
            rgb: the frame, uint8 (H, W, 3).
            result: its labels, of the same size.
            picture: the frame as its source gave it, when it is an image file of its own: then outputs bear its name.

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


class NewFiles:
    """Files that appear in a folder together, or not at all: they are written beside it and moved into it at the end.

    Args:
        folder: where they will be; need not exist. Its place on disk is the same, so moving never copies.

    Raises:
        ResourceError: the folder around it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with resource_errors(folder):
            target = link_target(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            self._temporary = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.", suffix=".tmp", dir=target.parent))

    def write(self, name: str, content: bytes) -> None:
        """Write one file, still beside the folder."""
        with resource_errors(self._folder):
            (self._temporary / name).write_bytes(content)

    def move(self) -> None:
        """Make the folder if needed and move all files into it."""
        with resource_errors(self._folder):
            link_target(self._folder).mkdir(parents=True, exist_ok=True)
            for file in self._temporary.iterdir():
                file.replace(self._folder / file.name)

    def delete(self) -> None:
        """Delete what was not moved."""
        shutil.rmtree(self._temporary, ignore_errors=True)


def refuse_filled_folder(what: str, folder: Path, *, force: bool, suffix: str = ".png") -> None:
    """Refuse a folder that files of one suffix cannot be written to.

    Args:
        what: the files, such as "masks", for the message.
        folder: need not exist.
        force: replace files that are there.
        suffix: of the files, in lower case.

    Raises:
        UsageError: `folder` is no folder, or it holds files of that suffix and `force` is false.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{what} folder {folder} is a file, expected a folder")
    refuse_special(folder)
    if not force and folder.is_dir() and any(inside.suffix.lower() == suffix for inside in folder.iterdir()):
        raise UsageError(f"folder {folder} holds {what} already; choose another or add --force to replace them")


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
