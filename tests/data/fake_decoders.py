"""Decoder processes that misbehave on purpose, in place of the real one: targets of `nerve_stream.child.Child`."""

import ctypes
import os
import signal
import time
from fractions import Fraction

import numpy as np

from nerve_stream.child import Connection
from nerve_stream.sources.decoding.messages import Header, send_header


def _open(connection: Connection, *, recorded: bool = False) -> None:
    connection.receive()
    send_header(connection, Header("started"))
    send_header(connection, Header("opened", fps=Fraction(10), recorded=recorded))


def _send_frame(connection: Connection, index: int, time_s: Fraction | None = None) -> None:
    """Wait for a request and send a black frame of 2 x 2 pixels."""
    connection.receive()
    header = Header("frame", size_hw=(2, 2), index=index, arrived_ns=time.monotonic_ns(), time_s=time_s)
    send_header(connection, header, np.zeros((2, 2, 3), dtype=np.uint8))


def stubborn(connection: Connection) -> None:
    """Give three frames, then hang in native code, deaf to the end of the connection and to SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _open(connection)
    for index in range(3):
        _send_frame(connection, index, Fraction(index, 10))
    ctypes.PyDLL(None).sleep(600)  # keeps the interpreter's lock


def crashing(connection: Connection) -> None:
    """Give a frame and die of a signal."""
    _open(connection)
    _send_frame(connection, 0)
    os.kill(os.getpid(), signal.SIGSEGV)


def breaking_off(connection: Connection) -> None:
    """Give three frames by a clock that begins at 100 s, then lose the source."""
    _open(connection)
    for index in range(3):
        _send_frame(connection, index, Fraction(index, 10) + 100)
    send_header(connection, Header("lost", "the cable is out"))


def refusing(connection: Connection) -> None:
    """Do not open."""
    connection.receive()
    send_header(connection, Header("started"))
    send_header(connection, Header("lost", "nobody is there"))


def silent(connection: Connection) -> None:
    """Give one frame and then nothing, but end when asked to."""
    _open(connection)
    _send_frame(connection, 0)
    connection.wait_disconnected()


def endless(connection: Connection) -> None:
    """Give frames for ever, ten a second by their times."""
    _open(connection)
    index = 0
    while True:
        _send_frame(connection, index, Fraction(index, 10))
        index += 1


def babbling(connection: Connection) -> None:
    """Send what is no message."""
    os.write(connection._socket.fileno(), b"x" * 4096)
    connection.wait_disconnected()


def recording(connection: Connection) -> None:
    """Give three frames of a recording and its end."""
    _open(connection, recorded=True)
    for index in range(3):
        _send_frame(connection, index, Fraction(index, 10))
    send_header(connection, Header("ended"))


def growing(connection: Connection) -> None:
    """Change the size of the frames."""
    _open(connection, recorded=True)
    for index, size_hw in enumerate(((2, 2), (3, 4))):
        connection.receive()
        rgb = np.arange(size_hw[0] * size_hw[1] * 3, dtype=np.uint8).reshape(*size_hw, 3)
        send_header(connection, Header("frame", size_hw=size_hw, index=index, arrived_ns=index), rgb)
    send_header(connection, Header("ended"))


def broken_recording(connection: Connection) -> None:
    """Break off a recording."""
    _open(connection, recorded=True)
    _send_frame(connection, 0)
    send_header(connection, Header("lost", "the network is gone"))


def buggy(connection: Connection) -> None:
    """Raise what no decoder should."""
    _open(connection)
    raise ValueError("a bug at rtsp://me:secret@host/live")
