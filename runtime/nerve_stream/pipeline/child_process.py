"""A child process and the two pipes to it: started, spoken to, ended and waited for."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from nerve_runtime import CompatibilityError, HungError, NerveError, ResourceError
from nerve_stream.pipeline.messages import ConnectionLostError, MessageReader, UInt8Array, send_message

TERM_GRACE_S = 2.0
KILL_GRACE_S = 5.0
PIPE_BYTES = 2**20  # Linux allows any user so much; it saves a frame of 720p some thirty wake-ups
F_SETPIPE_SZ = 1031

# Its module path is ours, and not that of the folder it happens to start in.
_START = (
    "import sys; sys.path[:] = sys.argv[3:]; from nerve_stream.pipeline.worker_child import main; "
    "sys.exit(main(sys.argv[1:3]))"
)


class ChildProcess:
    """A worker's process. It has a session of its own, so that Ctrl-C in the terminal does not reach it.

    Attributes:
        reader: its messages.
        pid: its number.
    """

    def __init__(self) -> None:
        child_reads, self._write_fd = os.pipe()
        read_fd, child_writes = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, str(child_reads), str(child_writes), *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a library prints there must not get between the results of a command
                pass_fds=(child_reads, child_writes),
                start_new_session=True,
            )
        except BaseException:
            os.close(self._write_fd)
            os.close(read_fd)
            raise
        finally:
            os.close(child_reads)
            os.close(child_writes)
        _enlarge(self._write_fd, read_fd)
        self._read_fd = read_fd
        self._sending = threading.Lock()
        self._open = True
        self.reader = MessageReader(read_fd)
        self.pid = self._process.pid

    def send(self, header: Mapping[str, Any], pixels: Sequence[UInt8Array] = ()) -> None:
        """Send a message; one to a process that is gone is lost, which its reader is told."""
        with self._sending:
            if self._open:
                with suppress(ConnectionLostError):
                    send_message(self._write_fd, header, pixels)

    def end(self) -> None:
        """End it: asked first, killed after 2 s; then wait for it, so that no zombie stays, and close the pipes.

        Raises:
            HungError: it is still there 5 s after it was killed.
        """
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(TERM_GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        try:
            self._process.wait(KILL_GRACE_S)
        except subprocess.TimeoutExpired:
            raise HungError(
                f"the worker process {self.pid} is still there {KILL_GRACE_S:g} s after it was killed; a driver may hang, "
                "look at the kernel's log"
            ) from None
        with self._sending:  # a thread that was sending has its error by now
            if self._open:
                self._open = False
                os.close(self._write_fd)
                os.close(self._read_fd)

    def death(self) -> NerveError:
        """Why it ended, once its pipe is closed; waits up to 2 s for the process itself."""
        try:
            code = self._process.wait(TERM_GRACE_S)
        except subprocess.TimeoutExpired:
            return HungError(f"the worker process {self.pid} closed its pipe and went on")
        if code == -signal.SIGKILL:
            return ResourceError(
                "the worker process was killed, most likely for want of memory; close other programs, add swap, or use a "
                "smaller preset or frames"
            )
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return CompatibilityError(
            f"the worker process crashed ({name}); a library is broken or too old for this bundle"
        )


def _enlarge(*pipe_fds: int) -> None:
    if sys.platform != "linux":
        return
    import fcntl

    for pipe_fd in pipe_fds:
        with suppress(OSError):  # the user's pipes are many already; small ones are only slower
            fcntl.fcntl(pipe_fd, F_SETPIPE_SZ, PIPE_BYTES)
