"""Messages between a run and its worker process: a small header of plain values, and pixels as raw bytes."""

import errno
import json
import os
import select
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerve_runtime import Frame, FrameResult, NerveError

PREFIX = struct.Struct("<IQ")
"""Bytes of the header, bytes of the pixels."""
HEADER_LIMIT_BYTES = 2**20
PIXELS_LIMIT_BYTES = 2**31
READ_AT_ONCE_BYTES = 2**20

UInt8Array = NDArray[np.uint8]


class ConnectionLostError(Exception):
    """The other side is gone, or what it sent is no message."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message: plain values by name, and pixels if it has any.

    Attributes:
        header: `kind` says what it is.
        pixels: raw bytes, writable, so that arrays may be made of them without a copy.
    """

    header: Mapping[str, Any]
    pixels: bytearray

    @property
    def kind(self) -> str:
        """What the message is."""
        return str(self.header["kind"])


def send_message(write_fd: int, header: Mapping[str, Any], pixels: Sequence[UInt8Array] = ()) -> None:
    """Write one message to a blocking pipe, in one go.

    Raises:
        ConnectionLostError: the other side is gone.
    """
    encoded = json.dumps(header).encode()
    flat = [np.ascontiguousarray(plane).reshape(-1).data for plane in pixels]
    prefix = PREFIX.pack(len(encoded), sum(len(plane) for plane in flat))
    for part in (memoryview(prefix + encoded), *flat):
        _write_all(write_fd, part)


def _write_all(write_fd: int, part: memoryview) -> None:
    try:
        while part:
            part = part[os.write(write_fd, part) :]
    except OSError as error:
        raise ConnectionLostError(f"the other side is gone ({errno.errorcode.get(error.errno or 0, error)})") from error


class MessageReader:
    """Puts messages together from what a pipe holds, without ever waiting for the rest of one.

    Args:
        read_fd: end of a pipe; it is made non-blocking.
    """

    def __init__(self, read_fd: int) -> None:
        self._read_fd = read_fd
        os.set_blocking(read_fd, False)
        self._poll = select.poll()
        self._poll.register(read_fd, select.POLLIN)
        self._header: dict[str, Any] | None = None
        self._sizes: tuple[int, int] | None = None
        self._part = bytearray(PREFIX.size)
        self._filled = 0

    def next(self, timeout_s: float | None) -> Message | None:
        """The next message; None when the time was over first. Without a time, wait for ever.

        Raises:
            ConnectionLostError: the other side is gone, or what it sent is no message.
        """
        while (message := self._advance()) is None:
            if not self._poll.poll(None if timeout_s is None else 1000 * timeout_s):
                return None
        return message

    def _advance(self) -> Message | None:
        """Read what there is, up to the end of one message."""
        while True:
            while self._filled < len(self._part):
                if not self._read_some():
                    return None
            message = self._completed()
            if message is not None:
                return message

    def _read_some(self) -> bool:
        view = memoryview(self._part)[self._filled : self._filled + READ_AT_ONCE_BYTES]
        try:
            count = os.readv(self._read_fd, [view])
        except BlockingIOError:
            return False
        except OSError as error:
            raise ConnectionLostError(f"the pipe cannot be read ({error})") from error
        if count == 0:
            raise ConnectionLostError("the other side is gone")
        self._filled += count
        return True

    def _completed(self) -> Message | None:
        """Go from one full part to the next; the pixels are the last."""
        part, self._filled = self._part, 0
        if self._sizes is None:
            self._sizes = PREFIX.unpack(part)
            if self._sizes[0] > HEADER_LIMIT_BYTES or self._sizes[1] > PIXELS_LIMIT_BYTES:
                raise ConnectionLostError(f"a message declares {self._sizes} bytes, more than any message has")
            self._part = bytearray(self._sizes[0])
            return None
        if self._header is None:
            self._header = json.loads(part)
            self._part = bytearray(self._sizes[1])
            if self._sizes[1]:
                return None
            part = self._part
        message = Message(self._header, part)
        self._header = self._sizes = None
        self._part = bytearray(PREFIX.size)
        return message


def frame_header(frame: Frame) -> dict[str, Any]:
    """A frame without its pixels, as plain values."""
    return {
        "index": frame.index,
        "time_s": str(frame.time_s),
        "arrived_ns": frame.arrived_ns,
        "size_hw": frame.rgb.shape[:2],
    }


def frame_from(message: Message) -> Frame:
    """The frame whose header and pixels a message holds."""
    header = message.header
    rgb = np.frombuffer(message.pixels, dtype=np.uint8).reshape(*header["size_hw"], 3)
    return Frame(rgb, header["index"], Fraction(header["time_s"]), header["arrived_ns"])


def result_header(result: FrameResult) -> dict[str, Any]:
    """A result without its pixels, as plain values."""
    return {
        "class_names": result.class_names,
        "index": result.index,
        "time_s": None if result.time_s is None else str(result.time_s),
        "timings_ms": result.timings_ms,
        "keyframe": result.keyframe,
        "affinity_age": result.affinity_age,
        "valid": result.valid,
        "size_hw": result.labels.shape,
    }


def result_from(message: Message) -> FrameResult:
    """The result whose header, labels and confidence a message holds."""
    header = message.header
    height, width = header["size_hw"]
    labels, confidence = np.frombuffer(message.pixels, dtype=np.uint8).reshape(2, height, width)
    return FrameResult(
        labels=labels,
        confidence=confidence,
        class_names=tuple(header["class_names"]),
        index=header["index"],
        time_s=None if header["time_s"] is None else Fraction(header["time_s"]),
        timings_ms=dict(header["timings_ms"]),
        keyframe=header["keyframe"],
        affinity_age=header["affinity_age"],
        valid=header["valid"],
    )


def error_header(error: NerveError) -> dict[str, Any]:
    """An error raised on purpose, as plain values."""
    return {"error": type(error).__name__, "message": str(error)}


def error_from(header: Mapping[str, Any]) -> NerveError:
    """The same error, of its own type and so with its exit code."""
    kinds: list[type[NerveError]] = NerveError.__subclasses__()
    named = {kind.__name__: kind for kind in kinds}
    return named.get(header["error"], NerveError)(header["message"])
