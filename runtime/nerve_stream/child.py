"""A child process and the messages between it and this one.

A message has any number of parts, which are bytes and travel as they lie in memory. They are not pickles: a decoder reads
what strangers send, and must not be able to have its parent run code. Any wait may have a limit, within a message too,
which `multiprocessing.connection` does not offer.
"""

import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nerve_runtime import HungError
from nerve_stream.redaction import redacted

Bytes = bytes | memoryview
Answer = TypeVar("Answer")

CLOSE_TIMEOUT_S = 0.7  # for what a child does once its connection is closed, such as saying good-bye to a camera
EXIT_TIMEOUT_S = 0.5  # after which a child ends itself
TERMINATE_TIMEOUT_S = 2.0
KILL_TIMEOUT_S = 5.0
PARTS_LIMIT = 64
MESSAGE_LIMIT_BYTES = 1 << 30
STDERR_TAIL_BYTES = 4000
_COUNT = struct.Struct("<I")
# The child has this process's module path, without the folder that it happens to start in.
_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[3:]; from nerve_stream.child import run_target; "
    "sys.exit(run_target(sys.argv[1], int(sys.argv[2])))"
)


class MessageError(ValueError):
    """The other side sent something that is no message."""


class Connection:
    """One end of the connection between a process and its child.

    One thread may send while another receives; `disconnect` is for any thread and ends both at once.

    Args:
        end: a connected stream socket, which is closed with this object.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._socket.setblocking(False)
        self._sending, self._receiving = threading.Lock(), threading.Lock()

    def send(self, *parts: Bytes, timeout_s: float | None = None) -> None:
        """Send one message.

        Args:
            parts: bytes, or memoryviews of format "B".
            timeout_s: how long the other side may take nothing; None for ever.

        Raises:
            ConnectionError: the other side is gone.
            TimeoutError: it takes nothing.
        """
        sizes = _COUNT.pack(len(parts)) + struct.pack(f"<{len(parts)}Q", *map(len, parts))
        with self._sending:
            for part in (sizes, *parts):
                rest = memoryview(part)
                while rest:
                    rest = rest[self._when_ready(select.POLLOUT, timeout_s, self._socket.send, rest) :]

    def receive(self, timeout_s: float | None = None) -> list[NDArray[np.uint8]]:
        """Wait for one message; its parts can be written to.

        Args:
            timeout_s: how long nothing may arrive; None for ever.

        Raises:
            ConnectionError: the other side is gone.
            TimeoutError: nothing arrives.
            MessageError: what arrives is no message.
        """
        with self._receiving:
            (count,) = _COUNT.unpack(self._read(_COUNT.size, timeout_s).tobytes())
            if count > PARTS_LIMIT:
                raise MessageError(f"a message of {count} parts, expected at most {PARTS_LIMIT}")
            sizes = self._read(8 * count, timeout_s).view("<u8").tolist()
            if sum(sizes) > MESSAGE_LIMIT_BYTES:
                raise MessageError(f"a message of {sum(sizes)} bytes, expected at most {MESSAGE_LIMIT_BYTES}")
            return [self._read(size, timeout_s) for size in sizes]

    def disconnect(self) -> None:
        """End the connection for both sides; whoever sends or receives gets a ConnectionError at once."""
        with suppress(OSError):  # it has ended before
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection and free it."""
        self.disconnect()
        with self._sending, self._receiving:
            self._socket.close()

    def wait_disconnected(self) -> None:
        """Wait until either side has ended the connection, whatever is sent meanwhile."""
        hang_up = select.poll()
        hang_up.register(self._socket, 0)
        hang_up.poll()

    def _read(self, count: int, timeout_s: float | None) -> NDArray[np.uint8]:
        content = np.empty(count, dtype=np.uint8)
        rest = content.data
        while rest:
            arrived = self._when_ready(select.POLLIN, timeout_s, self._socket.recv_into, rest)
            if not arrived:
                raise ConnectionResetError("the other side is gone")
            rest = rest[arrived:]
        return content

    def _when_ready(
        self, event: int, timeout_s: float | None, transfer: Callable[[memoryview], int], view: memoryview
    ) -> int:
        while True:
            with suppress(BlockingIOError):
                return transfer(view)
            ready = select.poll()
            ready.register(self._socket, event)
            # A process that was suspended meanwhile still finds what has arrived: the kernel looks before it gives up.
            if not ready.poll(None if timeout_s is None else timeout_s * 1000):
                raise TimeoutError(f"nothing moved for {timeout_s:g} s")


class Child:
    """A child process that runs one function, and the connection to it.

    It is a fresh Python that imports what that function needs and nothing else, in a session of its own, so that Ctrl-C in
    the terminal does not reach it. It ends when the connection ends, and so when this process dies, however it dies.

    Args:
        target: what it runs, as "module:function"; the function takes the Connection and may return an exit code.
        pass_fds: file descriptors that it inherits.
        shows_output: what it prints goes to standard error; otherwise it is hidden, and the last of it is in `ending`.

    Attributes:
        connection: to it.
        pid: its number.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(self, target: str, *, pass_fds: Sequence[int] = (), shows_output: bool = False) -> None:
        ours, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, target, str(theirs.fileno()), *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=2 if shows_output else subprocess.DEVNULL,
                stderr=None if shows_output else subprocess.PIPE,
                pass_fds=(theirs.fileno(), *pass_fds),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.pid = self._process.pid
        self.connection = Connection(ours)
        self._stderr_tail = b""
        self._stderr_reader = threading.Thread(target=self._read_stderr, name="nerve-stderr", daemon=True)
        self._stderr_reader.start()

    def wait(self, timeout_s: float) -> int | None:
        """Wait until it has ended; its exit code as subprocess gives it, None when it has not."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def ending(self) -> str:
        """How it ended, once its connection has: a verb with the signal or exit code, and the error it printed."""
        code = self.wait(TERMINATE_TIMEOUT_S)
        if code is None:
            return "closed its connection and went on"
        self._stderr_reader.join(TERMINATE_TIMEOUT_S)
        how = f"was killed by signal {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        error = _error_printed(self._stderr_tail)
        return f"{how}: {error}" if error else how

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """End it for certain: end its connection, terminate it after `timeout_s`, kill it 2 s later, and wait for it.

        Raises:
            HungError: it is still there 5 s after it was killed.
        """
        self.connection.disconnect()
        if self.wait(timeout_s) is None:
            self._process.terminate()
            if self.wait(TERMINATE_TIMEOUT_S) is None:
                self._process.kill()
        if self.wait(KILL_TIMEOUT_S) is None:
            raise HungError(
                f"the child process {self.pid} is still there {KILL_TIMEOUT_S:g} s after it was killed; a driver may hang, "
                "look at the kernel's log"
            )
        self.connection.close()
        self._stderr_reader.join(TERMINATE_TIMEOUT_S)

    def _read_stderr(self) -> None:
        if self._process.stderr is None:
            return
        with self._process.stderr as stderr:
            while printed := os.read(stderr.fileno(), STDERR_TAIL_BYTES):
                self._stderr_tail = (self._stderr_tail + printed)[-STDERR_TAIL_BYTES:]


def _error_printed(tail: bytes) -> str:
    """The last traceback in what a process printed, or else the last line, without secrets."""
    text = tail.decode(errors="replace")
    if len(tail) == STDERR_TAIL_BYTES:
        _, _, text = text.partition("\n")  # the first line may be cut within a URL, whose password would not be found
    begin = text.rfind("Traceback (most recent call last)")
    error = text[begin:] if begin >= 0 else text.strip().rpartition("\n")[2]
    return redacted(error.strip())


def run_target(target: str, descriptor: int) -> int | None:
    """What a child process does: run the target with its connection; its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C, and ends its children
    connection = Connection(socket.socket(fileno=descriptor))
    threading.Thread(target=_exit_when_disconnected, args=(connection,), name="nerve-parent", daemon=True).start()
    module, _, function = target.partition(":")
    code: int | None = getattr(import_module(module), function)(connection)
    return code


def _exit_when_disconnected(connection: Connection) -> None:
    connection.wait_disconnected()
    time.sleep(EXIT_TIMEOUT_S)
    os._exit(0)
