"""The decoder process of a live source, as its parent uses it.

A process of its own, because a decoder that hangs in native code, or crashes there, can be stopped no other way.
"""

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nerve_runtime import SourceError
from nerve_stream.child import Child, MessageError
from nerve_stream.sources.decoding.inputs import LiveInput, encode_input
from nerve_stream.sources.decoding.messages import Header, receive_header

START_TIMEOUT_S = 20.0  # for a Python that starts while all others are busy
FIRST_FRAME_TIMEOUT_S = 10.0  # a camera that was joined between two keyframes shows nothing before the second
SLACK_S = 1.0  # the process itself notices that nothing comes; only when it does not is it hung
TARGET = "nerve_stream.sources.decoding.child:main"


class StreamLostError(SourceError):
    """A live source broke off, does not answer, or its decoder process went wrong.

    Attributes:
        crashed: the process died or misbehaved; restarts of such are limited.
    """

    def __init__(self, message: str, *, crashed: bool = False) -> None:
        super().__init__(message)
        self.crashed = crashed


@dataclass(frozen=True, slots=True)
class ReceivedFrame:
    """A frame, RGB (H, W, 3), and what the decoder process says of it; see Header."""

    rgb: NDArray[np.uint8]
    header: Header


class Decoder:
    """One opening of a live source in a process of its own: `opened`, then `frame` again and again, then `close`.

    One thread reads; any thread may close, which ends the reading at once.

    Args:
        live_input: what to open; its timeouts are watched from here too, with a second's slack.
        every: which frames are wanted: the first of so many.

    Attributes:
        pid: number of the process.

    Raises:
        StreamLostError: the process cannot be started.
    """

    def __init__(self, live_input: LiveInput, every: int) -> None:
        self.name = live_input.name
        self._input = live_input
        self._closed = self._any_frame = False
        try:
            self._child = Child(TARGET)
        except OSError as error:
            reason = f"the decoder process of {self.name} cannot be started: {error.strerror}"
            raise StreamLostError(reason, crashed=True) from error
        self.pid = self._child.pid
        self._send(encode_input(live_input, every))

    def opened(self) -> Header:
        """Wait until the source is open.

        Raises:
            StreamLostError: it cannot be opened, or not in time.
        """
        self._receive(START_TIMEOUT_S)
        # Connecting and looking at the frames may take the timeout each.
        header, _ = self._receive(2 * self._input.open_timeout_s + SLACK_S)
        if header.kind != "opened":
            raise StreamLostError(f"the decoder process of {self.name} sent {header.kind!r} first", crashed=True)
        return header

    def frame(self) -> ReceivedFrame | None:
        """Request the next frame and wait for it; None at the end of a recording.

        Raises:
            StreamLostError: the source broke off, or nothing came for too long.
        """
        self._send()
        while True:
            first_s = max(FIRST_FRAME_TIMEOUT_S, self._input.open_timeout_s)
            timeout_s = self._input.read_timeout_s if self._any_frame else first_s
            header, rgb = self._receive(timeout_s + SLACK_S)
            if header.kind == "ended":
                return None
            if header.kind == "frame":
                self._any_frame = True
                return ReceivedFrame(rgb, header)

    def close(self) -> None:
        """End the process, first by asking, then by force, within 3 s. Twice is fine."""
        self._closed = True
        self._child.close()

    def _send(self, *parts: bytes) -> None:
        with suppress(OSError):  # it died, or was closed from another thread; receiving tells
            self._child.connection.send(*parts, timeout_s=START_TIMEOUT_S)

    def _receive(self, timeout_s: float) -> tuple[Header, NDArray[np.uint8]]:
        try:
            header, rgb = receive_header(self._child.connection, timeout_s)
        except TimeoutError:
            raise StreamLostError(
                f"source {self.name} gave nothing for {timeout_s:g} s; its decoder hangs and is ended"
            ) from None
        except MessageError as error:
            reason = f"source {self.name}: the decoder process sent something that is no frame: {error}"
            raise StreamLostError(reason, crashed=True) from error
        except OSError:
            if self._closed:
                raise StreamLostError(f"source {self.name} was closed") from None
            ending = f"the decoder process of {self.name} {self._child.ending()}"
            raise StreamLostError(ending, crashed=True) from None
        if header.kind == "lost":
            raise StreamLostError(header.text)
        return header, rgb
