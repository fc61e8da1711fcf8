"""What an image is by its header: its size, so that one too large is refused before it is decoded, and how many it holds.

OpenCV has such a limit, but reads it once, when whoever comes first imports it (docs/decisions.md).

Sources: PNG specification (IHDR, acTL); ITU-T T.81 annex B (SOF markers); BMP DIB headers; WebP container (RFC 9649);
TIFF 6.0, section 2.
"""

import struct

from nerve_runtime.errors import SourceError
from nerve_runtime.opencv import IMAGE_PIXELS_LIMIT

IMAGE_KINDS = "PNG, JPEG, BMP, WebP or TIFF"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
TIFF_MAGIC = (b"II*\0", b"MM\0*")  # of both byte orders; BigTIFF, for files beyond 4 GB, is refused

# SOF markers carry the size; C4 (Huffman tables), C8 (reserved) and CC (arithmetic conditioning) lie in the same range.
JPEG_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
JPEG_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})
BMP_CORE_HEADER_BYTES = 12
TIFF_WIDTH, TIFF_HEIGHT = 256, 257
TIFF_SHORT = 3
DIRECTORIES_LIMIT = 100


def image_size_hw(content: bytes) -> tuple[int, int] | None:
    """Height and width in pixels of a PNG, JPEG, BMP, WebP or TIFF image; None when it is none of these or cut off.

    Args:
        content: the file's bytes, at least up to the end of its header.
    """
    readers = {PNG_MAGIC: _png, b"\xff\xd8": _jpeg, b"BM": _bmp, b"RIFF": _webp, **dict.fromkeys(TIFF_MAGIC, _tiff)}
    for magic, reader in readers.items():
        if content.startswith(magic):
            try:
                return reader(content)
            except (struct.error, IndexError):
                return None
    return None


def picture_count(content: bytes) -> int:
    """How many pictures a file holds: directories of a TIFF (100 are counted), animation frames of a WebP, else 1.

    `cv2.imcount` takes a path instead, and crashes on one that the locale cannot decode.
    """
    if content.startswith(TIFF_MAGIC):
        return len(_tiff_directories(content))
    animated_webp = content[:4] == b"RIFF" and content[12:16] == b"VP8X" and (content[20:21] or b"\0")[0] & 2
    return max(1, content.count(b"ANMF")) if animated_webp else 1


def looks_like_image(start: bytes) -> bool:
    """Whether a file's first 12 bytes are those of a PNG, JPEG, BMP, WebP or TIFF image."""
    return start.startswith((PNG_MAGIC, b"\xff\xd8\xff", b"BM", *TIFF_MAGIC)) or (
        start.startswith(b"RIFF") and start[8:12] == b"WEBP"
    )


def is_animated_png(start: bytes) -> bool:
    """Whether a file is a PNG with an animation control chunk, which stands before its pixels."""
    return start.startswith(PNG_MAGIC) and b"acTL" in start.partition(b"IDAT")[0]


def refuse_too_large(where: str, size_hw: tuple[int, int]) -> None:
    """Refuse a picture of more than 50 megapixels before memory is taken for it.

    Args:
        where: the picture in words, for the message.
        size_hw: its height and width in pixels.

    Raises:
        SourceError: it is larger.
    """
    if size_hw[0] * size_hw[1] > IMAGE_PIXELS_LIMIT:
        raise SourceError(
            f"{where} is {size_hw[1]} x {size_hw[0]} pixels, expected at most {IMAGE_PIXELS_LIMIT} in all; make it smaller"
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


def _tiff_directories(content: bytes) -> list[int]:
    """Offsets of the directories, up to 100; each ends with the offset of the next, 0 in the last."""
    order = "<" if content.startswith(b"II") else ">"
    directories: list[int] = []
    try:
        (offset,) = struct.unpack_from(f"{order}I", content, 4)
        while offset and offset not in directories and len(directories) < DIRECTORIES_LIMIT:
            directories.append(offset)
            (entries,) = struct.unpack_from(f"{order}H", content, offset)
            (offset,) = struct.unpack_from(f"{order}I", content, offset + 2 + 12 * entries)
    except struct.error:  # cut off; decoding will say so
        pass
    return directories


def _tiff(content: bytes) -> tuple[int, int] | None:
    """From the first directory: a count, then entries of tag, type, count and value."""
    order = "<" if content.startswith(b"II") else ">"
    (directory,) = struct.unpack_from(f"{order}I", content, 4)
    (entries,) = struct.unpack_from(f"{order}H", content, directory)
    sizes = {}
    for position in range(directory + 2, directory + 2 + 12 * entries, 12):
        tag, kind = struct.unpack_from(f"{order}HH", content, position)
        (sizes[tag],) = struct.unpack_from(f"{order}{'H' if kind == TIFF_SHORT else 'I'}", content, position + 8)
    return (sizes[TIFF_HEIGHT], sizes[TIFF_WIDTH]) if {TIFF_HEIGHT, TIFF_WIDTH} <= sizes.keys() else None
