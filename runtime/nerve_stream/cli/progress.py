"""Progress on the terminal: bars for files, a line for each live source, a bar for the prompts of a long class list."""

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nerve_stream.monitoring.health import Health
from nerve_stream.monitoring.status import StatusReporter
from nerve_stream.outputs.opened import OpenSource

REFRESH_S = 0.2
EMBEDDING_SHOWN_AFTER_S = 2.0
EMBEDDING_CELLS = 30


@contextmanager
def shown_progress(
    sources: Sequence[OpenSource], health: Health, console: Console, status_json: Path | None, *, realtime: bool
) -> Iterator[None]:
    """Show bars (lossless) or lines of state (realtime) during the block, and keep the status file up to date.

    Raises:
        ResourceError: the status file cannot be written.
    """
    with StatusReporter(health, json_path=status_json, console=console, lines=realtime):
        if realtime or not console.is_terminal:
            yield
            return
        with _bars(sources, health, console):
            yield


@contextmanager
def _bars(sources: Sequence[OpenSource], health: Health, console: Console) -> Iterator[None]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[fps]:.1f} fps"),
        TimeRemainingColumn(),
    )
    ended = threading.Event()
    with Progress(*columns, console=console) as progress:
        tasks = {source.name: progress.add_task(source.name, total=source.frames.count, fps=0.0) for source in sources}

        def update() -> None:
            for source in health.snapshot().sources:
                if source.name in tasks:
                    progress.update(tasks[source.name], completed=source.counts.done, fps=source.fps)

        def update_until_ended() -> None:
            while not ended.wait(REFRESH_S):
                update()

        thread = threading.Thread(target=update_until_ended, name="nerve-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            update()


class EmbeddingBar:
    """A bar on stderr, where that is a terminal, once prompts have been embedded for two seconds; can be pickled.

    State: when the first batch began, and whether the bar was drawn. Stdout is left to results.
    """

    def __init__(self) -> None:
        self._started_s = 0.0
        self._shown = False

    def __call__(self, done: int, total: int) -> None:
        """Draw that `done` of `total` prompts are embedded; `done` is 0 before the first batch."""
        now_s = time.monotonic()
        if done == 0:
            self._started_s, self._shown = now_s, False
        if not sys.stderr.isatty() or not (self._shown or now_s - self._started_s >= EMBEDDING_SHOWN_AFTER_S):
            return
        self._shown = True
        full = EMBEDDING_CELLS * done // total
        end = "\n" if done == total else ""
        sys.stderr.write(f"\rembedding prompts [{'#' * full}{'-' * (EMBEDDING_CELLS - full)}] {done} of {total}{end}")
        sys.stderr.flush()
