"""A decoder process as its parent sees it: started, asked for pictures with a deadline, ended for certain.

A process of its own, because a decoder that hangs in native code, or crashes there, can be stopped no other way.
"""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from nerve_runtime import SourceError
from nerve_stream.sources.decoding.messages import CHANNELS, HEADER_BYTES, Header, Kind
from nerve_stream.sources.decoding.recipe import Recipe, encode_recipe

START_TIMEOUT_S = 20.0  # for a Python that starts while all others are busy
FIRST_PICTURE_TIMEOUT_S = 10.0  # a camera that was joined between two keyframes shows nothing before the second
SLACK_S = 1.0  # the process itself notices that nothing comes; only when it does not is it hung
POLL_MS = 100
CLOSE_TIMEOUT_S = 0.7
TERMINATE_TIMEOUT_S = 2.0
REAP_TIMEOUT_S = 5.0
REQUEST = b"?"
# The search path is handed on as it is, so that the process finds what the parent found, whatever started the parent.
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from nerve_stream.sources.decoding.child import main; main()"
)


class StreamLostError(SourceError):
    """A live source broke off, does not answer, or its decoder process went wrong.

    Attributes:
        crashed: the process died or misbehaved; restarts of such are limited.
    """

    def __init__(self, message: str, *, crashed: bool = False) -> None:
        super().__init__(message)
        self.crashed = crashed


@dataclass(frozen=True, slots=True)
class Opened:
    """What is known of a source once it is open: frames a second, and whether it is a file behind a URL."""

    fps: Fraction | None
    recorded: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture and what the decoder process says of it; see Header."""

    rgb: NDArray[np.uint8]
    header: Header


def decoder_command() -> list[str]:
    """The command line of a decoder process; it holds no URL, which anybody could read there."""
    return [sys.executable, "-c", _PROGRAM, json.dumps(sys.path)]


class Decoder:
    """One opening of a live source in a process of its own. `opened`, then `picture` again and again, then `close`.

    One thread reads; any thread may close, which ends the reading within a poll.

    Args:
        recipe: what to open.
        every: which pictures are wanted: the first of so many.
        timeouts: `open_timeout_s` and `read_timeout_s` of the recipe are watched from here too, with a second's slack.

    Raises:
        StreamLostError: the process cannot be started.
    """

    def __init__(self, recipe: Recipe, every: int) -> None:
        self.name = recipe.name
        self._recipe = recipe
        self._closed = threading.Event()
        self._reading, self._asking = threading.Lock(), threading.Lock()
        self._any_picture = False
        self._process = self._started()
        # Both are there, as both were asked for; mypy cannot know.
        self._stdin, self._stdout = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        self._descriptor = self._stdout.fileno()
        os.set_blocking(self._descriptor, False)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)
        with suppress(BrokenPipeError):  # it died already; reading tells
            self._stdin.write(encode_recipe(recipe, every))

    def _started(self) -> "subprocess.Popen[bytes]":
        pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
        try:
            return subprocess.Popen(decoder_command(), stdin=pipe, stdout=pipe, stderr=nowhere, bufsize=0)
        except OSError as error:
            reason = f"the decoder process of {self.name} cannot be started: {error.strerror}"
            raise StreamLostError(reason, crashed=True) from error

    @property
    def pid(self) -> int:
        """Process id of the decoder process."""
        return self._process.pid

    def opened(self) -> Opened:
        """Wait until the source is open.

        Raises:
            StreamLostError: it cannot be opened, or not in time.
        """
        self._message(START_TIMEOUT_S)
        # Connecting and looking at the pictures may take the timeout each.
        header, text = self._message(2 * self._recipe.open_timeout_s + SLACK_S)
        if header.kind != Kind.OPENED:
            raise StreamLostError(f"the decoder process of {self.name} said {header.kind.name} first", crashed=True)
        fields = json.loads(bytes(text))
        return Opened(Fraction(*fields["fps"]) if fields["fps"] else None, fields["recorded"])

    def picture(self) -> Picture | None:
        """Wait for the next picture; None at the end of a recording.

        Raises:
            StreamLostError: the source broke off, or nothing came for too long.
        """
        self._request()
        while True:
            first_s = max(FIRST_PICTURE_TIMEOUT_S, self._recipe.open_timeout_s)
            timeout_s = self._recipe.read_timeout_s if self._any_picture else first_s
            header, content = self._message(timeout_s + SLACK_S)
            if header.kind == Kind.ENDED:
                return None
            if header.kind == Kind.PICTURE:
                self._any_picture = True
                return Picture(content.reshape(*header.size_hw, CHANNELS), header)

    def _request(self) -> None:
        # Under the lock, as close() in another thread may give the descriptor's number free for somebody else's file.
        with self._asking, suppress(BrokenPipeError):  # it died: reading tells
            if not self._closed.is_set():
                self._stdin.write(REQUEST)

    def _message(self, timeout_s: float) -> tuple[Header, NDArray[np.uint8]]:
        with self._reading:
            header = self._header(self._exactly(HEADER_BYTES, timeout_s).tobytes())
            content = self._exactly(header.payload_bytes, timeout_s)
        if header.kind in (Kind.REFUSED, Kind.LOST):
            raise StreamLostError(bytes(content).decode(errors="replace"))
        if header.kind == Kind.FAULT:
            text = bytes(content).decode(errors="replace")
            raise StreamLostError(
                f"the decoder process of {self.name} met a fault of ours, please report it: {text}", crashed=True
            )
        return header, content

    def _header(self, packed: bytes) -> Header:
        try:
            return Header.unpacked(packed)
        except SourceError as error:
            raise StreamLostError(f"source {self.name}: {error}", crashed=True) from error

    def _exactly(self, count: int, timeout_s: float) -> NDArray[np.uint8]:
        """So many bytes; the deadline begins anew with each that arrives."""
        content = np.empty(count, dtype=np.uint8)
        view: memoryview = content.data
        deadline_s = time.monotonic() + timeout_s
        while view:
            arrived = self._arrived(view)
            if arrived:
                view = view[arrived:]
                deadline_s = time.monotonic() + timeout_s
            elif self._closed.is_set():
                raise StreamLostError(f"source {self.name} was closed")
            # What arrived while this process itself was suspended is not late, hence one look more before giving up.
            elif not self._poll.poll(POLL_MS) and time.monotonic() > deadline_s and not self._poll.poll(0):
                raise StreamLostError(
                    f"source {self.name} gave nothing for {timeout_s:g} s; its decoder hangs and is ended"
                )
        return content

    def _arrived(self, view: memoryview) -> int:
        try:
            arrived = os.readv(self._descriptor, [view])
        except BlockingIOError:
            return 0
        if not arrived:
            raise self._died()
        return arrived

    def _died(self) -> StreamLostError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(TERMINATE_TIMEOUT_S)
        code = self._process.returncode
        how = f"was killed by signal {signal.Signals(-code).name}" if code is not None and code < 0 else "ended"
        if self._closed.is_set():
            return StreamLostError(f"source {self.name} was closed")
        return StreamLostError(f"the decoder process of {self.name} {how} without a word", crashed=True)

    def _ends_within(self, patience_s: float) -> bool:
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        """End the process, first by asking, then by force, within 3 s; reap it and close its pipes. Twice is fine."""
        self._closed.set()
        with self._asking:
            self._stdin.close()  # it closes the connection and ends
        if not self._ends_within(CLOSE_TIMEOUT_S):
            self._process.terminate()
            if not self._ends_within(TERMINATE_TIMEOUT_S):
                self._process.kill()
                self._process.wait(REAP_TIMEOUT_S)
        with self._reading:  # the reader leaves at its next poll
            self._stdout.close()
