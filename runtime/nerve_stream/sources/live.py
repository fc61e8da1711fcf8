"""Cameras and streams: read through a decoder process, and reached again when they were lost."""

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from nerve_runtime import Frame, SourceError, UsageError
from nerve_stream.backoff import Backoff, RestartBudget
from nerve_stream.redaction import redacted
from nerve_stream.sources.base import FrameSource, SourceState
from nerve_stream.sources.decoding.inputs import LiveInput
from nerve_stream.sources.decoding.process import Decoder, ReceivedFrame, StreamLostError
from nerve_stream.sources.options import LiveOptions, Part

# A camera takes one or two seconds more to show its first frame, and has to be back within 10 s of its return.
LONGEST_DELAY_S = 6.0
STEADY_S = 0.5  # a source that is lost sooner than this after its return has not returned: delays go on growing
LONGEST_STEP_S = 10  # a clock that leaps further ahead of the arrival of its frames was set
SHORTEST_STEP_S = Fraction(1, 1000)
NANOSECONDS = 1_000_000_000

logger = logging.getLogger("nerve_runtime")


@dataclass(slots=True)
class StreamClock:
    """Times of a live source: seconds since its first frame by its own clock, always growing.

    Where the source has no clock, where it stands still or leaps, and across a loss, the time between the arrivals of
    two frames is taken, at least a millisecond.
    """

    _time_s: Fraction = Fraction(0)
    _own_s: Fraction | None = None
    _arrived_ns: int | None = None

    def time_s(self, own_s: Fraction | None, arrived_ns: int) -> Fraction:
        """The time of the next frame, which shows `own_s` on the source's clock and arrived at `arrived_ns`."""
        if self._arrived_ns is not None:
            waited_s = Fraction(max(0, arrived_ns - self._arrived_ns), NANOSECONDS)
            step_s = own_s - self._own_s if own_s is not None and self._own_s is not None else Fraction(0)
            believed = 0 < step_s <= waited_s + LONGEST_STEP_S
            self._time_s += step_s if believed else max(waited_s, SHORTEST_STEP_S)
        self._own_s, self._arrived_ns = own_s, arrived_ns
        return self._time_s

    def forget_source(self) -> None:
        """The next frame comes from another connection, whose clock may begin anywhere."""
        self._own_s = None


def open_live(live_input: LiveInput, part: Part, options: LiveOptions) -> "LiveSource":
    """Open a camera or a stream; see LiveSource."""
    if part.start_s:
        raise UsageError(
            f"source {live_input.name} is live and has no start to skip; leave start out or record it first"
        )
    source = LiveSource(live_input, part, options)
    try:
        source.open_first()
    except BaseException:
        source.close()
        raise
    return source


class LiveSource(FrameSource):
    """A camera or a stream, decoded in a process of its own.

    `index` counts the frames that were decoded, over all connections; where frames were lost or not wanted it leaps.
    `time_s` is that of StreamClock. While the source is lost, `next` waits and tries again, 0.5 to 6 s between
    attempts; what comes from a decoder process that crashed more than five times in a minute has failed.
    """

    live = True
    state: SourceState = "opening"

    def __init__(self, live_input: LiveInput, part: Part, options: LiveOptions) -> None:
        self.name = live_input.name
        self.size_hw = (0, 0)
        self._input, self._part, self._options = live_input, part, options
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._decoder: Decoder | None = None
        self._first: ReceivedFrame | None = None
        self._recorded = False
        self._clock = StreamClock()
        self._backoff = Backoff(longest_s=LONGEST_DELAY_S)
        self._budget = RestartBudget()
        self._next_index = self._first_index = self._lost_before = 0
        self._returned_at_s = self._away_since_s = time.monotonic()

    def open_first(self) -> None:
        """Reach the source for the first time, and wait for its first frame.

        Raises:
            SourceError: it cannot be opened and is not waited for.
        """
        try:
            self._connect()
        except StreamLostError as error:
            self._note(error)
            if not self._options.wait_for_source:
                self.state = "failed"
                raise SourceError(str(error)) from error
            self._disconnect()
            logger.warning("source %s is waited for: %s", self.name, error)

    def _connect(self) -> None:
        """Start a decoder process and take its first frame."""
        with self._lock:
            if self._closing.is_set():
                raise StreamLostError(f"source {self.name} was closed")
            self._decoder = decoder = Decoder(self._input, self._part.every)
        opened = decoder.opened()
        received = decoder.frame()
        if received is None:
            raise StreamLostError(f"source {self.name} ended before its first frame")
        self.fps, self._recorded, self._first = opened.fps, opened.recorded, received
        if self.size_hw == (0, 0):
            self.size_hw = received.header.size_hw
        self._first_index, self._lost_before = self._next_index, self.lost
        self._clock.forget_source()
        self._returned_at_s = time.monotonic()
        self.state = "streaming"

    def _disconnect(self) -> None:
        with self._lock:
            decoder, self._decoder = self._decoder, None
        if decoder is not None:
            decoder.close()

    def read_frames(self) -> Iterator[Frame]:
        """Give the newest frames as they come; see FrameSource."""
        while not self._closing.is_set():
            try:
                received = self._next_received()
            except StreamLostError as error:
                self._lose(error)
                continue
            if received is None:
                return
            frame = self._frame_of(received)
            if self._part.length_s is not None and frame.time_s >= self._part.length_s:
                return
            yield frame

    def _next_received(self) -> ReceivedFrame | None:
        if self._decoder is None:
            self._come_back()
        first, self._first = self._first, None
        with self._lock:
            decoder = self._decoder
        return decoder.frame() if first is None and decoder is not None else first

    def _frame_of(self, received: ReceivedFrame) -> Frame:
        header = received.header
        index = self._first_index + header.index
        self._next_index = index + 1
        self.lost = self._lost_before + header.superseded
        return Frame(received.rgb, index, self._clock.time_s(header.time_s, header.arrived_ns), header.arrived_ns)

    def _note(self, error: StreamLostError) -> None:
        self.last_error = redacted(str(error))

    def _lose(self, error: StreamLostError) -> None:
        """Say that the source is lost and end its decoder.

        Raises:
            SourceError: it is a recording, which would begin anew, or its decoder crashes again and again.
        """
        if self._closing.is_set():
            return
        self._note(error)
        if self._recorded:
            raise SourceError(f"{error}; it is a recording that broke off, fetch it and read the file") from error
        self.state = "reconnecting"
        self._away_since_s = time.monotonic()
        logger.warning("source %s is lost: %s", self.name, error)
        if self._away_since_s - self._returned_at_s >= STEADY_S:
            self._backoff.reset()
        self._disconnect()
        self._spend(error)

    def _spend(self, error: StreamLostError) -> None:
        if error.crashed and not self._budget.grant():
            raise SourceError(
                f"source {self.name} has failed: its decoder process crashed more than {self._budget.restarts} times in "
                f"{self._budget.within_s:.0f} s, the last time because {error}"
            ) from error

    def _come_back(self) -> None:
        """Try until the source is there again, or nobody waits for it any more.

        Raises:
            SourceError: it stayed away too long.
        """
        was_lost = self.state == "reconnecting"
        while not self._closing.wait(self._backoff.delay_s()):
            try:
                self._connect()
            except StreamLostError as error:
                self._disconnect()
                if self._closing.is_set():
                    return
                self._note(error)
                self._spend(error)
                self._give_up_if_late(error)
                continue
            self.reconnects += was_lost
            away_s, word = time.monotonic() - self._away_since_s, "back" if was_lost else "there"
            logger.warning("source %s is %s after %.1f s", self.name, word, away_s)
            return

    def _give_up_if_late(self, error: StreamLostError) -> None:
        limit_s = self._options.give_up_after_s
        if limit_s is not None and time.monotonic() - self._away_since_s >= limit_s:
            raise SourceError(f"source {self.name} was away for {limit_s:g} s and is given up: {error}") from error

    def close(self) -> None:
        """End the decoder process; a `next` that waits in another thread ends too."""
        super().close()
        self._closing.set()
        self._disconnect()
