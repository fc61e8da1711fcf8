"""The sending end of a decoder process, tried in this process with a pipe."""

import os
import threading
from collections import deque
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerve_runtime.errors import SourceError
from nerve_stream.sources.decoding.child import WAITING_PICTURES, PictureSender
from nerve_stream.sources.decoding.messages import HEADER_BYTES, Header, Kind
from nerve_stream.sources.decoding.readers import DecodedPicture
from nerve_stream.sources.decoding.recipe import CameraRecipe, StreamRecipe, decode_recipe, encode_recipe


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def decoded(index: int) -> DecodedPicture:
    return DecodedPicture(lambda: np.full((2, 2, 3), index, dtype=np.uint8), index, index, Fraction(index))


def received(descriptor: int) -> tuple[Header, bytes]:
    header = Header.unpacked(os.read(descriptor, HEADER_BYTES))
    return header, os.read(descriptor, header.payload_bytes) if header.payload_bytes else b""


def test_a_parent_that_asks_late_gets_the_newest_pictures_and_the_count_of_the_others(pipe: tuple[int, int]) -> None:
    sender = PictureSender(pipe[1])
    sender.start()
    for index in range(100):
        sender.put(decoded(index))  # returns at once, though nobody asks
    sender.request(1)
    header, pixels = received(pipe[0])
    assert (header.index, header.superseded, pixels) == (
        100 - WAITING_PICTURES,
        100 - WAITING_PICTURES,
        bytes([98]) * 12,
    )
    assert (header.kind, header.size_hw, header.arrived_ns, header.time_s) == (Kind.PICTURE, (2, 2), 98, Fraction(98))
    os.set_blocking(pipe[0], False)
    with pytest.raises(BlockingIOError):  # one for each question
        os.read(pipe[0], 1)


def test_of_a_recording_nothing_is_left_out(pipe: tuple[int, int]) -> None:
    sender = PictureSender(pipe[1])
    sender.recorded = True
    sender.start()
    feeding = threading.Thread(target=lambda: deque(map(sender.put, map(decoded, range(20))), maxlen=0))
    feeding.start()
    indices = []
    for _ in range(20):
        sender.request(1)
        indices.append(received(pipe[0])[0].index)
    feeding.join(5)
    assert (indices, feeding.is_alive()) == (list(range(20)), False)


def test_a_sign_of_life_is_given_while_no_picture_is_wanted(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nerve_stream.sources.decoding.child.ALIVE_EVERY_S", 0.0)
    sender = PictureSender(pipe[1])
    sender.start()
    sender.request(1)
    sender.skip()
    assert received(pipe[0])[0].kind == Kind.ALIVE
    sender.put(decoded(7))
    assert received(pipe[0])[0].index == 7  # the question still stood


@given(
    st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    st.integers(0, 2**62),
    st.integers(0, 2**31),
    st.none() | st.fractions(min_value=-(10**12), max_value=10**12, max_denominator=10**6),
)
def test_a_header_comes_back_as_it_was(
    size_hw: tuple[int, int], index: int, lost: int, time_s: Fraction | None
) -> None:
    header = Header(Kind.PICTURE, size_hw, index, lost, index, time_s, size_hw[0] * size_hw[1] * 3)
    assert Header.unpacked(header.packed()) == header


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_any_other_bytes_are_refused_or_small(packed: bytes) -> None:
    try:
        header = Header.unpacked(packed)
    except SourceError:
        return
    assert header.payload_bytes <= 150_000_000


def test_sizes_that_do_not_fit_their_pixels_are_refused() -> None:
    for size_hw, payload_bytes in (((2, 2), 13), ((0, 0), 0), ((8000, 8000), 8000 * 8000 * 3)):
        with pytest.raises(SourceError, match="sent something that is no frame"):
            Header.unpacked(Header(Kind.PICTURE, size_hw, payload_bytes=payload_bytes).packed())
    with pytest.raises(SourceError, match="sent something that is no frame"):
        Header.unpacked(Header(Kind.LOST, payload_bytes=10**9).packed())


def test_a_recipe_comes_back_as_it_was() -> None:
    stream = StreamRecipe("rtsp://me:secret@host/é", "rtsp://***@host/é", {"rtsp_transport": "tcp"}, 5.0, 2.0)
    for recipe in (stream, CameraRecipe(3, 5.0, 2.0)):
        line = encode_recipe(recipe, 4)
        assert line.count(b"\n") == 1
        assert decode_recipe(line) == (recipe, 4)
    assert "secret" not in f"{stream} {stream!r}"
