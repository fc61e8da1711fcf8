"""Size of an image from its first bytes, so that a picture too large is refused before it is decoded.

Sources: PNG specification (IHDR); ITU-T T.81 annex B (SOF markers); BMP DIB headers; WebP container (RFC 9649).
"""

import struct

# SOF markers carry the size; C4 (Huffman tables), C8 (reserved) and CC (arithmetic conditioning) lie in the same range.
JPEG_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
JPEG_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})
BMP_CORE_HEADER_BYTES = 12


def image_size_hw(content: bytes) -> tuple[int, int] | None:
    """Height and width in pixels of a PNG, JPEG, BMP or WebP image; None when it is none of these or cut off.

    Args:
        content: the file's bytes, at least up to the end of its header.
    """
    readers = {b"\x89PNG\r\n\x1a\n": _png, b"\xff\xd8": _jpeg, b"BM": _bmp, b"RIFF": _webp}
    for magic, reader in readers.items():
        if content.startswith(magic):
            try:
                return reader(content)
            except (struct.error, IndexError):
                return None
    return None


def looks_like_image(start: bytes) -> bool:
    """Whether a file's first 12 bytes are those of a PNG, JPEG, BMP or WebP image."""
    return start.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM")) or (
        start.startswith(b"RIFF") and start[8:12] == b"WEBP"
    )


def _png(content: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", content, 16)
    return height, width


def _bmp(content: bytes) -> tuple[int, int]:
    (header_bytes,) = struct.unpack_from("<I", content, 14)
    layout = "<HH" if header_bytes == BMP_CORE_HEADER_BYTES else "<ii"
    width, height = struct.unpack_from(layout, content, 18)
    return abs(height), abs(width)


def _webp(content: bytes) -> tuple[int, int] | None:
    kind = content[12:16]
    if kind == b"VP8X":
        width = int.from_bytes(content[24:27], "little") + 1
        return int.from_bytes(content[27:30], "little") + 1, width
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, 21)
        return ((bits >> 14) & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", content, 26)
        return height & 0x3FFF, width & 0x3FFF
    return None


def _jpeg(content: bytes) -> tuple[int, int] | None:
    position = 2
    while content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker in JPEG_BARE_MARKERS:
            position += 2
        elif marker in JPEG_SIZE_MARKERS:
            height, width = struct.unpack_from(">HH", content, position + 5)
            return height, width
        else:
            (length,) = struct.unpack_from(">H", content, position + 2)
            position += 2 + length
    return None
