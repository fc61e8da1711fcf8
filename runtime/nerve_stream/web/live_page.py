"""The page of a run: its server, its frames, and what it adds to the run's sources and sinks."""

import socket
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from nerve_runtime import FrameResult
from nerve_runtime.drawing import OverlayStyle
from nerve_stream.monitoring.health import Health
from nerve_stream.pipeline import Classes, StreamControl, StreamJob, Worker
from nerve_stream.sinks.base import Sink, UInt8Array
from nerve_stream.sources.images import Picture
from nerve_stream.sources.looped import WantsAgain
from nerve_stream.web.address import PageAddress
from nerve_stream.web.app import PageApp
from nerve_stream.web.control import RunControl
from nerve_stream.web.hub import Hub
from nerve_stream.web.security import Access, Guard
from nerve_stream.web.server import PageServer, listening
from nerve_stream.web.uploads import UploadedPictures

UPLOAD = "your picture"
HEALTH_S = 1.0


class PageSink(Sink):
    """Shows the frames of one source on the page; never waits."""

    kind = "page"

    def __init__(self, hub: Hub, source: str, url: str) -> None:
        self.path = Path(url)
        self._hub, self._source = hub, source

    def write(self, rgb: UInt8Array, result: FrameResult, picture: Picture | None = None) -> None:
        """Hand over a frame."""
        self._hub.publish(self._source, rgb, result)

    def commit(self) -> None:
        """Nothing is left to do."""

    def abort(self) -> None:
        """Nothing is left to do."""


class LivePage:
    """The page, served until it is closed; a context manager.

    Args:
        address: where it listens.
        style: of the overlays of this run.
        health: of the run.
        control: pauses the run.
        stop: of the run; once it is set the page ends.

    Raises:
        ResourceError: the address cannot be used.

    Attributes:
        url: what to open, with the token where there is one.
    """

    def __init__(
        self,
        address: PageAddress,
        style: OverlayStyle,
        health: Health,
        control: StreamControl,
        stop: threading.Event,
    ) -> None:
        self._health = health
        self._health_text: dict[str, Any] = {}
        self._health_at_s = -HEALTH_S
        self._sources: tuple[str, ...] = ()
        self._control = RunControl(control)
        self._uploads = UploadedPictures(UPLOAD)
        sock = listening(address)
        access = Access.of(address, _port_of(sock))
        self.url = access.url
        with ExitStack() as undo:
            self._hub = Hub(style, self._described)
            undo.callback(self._hub.close)
            app = PageApp(self._hub, self._control, lambda: self._uploads, self._choices)
            self._server = PageServer(sock, Guard(app.starlette(), access), stop)
            undo.callback(self._server.close)
            self._stack = undo.pop_all()

    def begin(self, worker: Worker, classes: Classes, background: tuple[str, ...] | str, fixed: str | None) -> None:
        """Take the worker, once it is open; see `RunControl.begin`."""
        self._control.begin(worker, classes, background, fixed)
        self._hub.refresh()

    def jobs(self, names: Sequence[str]) -> list[StreamJob]:
        """What a run of these sources does besides: the pictures of viewers. Their choice is these sources."""
        self._uploads = UploadedPictures(UPLOAD)
        self._sources = tuple(names)
        self._hub.keep_only(names)
        view = self._hub.view
        if view.source not in self._choices():
            self._hub.set_view(view.changed({"source": names[0]}, self._sources))
        write = self._sink(UPLOAD).write
        return [StreamJob(UPLOAD, self._uploads, lambda frame, result: write(frame.rgb, result), accompanies=True)]

    def sink(self, source: str) -> Sink:
        """Shows a source."""
        return self._sink(source)

    def _sink(self, source: str) -> PageSink:
        return PageSink(self._hub, source, self.url.partition("?")[0])

    def wants_again(self) -> WantsAgain:
        """Whether a source that is over begins again: while somebody looks; one picture only when the words change."""
        seen = self._control.revision

        def wait(timeout_s: float, still: bool) -> bool:
            nonlocal seen
            if not still:
                return self._hub.wait_for_viewers(timeout_s)
            if not self._control.wait_other_words(seen, timeout_s):
                return False
            seen = self._control.revision
            return True

        return wait

    def close(self) -> None:
        """End the page; closing twice is fine."""
        self._stack.close()

    def __enter__(self) -> "LivePage":
        """Return the page itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the page."""
        self.close()

    def _choices(self) -> tuple[str, ...]:
        return (*self._sources, UPLOAD) if self._uploads.holds_picture else self._sources

    def _described(self) -> dict[str, Any]:
        """What the page says besides the frame; called by the hub's thread."""
        now_s = time.monotonic()
        if now_s - self._health_at_s >= HEALTH_S:
            self._health_at_s, self._health_text = now_s, self._health_of_run()
        return {
            "sources": list(self._choices()),
            "words": self._control.words,
            "words_fixed": self._control.fixed,
            "names": len(self._control.class_names),
            "paused": self._control.paused,
            "viewers": self._hub.viewers,
            **self._health_text,
        }

    def _health_of_run(self) -> dict[str, Any]:
        snapshot = self._health.snapshot()
        return {
            "worker": snapshot.worker_state,
            "ready": snapshot.ready,
            "runs": {
                source.name: {
                    "state": source.state,
                    "fps": source.fps,
                    "age_ms": source.age.p50_ms,
                    "done": source.counts.done,
                    "dropped": source.counts.dropped_by_reason,
                    "lost": source.lost_at_source,
                    "error": source.last_error,
                }
                for source in snapshot.sources
            },
        }


def _port_of(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port
