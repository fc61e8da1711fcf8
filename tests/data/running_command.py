"""`nerve-segment` as its user runs it: a process with a terminal or without, its outputs, its children, its end."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import psutil
from typer.testing import CliRunner, Result

from nerve_stream.cli import segment as cli
from tests.contracts.checkout import LAUNCHERS

PATIENCE_S = 30.0
CLASSES = "red; grass; sky"
CTRL_C = b"\x03"


def words_of(bundle: Path, *arguments: object) -> list[str]:
    """The command line with the fake back end."""
    return [*map(str, arguments), "--bundle", str(bundle), "--backend", "fake", "--classes", CLASSES]


def segment(bundle: Path, *arguments: object) -> Result:
    """Run the command in this process, to its end."""
    return CliRunner().invoke(cli.app, words_of(bundle, *arguments))


class RunningCommand:
    """The command in a process and a session of its own; a context manager that leaves no process behind.

    Args:
        folder: for its output and its cache.
        words: of its command line.
        terminal: give it a terminal of its own, in which Ctrl-C can be pressed.

    Attributes:
        process: the command.
        started_s: when it was started, by the monotonic clock.
    """

    def __init__(self, folder: Path, words: Sequence[str], *, terminal: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._seen: dict[int, psutil.Process] = {}
        self._master = -1
        environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        command = [sys.executable, str(LAUNCHERS["nerve-segment"]), *words]
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            given: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
            if terminal:
                self._master, slave = os.openpty()
                given.update(stdin=slave, stderr=slave, preexec_fn=_own_terminal)
            self.started_s = time.monotonic()
            self.process = subprocess.Popen(command, env=environment, start_new_session=True, **given)
            if terminal:
                os.close(slave)
                os.set_blocking(self._master, False)
        self._of_terminal = b""

    def press_ctrl_c(self) -> None:
        """Press Ctrl-C in its terminal: the kernel interrupts every process of the foreground group."""
        os.write(self._master, CTRL_C)

    def stdout(self) -> str:
        """What it printed."""
        return (self._folder / "stdout").read_text(encoding="utf-8")

    def stderr(self) -> str:
        """What it said, on its terminal if it has one."""
        if self._master < 0:
            return (self._folder / "stderr").read_text(encoding="utf-8")
        try:
            while part := os.read(self._master, 65536):
                self._of_terminal += part
        except OSError:
            pass  # nothing more for now, or nobody is left at the other end
        return self._of_terminal.decode(errors="replace")

    def children(self) -> list[psutil.Process]:
        """Its child processes of this moment, and theirs; remembered for `left_over`."""
        now = psutil.Process(self.process.pid).children(recursive=True)
        self._seen.update({child.pid: child for child in now})
        return now

    def wait_for(self, what: str, condition: Callable[[], object], within_s: float = PATIENCE_S) -> float:
        """Wait until it holds while the command runs; the seconds it took."""
        started_s = time.monotonic()
        while not condition():
            spent_s = time.monotonic() - started_s
            assert self.process.poll() is None, f"ended with {self.process.returncode} before: {what}\n{self.stderr()}"
            assert spent_s < within_s, f"not within {within_s} s: {what}\n{self.stderr()}"
            time.sleep(0.02)
        return time.monotonic() - started_s

    def end(self, within_s: float = PATIENCE_S) -> int:
        """Wait for its end; its exit code. Its terminal is read meanwhile, as else it would wait for room there."""
        deadline_s = time.monotonic() + within_s
        while self.process.poll() is None:
            assert time.monotonic() < deadline_s, f"did not end within {within_s} s\n{self.stderr()}"
            self.stderr()
            time.sleep(0.01)
        return self.process.returncode

    def left_over(self, within_s: float = 3.0) -> list[psutil.Process]:
        """Children of it that still run so long after; zombies count only while the command is there to reap them."""
        deadline_s = time.monotonic() + within_s
        while (alive := [child for child in self._seen.values() if _runs(child)]) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        return alive

    def __enter__(self) -> "RunningCommand":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        for child in self.left_over(2.0):
            child.kill()
        if self._master >= 0:
            os.close(self._master)


def _own_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Every line of a file as strict JSON, which knows no NaN; the last one must be whole too."""

    def refuse(word: str) -> None:
        raise ValueError(f"{path} holds {word}")

    content = path.read_text(encoding="utf-8")
    assert content == "" or content.endswith("\n"), f"{path} ends in the middle of a line"
    return [json.loads(line, parse_constant=refuse) for line in content.splitlines()]


def status_of(path: Path) -> dict[str, Any]:
    """The status file, or an empty record while there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def conserved(source: dict[str, Any]) -> bool:
    """Whether no frame of a source in a status file was lost or counted twice."""
    counts = source["counts"]
    return bool(counts["frames_in"] == counts["done"] + counts["dropped"] + counts["in_flight"])


def frames_of_video(path: Path) -> int:
    """How many frames PyAV decodes of a video, every one without error, at times that grow."""
    with av.open(str(path)) as container:
        times_s = [frame.time for frame in container.decode(video=0)]
    assert all(earlier < later for earlier, later in pairwise(times_s))
    return len(times_s)


def everything_below(folder: Path) -> list[str]:
    """Every file and folder below a folder, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def outputs_in(folder: Path) -> tuple[object, ...]:
    """Every kind of file that the command writes."""
    return ("--overlay", folder / "o.mp4", "--masks", folder / "masks", "--jsonl", folder / "l.jsonl")


def error_of(ended: Result) -> str:
    """The one line that says what is wrong."""
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    return line


def summary_of(ended: Result) -> dict[str, Any]:
    """The last summary that `--json` printed."""
    return [record for line in ended.stdout.splitlines() if "summary" in (record := json.loads(line))][-1]


def stop_once(condition: Callable[[], object]) -> threading.Thread:
    """Have SIGTERM sent to this process once the condition holds."""

    def watch() -> None:
        while not condition():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    return watching
