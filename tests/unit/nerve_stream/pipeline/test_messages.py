"""Messages between processes arrive as they were sent, in whatever pieces."""

import os
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerve_stream.pipeline import SegmenterOptions
from nerve_stream.pipeline.messages import (
    PREFIX,
    ConnectionLostError,
    MessageReader,
    frame_from,
    frame_header,
    send_message,
)
from tests.data.stream_doubles import blank


@given(
    st.lists(st.tuples(st.text(max_size=20), st.binary(max_size=300)), min_size=1, max_size=5),
    st.integers(min_value=1, max_value=40),
)
def test_messages_arrive_whole_however_the_bytes_are_cut(messages: list[tuple[str, bytes]], cut: int) -> None:
    read_fd, write_fd = os.pipe()
    cut_read_fd, cut_write_fd = os.pipe()
    try:
        for text, pixels in messages:
            send_message(cut_write_fd, {"kind": "text", "text": text}, (np.frombuffer(pixels, dtype=np.uint8),))
        os.close(cut_write_fd)
        sent = os.read(cut_read_fd, 1_000_000)
        reader, received = MessageReader(read_fd), []
        for start in range(0, len(sent), cut):
            os.write(write_fd, sent[start : start + cut])
            while (message := reader.next(0)) is not None:
                received.append((message.header["text"], bytes(message.pixels)))
        assert received == messages
    finally:
        for descriptor in (read_fd, write_fd, cut_read_fd):
            os.close(descriptor)


def test_a_frame_larger_than_the_pipe_arrives_with_its_numbers() -> None:
    read_fd, write_fd = os.pipe()
    frame = blank(77, (300, 500))
    sender = threading.Thread(
        target=send_message, args=(write_fd, {"kind": "frame", **frame_header(frame)}, (frame.rgb[::-1],))
    )
    sender.start()
    message = MessageReader(read_fd).next(5)
    sender.join(5)
    assert message is not None
    received = frame_from(message)
    np.testing.assert_array_equal(received.rgb, frame.rgb[::-1])
    assert (received.index, received.time_s, received.arrived_ns) == (77, frame.time_s, frame.arrived_ns)
    os.close(read_fd)
    with pytest.raises(ConnectionLostError, match=r"the other side is gone \(EPIPE\)"):
        send_message(write_fd, {"kind": "late"})
    os.close(write_fd)


def test_the_end_of_the_other_side_and_noise_are_told() -> None:
    read_fd, write_fd = os.pipe()
    reader = MessageReader(read_fd)
    assert reader.next(0) is None
    os.write(write_fd, PREFIX.pack(2**31, 7))
    with pytest.raises(ConnectionLostError, match="more than any message has"):
        reader.next(0)
    os.close(write_fd)
    with pytest.raises(ConnectionLostError, match="the other side is gone"):
        MessageReader(read_fd).next(0)
    os.close(read_fd)


def test_options_survive_the_way_to_another_process() -> None:
    import json
    from pathlib import Path

    for classes in (("a", "b"), "a; b", Path("words.txt")):
        options = SegmenterOptions("bundle", classes, background=("x",), temporal={"keyframe_every": 3})
        assert SegmenterOptions.from_json(json.loads(json.dumps(options.as_json()))) == options
