"""Messages of the worker arrive as they were sent."""

import socket
import threading
from dataclasses import replace

import numpy as np
import pytest

from nerve_stream.child import Connection
from nerve_stream.pipeline.messages import ForgetRequest, FrameRequest, receive_message, send_message
from tests.data.stream_doubles import blank


def pair() -> tuple[Connection, Connection]:
    ours, theirs = socket.socketpair()
    return Connection(ours), Connection(theirs)


def test_frames_larger_than_the_socket_arrive_with_their_numbers() -> None:
    ours, theirs = pair()
    frame = blank(77, (300, 500))
    for sent in (frame, replace(frame, rgb=frame.rgb[::-1]), replace(frame, rgb=frame.rgb[:0])):
        sender = threading.Thread(target=send_message, args=(theirs, FrameRequest(3, "a", sent)))
        sender.start()
        request = receive_message(ours)
        sender.join(5)
        np.testing.assert_array_equal(request.frame.rgb, sent.rgb)
        assert request.frame.rgb.flags.writeable
        received = request.frame
        assert (received.index, received.time_s, received.arrived_ns) == (77, frame.time_s, frame.arrived_ns)
    ours.close()
    with pytest.raises(OSError, match="Broken pipe"):
        send_message(theirs, ForgetRequest("a"))
    theirs.close()


def test_the_end_of_the_other_side_is_told() -> None:
    ours, theirs = pair()
    theirs.close()
    with pytest.raises(ConnectionError):
        receive_message(ours)
    ours.close()
