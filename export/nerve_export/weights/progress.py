"""What a user sees while gigabytes come: each file and all of them, with rate and remaining time."""

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from nerve_export.cli.console import stderr_console
from nerve_export.weights.hub import resolved_weights
from nerve_ref.weights.architectures import Backbones
from nerve_ref.weights.files import ResolvedWeights, WeightChoice

GIGABYTE, MEGABYTE = 1e9, 1e6
LINE_FROM_BYTES = 1_000_000
"""Smaller files are not told of: they are there at once."""
LINE_EVERY_S = 10.0
"""Where no bar can be drawn, as in a log."""


def weights_with_bars(backbones: Backbones, choice: WeightChoice) -> ResolvedWeights:
    """All files of a variant, as `resolved_weights`; what has to be fetched is shown on standard error.

    Raises:
        BundleError: a file is missing, withdrawn, cut off, swapped or refused.
        ResourceError: there is no space for what would be fetched, or it cannot be written.
    """
    with DownloadBars(stderr_console()) as bars:
        return resolved_weights(backbones, choice, bars.line, bars)


class DownloadBars:
    """Two bars on a terminal, one for the file and one for all; elsewhere a line now and then, and one a file.

    Nothing is shown where nothing is fetched. A `with` block whose download is interrupted from the keyboard ends with
    a sentence on how to go on.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        """Show it on `console`; `clock` is in seconds."""
        self._console, self._clock = console, clock
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._all: TaskID | None = None
        self._file: TaskID | None = None
        self._total_bytes = self._here_bytes = self._came_bytes = 0
        self._counted: dict[str, int] = {}
        self._name, self._file_bytes, self._file_here_bytes, self._file_came_bytes = "", 0, 0, 0
        self._began_s = self._file_began_s = self._told_s = clock()

    def __enter__(self) -> "DownloadBars":
        """Begin; no bar is drawn before there is something to fetch."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Take the bars away."""
        if self._console.is_terminal:
            self._bars.stop()
        if kind is KeyboardInterrupt and self._total_bytes:
            self.line("stopped; what came is kept, and the same command goes on from there")

    def line(self, text: str) -> None:
        """Print a line above the bars."""
        self._console.print(text)

    def expect(self, total_bytes: int, here_bytes: int) -> None:
        """All files together: how many bytes, and how many of them are here already."""
        self._total_bytes, self._here_bytes, self._began_s = total_bytes, here_bytes, self._clock()
        if self._console.is_terminal:
            self._all = self._bars.add_task("all files", total=total_bytes, completed=here_bytes)
            self._bars.start()

    def begin(self, name: str, total_bytes: int | None, here_bytes: int) -> None:
        """A file begins, or goes on; what was counted of it before is fetched again if it is not here."""
        if here_bytes == 0:
            self._take_back(self._counted.pop(name, 0))
        self._name, self._file_bytes, self._file_here_bytes = name, total_bytes or 0, here_bytes
        self._file_came_bytes, self._file_began_s = 0, self._clock()
        self._told_s = self._file_began_s
        if self._console.is_terminal:
            self._file = self._bars.add_task(name, total=total_bytes, completed=here_bytes)
            self._bars.start()

    def update(self, n: int, /) -> None:
        """So many bytes more of the file that began last."""
        self._file_came_bytes += n
        self._came_bytes += n
        self._counted[self._name] = self._counted.get(self._name, 0) + n
        for task in (self._file, self._all):
            if task is not None:
                self._bars.advance(task, n)
        if not self._console.is_terminal and self._clock() - self._told_s >= LINE_EVERY_S:
            self._told_s = self._clock()
            self.line(self._state())

    def end(self) -> None:
        """The file that began last is here."""
        if self._file is not None:
            self._bars.remove_task(self._file)
            self._file = None
        if self._file_came_bytes >= LINE_FROM_BYTES:
            self.line(self._state())

    def _take_back(self, n: int) -> None:
        self._came_bytes -= n
        if self._all is not None:
            self._bars.advance(self._all, -n)

    def _state(self) -> str:
        """How far the file and all of them are, the rate of the file, and how long the rest takes at the rate of all."""
        now = self._clock()
        here, rate = (
            self._file_here_bytes + self._file_came_bytes,
            _rate(self._file_came_bytes, now - self._file_began_s),
        )
        text = f"{self._name}: {_size(here)} of {_size(max(self._file_bytes, here))}, {_size(rate)}/s"
        rest = self._total_bytes - self._here_bytes - self._came_bytes
        if self._total_bytes:
            text += f"; all files: {_size(self._here_bytes + self._came_bytes)} of {_size(self._total_bytes)}"
        if self._total_bytes and rest > 0 and self._came_bytes:
            text += f", about {_duration(rest / _rate(self._came_bytes, now - self._began_s))} left"
        return text


def _rate(came_bytes: int, seconds: float) -> float:
    return came_bytes / max(seconds, 1e-3)


def _size(size_bytes: float) -> str:
    if size_bytes >= GIGABYTE:
        return f"{size_bytes / GIGABYTE:.2f} GB"
    return f"{size_bytes / MEGABYTE:.1f} MB"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"
