"""Reads protobuf's wire format, the outer form of ONNX files, without loading what may be gigabytes of weights."""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
BLOCK_BYTES = 1 << 16
VARINT_BYTES = 10  # of 64 bits, seven in each byte
TEXT_LIMIT_BYTES = 4096
# The single graph of the tiny models has 16 thousand, a true-size one some ten times that. Without a bound, gigabytes of
# empty fields would be read for an hour.
FIELDS_LIMIT = 500_000


class MalformedError(ValueError):
    """The bytes are not protobuf, are cut off, or are more than any graph of ours would hold."""


class Field(NamedTuple):
    """One field of a message: its number there, its kind, and where in the file its content starts and ends."""

    number: int
    kind: int
    value: int  # the number itself, 0 to 2**64 - 1, where the kind is VARINT; otherwise 0
    start: int
    end: int

    @property
    def length_bytes(self) -> int:
        """Size of the content."""
        return self.end - self.start


class WireReader:
    """Walks the fields of a file, which can be sought in; holds one block of it and skips contents by their length."""

    def __init__(self, stream: BinaryIO, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._stream = stream
        self._block = b""
        self._block_start = 0
        self._fields_left = FIELDS_LIMIT

    def fields(self, start: int, end: int) -> Iterator[Field]:
        """The fields of the message between two offsets; MalformedError where one is cut off, unknown, or one too many."""
        at = start
        while at < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise MalformedError(f"it has more than {FIELDS_LIMIT} fields")
            tag, at = self._varint(at, end)
            number, kind = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                raise MalformedError(f"field number {number} before byte {at}")
            field = self._content(number, kind, at, end)
            at = field.end
            yield field

    def _content(self, number: int, kind: int, at: int, end: int) -> Field:
        if kind == VARINT:
            value, behind = self._varint(at, end)
            return Field(number, kind, value, at, behind)
        if kind == BYTES:
            length_bytes, at = self._varint(at, end)
        elif kind in FIXED_BYTES:
            length_bytes = FIXED_BYTES[kind]
        else:
            raise MalformedError(f"field of unknown kind {kind} before byte {at}")
        if length_bytes > end - at:
            raise MalformedError(f"at byte {at} {length_bytes} bytes should follow, {end - at} are left")
        return Field(number, kind, 0, at, at + length_bytes)

    def text(self, field: Field) -> str:
        """The content as text; MalformedError where it is not UTF-8, or longer than `TEXT_LIMIT_BYTES`."""
        if field.length_bytes > TEXT_LIMIT_BYTES:
            raise MalformedError(f"a name of {field.length_bytes} bytes at byte {field.start}")
        try:
            return self._bytes(field.start, field.length_bytes).decode("utf-8")
        except UnicodeDecodeError as error:
            raise MalformedError(f"a name that is not UTF-8 at byte {field.start}") from error

    def content(self, field: Field) -> bytes:
        """The bytes of a short field; the caller bounds its length."""
        return self._bytes(field.start, field.length_bytes)

    def numbers(self, field: Field) -> Iterator[int]:
        """The numbers of a repeated varint field, packed or single; MalformedError where the last is cut off."""
        if field.kind == VARINT:
            yield field.value
            return
        at = field.start
        while at < field.end:
            value, at = self._varint(at, field.end)
            yield value

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        content = self._bytes(at, min(VARINT_BYTES, end - at))
        value = 0
        for index, byte in enumerate(content):
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                if value >= 1 << 64:
                    break
                return value, at + index + 1
        raise MalformedError(f"the number at byte {at} is cut off or longer than 64 bits")

    def _bytes(self, start: int, count: int) -> bytes:
        first = start - self._block_start
        if first < 0 or first + count > len(self._block):
            self._stream.seek(start)
            self._block = self._stream.read(max(BLOCK_BYTES, count))
            self._block_start, first = start, 0
            if len(self._block) < count:
                raise MalformedError(f"the file ends at byte {start + len(self._block)} while it is read")
        return self._block[first : first + count]
