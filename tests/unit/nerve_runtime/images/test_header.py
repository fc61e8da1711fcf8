import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerve_runtime.images.header import image_size_hw, looks_like_image, picture_count


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tif"])
@pytest.mark.parametrize("size_hw", [(1, 1), (7, 300), (301, 5)])
def test_the_header_tells_the_size_that_decoding_gives(suffix: str, size_hw: tuple[int, int]) -> None:
    written, encoded = cv2.imencode(suffix, np.zeros((*size_hw, 3), dtype=np.uint8))
    assert written
    assert image_size_hw(encoded.tobytes()) == size_hw
    assert looks_like_image(encoded.tobytes()[:16])


def test_lossless_and_extended_webp_are_read() -> None:
    quality = [cv2.IMWRITE_WEBP_QUALITY, 101]
    _, lossless = cv2.imencode(".webp", np.zeros((9, 4, 3), dtype=np.uint8), quality)
    assert image_size_hw(lossless.tobytes()) == (9, 4)
    extended = b"RIFF\0\0\0\0WEBPVP8X" + bytes(8) + (299).to_bytes(3, "little") + (99).to_bytes(3, "little")
    assert image_size_hw(extended) == (100, 300)
    assert image_size_hw(b"RIFF\0\0\0\0WEBPNONE" + bytes(20)) is None


def test_an_old_bitmap_header_is_read() -> None:
    assert image_size_hw(b"BM" + bytes(12) + struct.pack("<IHH", 12, 30, 20)) == (20, 30)


def test_jpeg_segments_before_the_size_are_skipped() -> None:
    comment = b"\xff\xfe\x00\x05abc"
    size = b"\xff\xc2\x00\x0b\x08" + struct.pack(">HH", 20, 30)
    assert image_size_hw(b"\xff\xd8" + comment + b"\xff\xff\x01" + size) == (20, 30)
    assert image_size_hw(b"\xff\xd8\x00\x00") is None


def test_tiff_of_the_other_byte_order_is_read() -> None:
    entries = struct.pack(">HHIHH", 256, 3, 1, 30, 0) + struct.pack(">HHII", 257, 4, 1, 20)
    assert image_size_hw(b"MM\0*" + struct.pack(">IH", 8, 2) + entries) == (20, 30)
    assert image_size_hw(b"MM\0*" + struct.pack(">IH", 8, 0)) is None


def test_the_directories_of_a_tiff_are_counted_also_in_a_circle_or_cut_off() -> None:
    def directory(following: int) -> bytes:
        return struct.pack("<HHHIIi", 1, 256, 3, 1, 4, following)

    assert len(directory(0)) == 18
    assert picture_count(b"II*\0" + struct.pack("<I", 8) + directory(0)) == 1
    assert picture_count(b"II*\0" + struct.pack("<I", 8) + directory(26) + directory(0)) == 2
    assert picture_count(b"II*\0" + struct.pack("<I", 8) + directory(26) + directory(8)) == 2
    assert picture_count(b"II*\0" + struct.pack("<I", 8) + directory(26)) == 2
    many = b"".join(directory(26 + 18 * n) for n in range(300))
    assert picture_count(b"II*\0" + struct.pack("<I", 8) + many) == 100


def test_the_frames_of_a_webp_are_counted_where_it_says_that_it_is_animated() -> None:
    def webp(flags: int) -> bytes:
        return b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0" + bytes([flags]) + bytes(9) + b"ANMF....ANMF...."

    assert (picture_count(webp(2)), picture_count(webp(0)), picture_count(webp(2)[:20])) == (2, 1, 1)
    assert picture_count(b"\x89PNG\r\n\x1a\nANMFANMF") == 1


@given(
    st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"BM", b"RIFF", b"II*\0", b"MM\0*", b""]),
    st.binary(max_size=60),
)
def test_any_bytes_give_a_size_or_none(magic: bytes, rest: bytes) -> None:
    size_hw = image_size_hw(magic + rest)
    assert size_hw is None or len(size_hw) == 2
    assert 0 <= picture_count(magic + rest) <= 100
