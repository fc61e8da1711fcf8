"""What a caller may ask of a source: which part of a file, and how patient to be with a stream."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from nerve_runtime import UsageError

Seconds = float | Fraction
RtspTransport = Literal["tcp", "udp"]
MICROSECONDS = 1_000_000
RTSP_TRANSPORTS: tuple[RtspTransport, ...] = ("tcp", "udp")


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """How a camera or a stream is opened and watched.

    Attributes:
        open_timeout_s: how long connecting, and after it finding the pictures, may take each.
        read_timeout_s: how long nothing may arrive before the source counts as lost.
        rtsp_transport: how RTSP brings its pictures; "udp" loses some rather than wait for them.
        wait_for_source: go on trying when the very first opening fails, instead of a SourceError.
        give_up_after_s: how long a source may stay away before it counts as failed; None for ever.

    Raises:
        UsageError: a time is no positive number, or the transport is unknown.
    """

    open_timeout_s: float = 5.0
    read_timeout_s: float = 2.0
    rtsp_transport: RtspTransport = "tcp"
    wait_for_source: bool = False
    give_up_after_s: float | None = None

    def __post_init__(self) -> None:
        _positive("open_timeout_s", self.open_timeout_s)
        _positive("read_timeout_s", self.read_timeout_s)
        if self.give_up_after_s is not None:
            _positive("give_up_after_s", self.give_up_after_s)
        if self.rtsp_transport not in RTSP_TRANSPORTS:
            raise UsageError(f"rtsp_transport is {self.rtsp_transport!r}, expected {' or '.join(RTSP_TRANSPORTS)}")


@dataclass(frozen=True, slots=True)
class Part:
    """The part of a source that is wanted.

    Attributes:
        start_s: seconds after the source's first frame.
        duration_s: seconds from there on, None for all.
        every: 1 gives each frame, 3 the first of every three.

    Raises:
        UsageError: a time is negative or no number, or `every` is no whole number of at least 1.
    """

    start_s: Seconds = 0
    duration_s: Seconds | None = None
    every: int = 1

    def __post_init__(self) -> None:
        if not (_is_number(self.start_s) and self.start_s >= 0):
            raise UsageError(f"start is {self.start_s!r} s, expected a number of seconds of at least 0")
        if self.duration_s is not None:
            _positive("duration", self.duration_s)
        if not _is_number(self.every) or self.every != int(self.every) or self.every < 1:
            raise UsageError(f"every is {self.every!r}, expected a whole number of frames of at least 1")

    @property
    def whole(self) -> bool:
        """Whether every second of the source is wanted."""
        return self.start_s == 0 and self.duration_s is None

    @property
    def begin_s(self) -> Fraction:
        """The start to the microsecond: the float 0.04 is a little more than 1/25 and would miss its frame."""
        return Fraction(self.start_s).limit_denominator(MICROSECONDS)

    @property
    def length_s(self) -> Fraction | None:
        """The duration, likewise; None for all."""
        return None if self.duration_s is None else Fraction(self.duration_s).limit_denominator(MICROSECONDS)

    def refuse_beyond(self, name: str, length_s: Fraction) -> UsageError:
        """The error for a start that lies behind the last frame of the source `name`."""
        return UsageError(
            f"start {float(self.start_s):g} s lies behind the end of {name}, which is {float(length_s):.3f} s long; "
            "start earlier"
        )


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Which part of every source of a run is read; the meanings are those of `open_frames`, `limit` is in frames."""

    allow_partial: bool = False
    start_s: Seconds = 0.0
    duration_s: Seconds | None = None
    every: int = 1
    limit: int | None = None


def _is_number(value: object) -> bool:
    """Callers without a type checker give what they like."""
    return isinstance(value, (int, float, Fraction)) and not isinstance(value, bool) and math.isfinite(value)


def _positive(what: str, value: Seconds) -> None:
    if not (_is_number(value) and value > 0):
        raise UsageError(f"{what} is {value!r} s, expected a number of seconds above 0")
