"""Messages between processes arrive as they were sent."""

import os
import threading
from dataclasses import replace
from multiprocessing import Pipe

import numpy as np
import pytest

from nerve_stream.pipeline.messages import ForgetRequest, FrameRequest, receive_message, send_message
from tests.data.stream_doubles import blank


def test_frames_larger_than_the_pipe_arrive_with_their_numbers() -> None:
    ours, theirs = Pipe()
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


def test_the_end_of_the_other_side_is_told_within_a_message_too() -> None:
    ours, theirs = Pipe()
    theirs.close()
    with pytest.raises(EOFError):
        receive_message(ours)
    ours, theirs = Pipe()
    send_message(theirs, FrameRequest(3, "a", blank(1, (30, 50))))
    whole = os.read(ours.fileno(), 1_000_000)
    for cut in (2, 40, len(whole) - 1):
        ours, theirs = Pipe()
        os.write(theirs.fileno(), whole[:cut])
        theirs.close()
        with pytest.raises((EOFError, OSError)):
            receive_message(ours)
        ours.close()
