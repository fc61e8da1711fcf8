"""Messages of a decoder process to its parent: a header of JSON, and the pixels of a frame behind it."""

import json
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.opencv import IMAGE_PIXELS_LIMIT
from nerve_stream.child import Connection, MessageError

CHANNELS = 3
Kind = Literal["started", "opened", "frame", "alive", "ended", "lost"]
"""The process runs and begins to open the source; it is open; a frame; frames are decoded but none was wanted for a while;
a recording came to its end; the source cannot be opened or broke off."""

KINDS = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the pixels.

    Attributes:
        kind: what the message means.
        text: why the source is lost.
        fps: of an opened source, None if unknown.
        recorded: the opened source is a file behind a URL.
        size_hw: of the frame in pixels; (0, 0) without one.
        index: number of the frame since the source was opened, from 0, those not sent included.
        superseded: frames that newer ones replaced before they could be sent, since the source was opened.
        arrived_ns: when the frame was decoded, by the monotonic clock.
        time_s: its time by the stream's own clock, None if that has none.
    """

    kind: Kind
    text: str = ""
    fps: Fraction | None = None
    recorded: bool = False
    size_hw: tuple[int, int] = (0, 0)
    index: int = 0
    superseded: int = 0
    arrived_ns: int = 0
    time_s: Fraction | None = None


def send_header(connection: Connection, header: Header, rgb: NDArray[np.uint8] | None = None) -> None:
    """Send a header, and the pixels (H, W, 3) of its frame.

    Raises:
        ConnectionError: the parent is gone.
    """
    fields = {name: getattr(header, name) for name in Header.__slots__}
    fields |= {name: None if fields[name] is None else str(fields[name]) for name in ("fps", "time_s")}
    pixels = () if rgb is None else (rgb.reshape(-1).data,)
    connection.send(json.dumps(fields).encode(), *pixels)


def receive_header(connection: Connection, timeout_s: float) -> tuple[Header, NDArray[np.uint8]]:
    """Wait for a message: its header, and the pixels (H, W, 3) of its frame, (0, 0, 3) without one.

    Raises:
        ConnectionError: the process is gone.
        TimeoutError: nothing arrives.
        MessageError: what arrives is no such message.
    """
    first, *pixels = connection.receive(timeout_s) or [np.empty(0, dtype=np.uint8)]
    try:
        header = _header(json.loads(first.tobytes()))
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise MessageError("its header does not fit") from error
    height, width = header.size_hw
    if [content.size for content in pixels] != ([height * width * CHANNELS] if header.kind == "frame" else []):
        raise MessageError("its pixels do not fit its header")
    return header, pixels[0].reshape(height, width, CHANNELS) if pixels else np.empty((0, 0, CHANNELS), dtype=np.uint8)


def _header(fields: dict[str, Any]) -> Header:
    """The header from its JSON; its types and sizes are checked, as memory is taken by them."""
    fractions = {name: None if fields[name] is None else Fraction(fields[name]) for name in ("fps", "time_s")}
    height, width = fields["size_hw"]
    header = Header(**{**fields, **fractions, "size_hw": (height, width)})
    numbers = (height, width, header.index, header.superseded, header.arrived_ns)
    if fields["kind"] not in KINDS or not isinstance(fields["text"], str) or {type(n) for n in numbers} != {int}:
        raise ValueError("a field of another type")
    if header.kind == "frame" and not (min(height, width) > 0 and height * width <= IMAGE_PIXELS_LIMIT):
        raise ValueError("a size that no frame has")
    return header
