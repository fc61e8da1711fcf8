"""How `nerve-segment` stops: on SIGINT, on SIGTERM, and when nobody reads its output any more."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import typer

SIGNAL_EXIT_BASE = 128
STDERR_DESCRIPTOR = 2
HEARD = b"stopping: what is done is being finished; once more ends at once\n"


class Shutdown:
    """Turns SIGINT and SIGTERM into a request to stop; a second one ends the program at once.

    Attributes:
        stop: set when the run is to stop.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._signal_number: int | None = None
        self._interruptible = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal_number is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._signal_number = number
        # Straight to the descriptor: the signal may have come in the middle of a print, and nobody may read it any more.
        with suppress(OSError):
            os.write(STDERR_DESCRIPTOR, HEARD)
        self.stop.set()
        if self._interruptible:
            raise KeyboardInterrupt

    def stop_for_closed_reader(self) -> None:
        """Stop because the reader of an output, such as `head`, has closed it; the exit code is that of SIGPIPE."""
        if self._signal_number is None:
            self._signal_number = signal.SIGPIPE
        self.stop.set()

    def raise_if_signalled(self) -> None:
        """End with the exit code of the signal, if there was one.

        Raises:
            typer.Exit: 130 or 143; 141 when nobody reads the results any more.
        """
        if self._signal_number is not None:
            raise typer.Exit(SIGNAL_EXIT_BASE + self._signal_number)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal interrupt the block, which opens something for minutes and has nothing to finish.

        Raises:
            typer.Exit: 130 or 143, also when the signal came before the block.
        """
        self.raise_if_signalled()
        self._interruptible = True
        try:
            self.raise_if_signalled()
            yield
        except KeyboardInterrupt:
            self.raise_if_signalled()
            raise
        finally:
            self._interruptible = False

    @contextmanager
    def signal_handlers(self) -> Iterator[None]:
        """Install the handlers for the block, in the main thread only: other threads get no signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
