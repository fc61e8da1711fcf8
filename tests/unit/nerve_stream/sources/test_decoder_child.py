"""The child's side of a decoder, tried in this process over a socket pair."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerve_stream.child import Connection, MessageError
from nerve_stream.sources.decoding.child import QUEUE_FRAMES, FrameSender
from nerve_stream.sources.decoding.inputs import CameraInput, StreamInput, decode_input, encode_input
from nerve_stream.sources.decoding.messages import Header, receive_header, send_header
from nerve_stream.sources.decoding.readers import DecodedFrame

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@contextmanager
def pair() -> Iterator[tuple[Connection, Connection]]:
    ours, theirs = (Connection(end) for end in socket.socketpair())
    yield ours, theirs
    ours.close()
    theirs.close()


def decoded(index: int) -> DecodedFrame:
    return DecodedFrame(lambda: np.full((2, 2, 3), index, dtype=np.uint8), index, index, Fraction(index))


def test_a_parent_that_asks_late_gets_the_newest_frames_and_the_count_of_the_others() -> None:
    with pair() as (ours, theirs):
        sender = FrameSender(theirs, recorded=False)
        for index in range(100):
            sender.put(decoded(index))  # returns at once, though nobody asks
        ours.send()
        header, pixels = receive_header(ours, 5)
        assert (header.index, header.superseded) == (100 - QUEUE_FRAMES, 100 - QUEUE_FRAMES)
        assert (header.kind, header.size_hw, header.arrived_ns, header.time_s) == ("frame", (2, 2), 98, Fraction(98))
        np.testing.assert_array_equal(pixels, np.full((2, 2, 3), 98))
        with pytest.raises(TimeoutError):  # one for each request
            ours.receive(0.05)


def test_of_a_recording_nothing_is_left_out_and_its_end_comes_last() -> None:
    with pair() as (ours, theirs):
        sender = FrameSender(theirs, recorded=True)

        def decode() -> None:
            deque(map(sender.put, map(decoded, range(20))), maxlen=0)
            sender.finish(Header("ended"))

        decoding = threading.Thread(target=decode)
        decoding.start()
        headers = []
        for _ in range(21):
            ours.send()
            headers.append(receive_header(ours, 5)[0])
        decoding.join(5)
        assert [header.index for header in headers[:20]] == list(range(20))
        assert (headers[20].kind, decoding.is_alive()) == ("ended", False)


def test_a_sign_of_life_is_given_while_no_frame_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nerve_stream.sources.decoding.child.ALIVE_EVERY_S", 0.0)
    with pair() as (ours, theirs):
        sender = FrameSender(theirs, recorded=False)
        ours.send()
        sender.skip()
        assert receive_header(ours, 5)[0].kind == "alive"
        sender.put(decoded(7))
        assert receive_header(ours, 5)[0].index == 7  # the request still stood


def test_a_parent_that_leaves_stops_the_decoding_of_a_recording_that_waits() -> None:
    with pair() as (ours, theirs):
        sender = FrameSender(theirs, recorded=True)
        decoding = threading.Thread(target=lambda: deque(map(sender.put, map(decoded, range(5))), maxlen=0))
        decoding.start()
        ours.disconnect()
        decoding.join(5)
        assert (decoding.is_alive(), sender.stopped.is_set()) == (False, True)


@given(
    st.tuples(st.integers(1, 50), st.integers(1, 50)),
    st.integers(0, 2**62),
    st.integers(0, 2**31),
    st.none() | st.fractions(min_value=-(10**12), max_value=10**12, max_denominator=10**6),
)
def test_a_frame_comes_back_as_it_was(size_hw: tuple[int, int], index: int, lost: int, time_s: Fraction | None) -> None:
    header = Header("frame", size_hw=size_hw, index=index, superseded=lost, arrived_ns=index, time_s=time_s, fps=time_s)
    rgb = np.full((*size_hw, 3), index % 256, dtype=np.uint8)
    with pair() as (ours, theirs):
        send_header(theirs, header, rgb)
        received, pixels = receive_header(ours, 5)
    assert received == header
    np.testing.assert_array_equal(pixels, rgb)


def refused(*parts: bytes) -> None:
    with pair() as (ours, theirs):
        theirs.send(*parts)
        with pytest.raises(MessageError, match=r"^its (header|pixels) do(es)? not fit"):
            receive_header(ours, 5)


@given(st.lists(st.binary(max_size=50), max_size=3))
def test_any_other_bytes_are_refused(parts: list[bytes]) -> None:
    refused(*parts)


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, 13), ({}, 0), ({"size_hw": [0, 0]}, 0), ({"size_hw": [-2, -2]}, 12), ({"size_hw": [8000, 8000]}, 12),
        ({"size_hw": [2]}, 12), ({"size_hw": None}, 12), ({"time_s": "1/0"}, 12), ({"time_s": []}, 12), ({"kind": "x"}, 0),
        ({"kind": []}, 0), ({"kind": "lost"}, 12), ({"more": 1}, 12), ({"index": "1"}, 12), ({"text": 1}, 12),
    ],
)  # fmt: skip
def test_headers_that_do_not_fit_are_refused(fields: dict[str, Any], size: int) -> None:
    fitting = {
        "kind": "frame", "text": "", "fps": None, "recorded": False, "size_hw": [2, 2], "index": 0, "superseded": 0,
        "arrived_ns": 0, "time_s": None,
    }  # fmt: skip
    refused(json.dumps({**fitting, **fields}).encode(), bytes(size))


def test_an_input_comes_back_as_it_was() -> None:
    stream = StreamInput("rtsp://me:secret@host/é", "rtsp://***@host/é", {"rtsp_transport": "tcp"}, 5.0, 2.0)
    for live_input in (stream, CameraInput(3, 5.0, 2.0)):
        assert decode_input(encode_input(live_input, 4)) == (live_input, 4)
    assert "secret" not in f"{stream} {stream!r}"


def test_a_decoder_of_streams_starts_without_opencv_and_back_ends() -> None:
    program = "import sys, nerve_stream.sources.decoding.child; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=ENVIRONMENT
    )
    assert "nerve_stream.child" in loaded.stdout.split()
    assert {"cv2", "onnxruntime", "pydantic", "tokenizers"}.isdisjoint(loaded.stdout.split())
