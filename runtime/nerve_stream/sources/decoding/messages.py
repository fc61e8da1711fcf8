"""Messages of a decoder process to its parent: a header of fixed size, then pixels or text."""

import struct
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction

from nerve_runtime import SourceError
from nerve_runtime.opencv import IMAGE_PIXELS_LIMIT

TEXT_LIMIT_BYTES = 100_000
CHANNELS = 3
_LAYOUT = struct.Struct("<B3xIIIqqqqQ")
HEADER_BYTES = _LAYOUT.size


class Kind(IntEnum):
    """What a message means."""

    STARTED = 1
    """The process runs and begins to open the source."""
    OPENED = 2
    """The source is open; text: JSON with `fps` (two integers or null) and `recorded`."""
    PICTURE = 3
    """Pixels follow."""
    ALIVE = 4
    """Pictures are decoded, none was wanted for a while."""
    ENDED = 5
    """A recording came to its end."""
    REFUSED = 6
    """The source cannot be opened; text: why."""
    LOST = 7
    """The source broke off; text: why."""
    FAULT = 8
    """A fault of the program; text: where."""


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the pixels or the text.

    Attributes:
        kind: what the message means.
        size_hw: of the picture in pixels; (0, 0) without one.
        index: number of the picture since the source was opened, from 0, those not sent included.
        superseded: pictures that newer ones replaced before they could be sent, since the source was opened.
        arrived_ns: when the picture was decoded, by the monotonic clock.
        time_s: its time by the stream's own clock, None if that has none.
        payload_bytes: how many bytes follow.
    """

    kind: Kind
    size_hw: tuple[int, int] = (0, 0)
    index: int = 0
    superseded: int = 0
    arrived_ns: int = 0
    time_s: Fraction | None = None
    payload_bytes: int = 0

    def packed(self) -> bytes:
        """The header's bytes."""
        numerator, denominator = (0, 0) if self.time_s is None else self.time_s.as_integer_ratio()
        numbers = (self.superseded, self.index, self.arrived_ns, numerator, denominator, self.payload_bytes)
        return _LAYOUT.pack(self.kind, *self.size_hw, *numbers)

    @classmethod
    def unpacked(cls, packed: bytes) -> "Header":
        """The header from its bytes; sizes are checked, as memory is taken by them.

        Raises:
            SourceError: the bytes are no header.
        """
        kind, height, width, superseded, index, arrived_ns, numerator, denominator, payload_bytes = _LAYOUT.unpack(
            packed
        )
        is_picture = kind == Kind.PICTURE and 0 < height * width <= IMAGE_PIXELS_LIMIT
        expected_bytes = height * width * CHANNELS if is_picture else TEXT_LIMIT_BYTES
        fits = payload_bytes == expected_bytes if is_picture else payload_bytes <= expected_bytes
        if kind not in set(Kind) or (kind == Kind.PICTURE and not is_picture) or not fits:
            raise SourceError("the decoder process sent something that is no frame")
        time_s = Fraction(numerator, denominator) if denominator else None
        return cls(Kind(kind), (height, width), index, superseded, arrived_ns, time_s, payload_bytes)
