"""A child process and the connection to it: started, spoken to, ended and waited for."""

import signal
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Pipe

from nerve_runtime import CompatibilityError, HungError, NerveError, ResourceError
from nerve_stream.pipeline.messages import receive_message, send_message

TERMINATE_TIMEOUT_S = 2.0
KILL_TIMEOUT_S = 5.0

# The child's module path is that of this process, without the folder that it happens to start in.
_START = (
    "import sys; sys.path[:] = sys.argv[2:]; from nerve_stream.pipeline.worker_child import main; "
    "sys.exit(main(int(sys.argv[1])))"
)


class ChildProcess:
    """A worker's process, in a session of its own, so that Ctrl-C in the terminal does not reach it.

    Attributes:
        pid: its number.
    """

    def __init__(self) -> None:
        self._connection, childs_end = Pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, str(childs_end.fileno()), *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a library prints there must not get between the results of a command
                pass_fds=(childs_end.fileno(),),
                start_new_session=True,
            )
        except BaseException:
            self._connection.close()
            raise
        finally:
            childs_end.close()
        self._sending = threading.Lock()
        self.pid = self._process.pid

    def send(self, message: object) -> None:
        """Send a message; one to a process that is gone is lost, which `receive` says."""
        with self._sending, suppress(OSError):
            send_message(self._connection, message)

    def receive(self) -> object:
        """Wait for the next message; None when the process is gone."""
        try:
            return receive_message(self._connection)
        except (EOFError, OSError):
            return None

    def end(self) -> None:
        """Terminate it, kill it 2 s later, and wait for it, so that no zombie stays; `receive` then gives None.

        Raises:
            HungError: it is still there 5 s after it was killed.
        """
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(TERMINATE_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        try:
            self._process.wait(KILL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise HungError(
                f"the worker process {self.pid} is still there {KILL_TIMEOUT_S:g} s after it was killed; a driver may "
                "hang, look at the kernel's log"
            ) from None

    def close(self) -> None:
        """Close the connection, after `end` and once nobody receives any more."""
        with self._sending:
            self._connection.close()

    def death(self) -> NerveError:
        """Why it ended, once `receive` gave None; waits up to 2 s for the process itself."""
        try:
            code = self._process.wait(TERMINATE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return HungError(f"the worker process {self.pid} closed its connection and went on")
        if code == -signal.SIGKILL:
            return ResourceError(
                "the worker process was killed, most likely for want of memory; close other programs, add swap, or use a "
                "smaller preset or frames"
            )
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return CompatibilityError(
            f"the worker process crashed ({name}); a library is broken or too old for this bundle"
        )
