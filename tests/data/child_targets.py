"""What the child processes of tests/unit/nerve_stream/test_child.py run."""

import ctypes
import os
import signal
import sys

import numpy as np

from nerve_stream.child import Connection


def echo(connection: Connection) -> None:
    """Send back what comes, for ever."""
    try:
        while True:
            connection.send(*(part.data for part in connection.receive()))
    except ConnectionError:
        return


def hang(connection: Connection) -> None:
    """Hang in a native call that never gives the interpreter back, deaf to SIGTERM; only SIGKILL helps."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection.send(b"hanging")
    ctypes.PyDLL(None).sleep(600)


def print_and_fail(connection: Connection) -> None:
    """Print a lot, a password too, and raise."""
    print("out")  # noqa: T201
    print("x" * 100_000, file=sys.stderr)  # noqa: T201
    raise ValueError("cannot open rtsp://me:secret@host/live")


def print_and_crash(connection: Connection) -> None:
    """Print a line to standard error and die of a signal."""
    os.write(2, b"first line\nfree(): invalid pointer\n")
    os.kill(os.getpid(), signal.SIGABRT)


def exit_with_7(connection: Connection) -> int:
    """Give an exit code."""
    return 7


def babble(connection: Connection) -> None:
    """Send what is no message."""
    os.write(connection._socket.fileno(), b"x" * 4096)
    connection.wait_disconnected()


def stop_within_a_message(connection: Connection) -> None:
    """Send half a message and stop."""
    connection.receive()
    os.write(connection._socket.fileno(), b"\1\0\0\0" + (10_000).to_bytes(8, "little") + b"half")
    os.kill(os.getpid(), signal.SIGSTOP)


def send_without_end(connection: Connection) -> None:
    """Send large messages as fast as they are taken."""
    while True:
        connection.send(np.zeros(1_000_000, dtype=np.uint8).data)


def list_modules(connection: Connection) -> None:
    """Say what a child has imported before its own work."""
    connection.send(" ".join(sys.modules).encode(), str(sys.path).encode(), str(os.getsid(0)).encode())
    connection.wait_disconnected()
