"""The health of a run as lines on the terminal, and as a JSON file that is replaced atomically."""

import json
import logging
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from nerve_runtime import NerveError
from nerve_runtime.atomic import write_bytes_whole
from nerve_stream.monitoring.health import Health, HealthSnapshot, SourceHealth

INTERVAL_S = 1.0
LINE_INTERVAL_S = 10.0
"""Between lines in a log: 8,640 a day."""
JOIN_TIMEOUT_S = 5.0
MEBIBYTE = 2**20

logger = logging.getLogger("nerve_runtime")


def write_status(path: Path, snapshot: HealthSnapshot) -> None:
    """Write this snapshot to the file; a reader sees the old one or the new one, never a part.

    Raises:
        ResourceError: it cannot be written.
    """
    write_bytes_whole(path, (json.dumps(snapshot.as_json(), allow_nan=False) + "\n").encode())


def source_line(source: SourceHealth) -> str:
    """One source in one line, such as `door: streaming, 24.9 fps, age 41/66 ms, 1200 in, 1190 done, 8 dropped`."""
    counts = source.counts
    parts = [
        f"{source.name}: {source.state}",
        f"{source.fps:.1f} fps",
        f"age {source.age.p50_ms:.0f}/{source.age.p99_ms:.0f} ms",
        f"{counts.frames_in} in",
        f"{counts.done} done",
        f"{counts.dropped} dropped",
    ]
    if source.reconnects:
        parts.append(f"{source.reconnects} reconnects")
    if source.live and source.state != "streaming" and source.since_frame_s is not None:
        parts.append(f"no frame for {source.since_frame_s:.0f} s")
    return ", ".join(parts)


def status_lines(snapshot: HealthSnapshot) -> list[str]:
    """One line per source and one for the whole; times are the median and the 99th percentile."""
    memory_bytes = snapshot.process.rss_bytes + snapshot.process.children_rss_bytes
    total = snapshot.stages.get("total")
    parts = [
        "ready" if snapshot.ready else f"not ready ({snapshot.worker_state})",
        f"frame {total.p50_ms:.1f}/{total.p99_ms:.1f} ms" if total else "no frame yet",
        f"{memory_bytes / MEBIBYTE:.0f} MiB",
    ]
    if snapshot.worker_restarts:
        parts.append(f"{snapshot.worker_restarts} worker restarts")
    return [*(source_line(source) for source in snapshot.sources), ", ".join(parts)]


class StatusReporter:
    """Shows the health of a run during a block, from its own thread; a context manager.

    On a terminal the lines are redrawn once a second. Elsewhere they are printed every 10 seconds, and only while a
    live source runs. The file is replaced once a second, and once more at the end.

    Args:
        health: of the run.
        json_path: file to keep up to date, or None.
        console: where lines go, stderr by default.
        lines: whether to show lines.
        interval_s: between two updates.

    Raises:
        ResourceError: on entering: the file cannot be written. Later a failure is logged once and tried again.
    """

    def __init__(
        self,
        health: Health,
        *,
        json_path: Path | None = None,
        console: Console | None = None,
        lines: bool = True,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._health = health
        self._json_path = json_path
        self._console = console or Console(stderr=True)
        self._lines = lines
        self._interval_s = interval_s
        self._live: Live | None = None
        self._ended = threading.Event()
        self._unlogged_ticks = 0
        self._last_warning: str | None = None
        self._thread = threading.Thread(target=self._update_until_ended, name="nerve-status", daemon=True)

    def __enter__(self) -> "StatusReporter":
        """Write the file for the first time and begin to show lines."""
        if self._json_path is not None:
            write_status(self._json_path, self._health.snapshot())
        if self._lines and self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Show the final state and end the thread."""
        self._ended.set()
        self._thread.join(JOIN_TIMEOUT_S)
        self._update()
        if self._live is not None:
            self._live.stop()

    def _update_until_ended(self) -> None:
        while not self._ended.wait(self._interval_s):
            self._update()

    def _update(self) -> None:
        snapshot = self._health.snapshot()
        if self._json_path is not None:
            self._write(self._json_path, snapshot)
        if self._live is not None:
            # Text, because Rich would take a name in brackets for a style.
            self._live.update(Text("\n".join(status_lines(snapshot)), no_wrap=True, overflow="ellipsis"), refresh=True)
            return
        self._unlogged_ticks += 1
        due = self._unlogged_ticks * self._interval_s >= LINE_INTERVAL_S
        if self._lines and due and any(source.live for source in snapshot.sources):
            self._unlogged_ticks = 0
            self._print(status_lines(snapshot))

    def _print(self, lines: list[str]) -> None:
        options: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}
        for line in lines:
            self._console.print(line, **options)

    def _write(self, path: Path, snapshot: HealthSnapshot) -> None:
        """Write the file; a failure such as a full disk is logged once and does not end the run."""
        try:
            write_status(path, snapshot)
        except NerveError as error:
            if str(error) != self._last_warning:
                logger.warning("%s", error)
            self._last_warning = str(error)
            return
        self._last_warning = None
