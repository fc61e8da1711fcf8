"""Kills, restarts and freezes a real RTSP server under a source: `python -m tests.flaps --kills 50 --freezes 10 --log FILE`.

Prints one JSON line per event, with the seconds until the loss was seen and until frames came again, and a summary.
The exit code is 1 when a bound does not hold. The suite runs a few flaps with the same code.
"""

import argparse
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TextIO

import psutil

from nerve_runtime.frames import Frame
from nerve_stream.sources.base import FrameSource
from nerve_stream.sources.opening import open_frames
from tests.data.rtsp_server import number_of

ROOT = Path(__file__).resolve().parents[1]
SIZE_HW, FPS = (120, 160), 25
SEEN_WITHIN_S = 5.0
BACK_WITHIN_S = 10.0
PATIENCE_S = 30.0
OUTAGE_S = 1.0
FREEZE_S = 6.0  # longer than it may take to see it


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


class Server:
    """The RTSP server in a process of its own; a context manager."""

    def __init__(self, port: int, size_hw: tuple[int, int] = SIZE_HW, fps: int = FPS) -> None:
        self.url = f"rtsp://user:secret@127.0.0.1:{port}/live"
        self._words = [str(port), str(size_hw[1]), str(size_hw[0]), str(fps)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens."""
        command = [sys.executable, "-m", "tests.data.rtsp_server", *self._words]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError("the RTSP server did not start")

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Reader:
    """Reads a source in a thread of its own and keeps what a check needs: count, order, errors."""

    def __init__(self, source: FrameSource) -> None:
        self.source = source
        self.frames = 0
        self.disorder: list[str] = []
        self.error: BaseException | None = None
        self._last: Frame | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for frame in self.source:
                self._check(frame)
                self._last = frame
                self.frames += 1
        except BaseException as error:  # noqa: BLE001 - told by whoever asks
            self.error = error

    def _check(self, frame: Frame) -> None:
        last = self._last
        if last is None:
            return
        if not (frame.index > last.index and frame.time_s > last.time_s and frame.arrived_ns > last.arrived_ns):
            self.disorder.append(f"{last.index} {last.time_s} then {frame.index} {frame.time_s}")
        ahead = number_of(frame.rgb) - number_of(last.rgb)
        # After a restart the server counts from 0; in between its numbers go with the source's own.
        if ahead >= 0 and ahead != frame.index - last.index and number_of(frame.rgb) > FPS:
            self.disorder.append(f"numbers {number_of(last.rgb)} then {number_of(frame.rgb)}")

    def stop(self) -> None:
        """Close the source from this thread; the reader has to end by that."""
        self.source.close()
        self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            raise RuntimeError("the reader did not end")


@dataclass(frozen=True, slots=True)
class Flap:
    """One event: seconds from the fault to the loss being seen, and from the server's return to the next frame."""

    kind: Literal["kill", "freeze"]
    seen_s: float
    back_s: float

    @property
    def holds(self) -> bool:
        """Whether both bounds hold."""
        return self.seen_s <= SEEN_WITHIN_S and self.back_s <= BACK_WITHIN_S


@dataclass(frozen=True, slots=True)
class Belongings:
    """What a process holds: open file descriptors, threads, child processes."""

    descriptors: int
    threads: int
    children: int

    @classmethod
    def now(cls) -> "Belongings":
        """Those of this process."""
        own = psutil.Process()
        return cls(own.num_fds(), own.num_threads(), len(own.children(recursive=True)))


def seconds_until(condition: Callable[[], bool]) -> float:
    """Seconds until the condition holds, `PATIENCE_S` at most."""
    started_s = time.monotonic()
    while not condition() and time.monotonic() - started_s < PATIENCE_S:
        time.sleep(0.01)
    return time.monotonic() - started_s


def flap(kind: Literal["kill", "freeze"], server: Server, reader: Reader) -> Flap:
    """Take the server away, see the loss, give it back, see frames again."""
    source = reader.source
    if kind == "kill":
        server.kill()
    else:
        server.send(signal.SIGSTOP)
    seen_s = seconds_until(lambda: source.state == "reconnecting")
    if kind == "kill":
        time.sleep(OUTAGE_S)
        server.start()
    else:
        time.sleep(max(0.0, FREEZE_S - seen_s))
        server.send(signal.SIGCONT)
    before = reader.frames
    back_s = seconds_until(lambda: reader.frames > before and source.state == "streaming")
    return Flap(kind, round(seen_s, 3), round(back_s, 3))


def run_flaps(kills: int, freezes: int, say: Callable[[dict[str, object]], None]) -> bool:
    """Run them all and say each; whether every bound held and nothing was left behind."""
    everything_held = True
    with Server(free_port()) as server:
        source = open_frames(server.url)
        before = Belongings.now()
        reader = Reader(source)
        seconds_until(lambda: reader.frames > FPS)
        for number in range(kills + freezes):
            kind: Literal["kill", "freeze"] = "kill" if number < kills else "freeze"
            event = flap(kind, server, reader)
            settled = reader.frames
            seconds_until(lambda settled=settled: reader.frames > settled + FPS)  # type: ignore[misc]
            held = event.holds and reader.error is None
            everything_held &= held
            say({"event": number, **asdict(event), "held": held, **asdict(Belongings.now())})
        after = Belongings.now()
        reader.stop()
    # The reader's own thread is the one more; what others left to end may have ended meanwhile.
    nothing_more = (
        after.descriptors <= before.descriptors
        and after.threads - 1 <= before.threads
        and after.children <= before.children
    )
    crashed = 0 if reader.error is None else 1
    say(
        {"flaps": kills + freezes, "reconnects": source.reconnects, "frames": reader.frames, "crashes": crashed,
         "disorder": len(reader.disorder), "error": str(reader.error or ""), "before": asdict(before), "after": asdict(after),
         "lost": source.lost, "held": everything_held and nothing_more}
    )  # fmt: skip
    return everything_held and nothing_more and not reader.disorder and source.reconnects >= kills + freezes


def main() -> None:
    """Run the flaps that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--freezes", type=int, default=10)
    parser.add_argument("--log", type=Path, help="write the JSON lines to this file too")
    given = parser.parse_args()
    log: TextIO | None = given.log.open("w", encoding="utf-8") if given.log else None

    def say(event: dict[str, object]) -> None:
        line = json.dumps(event)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        if log is not None:
            log.write(line + "\n")
            log.flush()

    held = run_flaps(given.kills, given.freezes, say)
    if log is not None:
        log.close()
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
