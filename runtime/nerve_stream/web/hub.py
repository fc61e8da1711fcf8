"""The frames of a run for its viewers: the newest of each source, drawn and encoded once for all who look."""

import asyncio
import contextlib
import json
import struct
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from nerve_runtime import FrameResult
from nerve_runtime.drawing import OverlayStyle, class_colours
from nerve_runtime.opencv import cv2
from nerve_stream.web.view import UInt8Array, View, drawn, fitted

JPEG_QUALITY = 85
REFRESH_S = 1.0
"""What the page says is looked up so often, also while no frame comes."""
LISTED_CLASSES = 256
"""Of a longer list, 14 kB a frame, the page names only those that are seen or hidden."""
JOIN_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class ShownFrame:
    """A frame and its result."""

    rgb: UInt8Array
    result: FrameResult


@dataclass(frozen=True, slots=True)
class EncodedView:
    """What is sent to every viewer.

    Attributes:
        number: grows with each.
        jpeg: the picture; empty before there is one.
        message: for the page: 4 bytes with the length of a JSON text, that text, and the picture.
    """

    number: int
    jpeg: bytes
    message: bytes


class Hub:
    """Takes frames from the writers of a run and hands views to any number of viewers; newest frame wins.

    `publish` keeps the frame and returns. A thread draws and encodes, and only while somebody looks. Viewers wait in the
    server's event loop and get the newest view when they come back, so that a slow one misses views and delays nobody.

    Args:
        style: of the overlays of this run.
        describe: the part of the page's text that is not of the frame, plain JSON values.

    Attributes:
        view: the settings of the picture; replaced as a whole.
        encodings: how many pictures were encoded.
    """

    def __init__(self, style: OverlayStyle, describe: Callable[[], dict[str, Any]]) -> None:
        self._style, self._describe = style, describe
        self.view = View(opacity=style.opacity)
        self.encodings = 0
        self._changed = threading.Condition()
        self._frames: dict[str, ShownFrame] = {}
        self._viewers = 0
        self._picture_due = self._text_due = self._closed = False
        self._encoded: EncodedView | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()
        self._thread = threading.Thread(target=self._encode_until_closed, name="nerve-page-encoder", daemon=True)
        self._thread.start()

    @property
    def viewers(self) -> int:
        """How many look."""
        return self._viewers

    def publish(self, source: str, rgb: UInt8Array, result: FrameResult) -> None:
        """Take the newest frame of a source; it must not change afterwards."""
        with self._changed:
            self._frames[source] = ShownFrame(rgb, result)
            if source == self.view.source:
                self._picture_due = True
                self._changed.notify_all()

    def keep_only(self, sources: Collection[str]) -> None:
        """Forget the frames of other sources, which are over."""
        with self._changed:
            self._frames = {name: frame for name, frame in self._frames.items() if name in sources}

    def set_view(self, view: View) -> None:
        """Show something else, to all viewers."""
        with self._changed:
            self.view = view
            self._picture_due = True
            self._changed.notify_all()

    def refresh(self) -> None:
        """Send what the page says again, with the picture that there is."""
        with self._changed:
            self._text_due = True
            self._changed.notify_all()

    def shown(self) -> ShownFrame | None:
        """The newest frame of the source that is shown."""
        return self._frames.get(self.view.source)

    def picture(self) -> UInt8Array | None:
        """The newest frame as it is shown, in its own size, RGB uint8 (H, W, 3)."""
        frame = self.shown()
        return None if frame is None else drawn(frame.rgb, frame.result, self.view, self._style)

    def wait_for_viewers(self, timeout_s: float) -> bool:
        """Wait until somebody looks; false when the time is over first."""
        with self._changed:
            return self._changed.wait_for(lambda: self._viewers > 0 or self._closed, timeout_s) and not self._closed

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the event loop in which viewers wait; called in it."""
        self._loop, self._news = loop, asyncio.Event()

    @contextlib.contextmanager
    def viewing(self) -> Any:
        """Count a viewer during the block."""
        with self._changed:
            self._viewers += 1
            self._text_due = True
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._viewers -= 1

    async def next_view(self, after: int) -> EncodedView | None:
        """Wait for a view newer than number `after`; None once the page is closed."""
        while not self._closed:
            encoded = self._encoded
            if encoded is not None and encoded.number > after:
                return encoded
            await self._news.wait()
        return None

    def close(self) -> None:
        """Let all viewers go and end the thread; closing twice is fine."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._wake_viewers()
        self._thread.join(JOIN_TIMEOUT_S)

    def _wake_viewers(self) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the server has ended, and its loop with it
                self._loop.call_soon_threadsafe(self._announce)

    def _announce(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _encode_until_closed(self) -> None:
        text: dict[str, Any] = {}
        jpeg = b""
        while (picture_due := self._wait_until_due()) is not None:
            frame, view = self.shown(), self.view
            if frame is not None and picture_due:
                text, jpeg = self._of_frame(frame, view)
            elif frame is None:
                text, jpeg = {}, b""
            self._send({**text, **_view_text(view), **self._describe()}, jpeg)

    def _wait_until_due(self) -> bool | None:
        """Wait until there is something to send: whether it has a new picture, None once closed."""
        with self._changed:
            while not self._closed:
                self._changed.wait_for(self._is_due, REFRESH_S)
                if self._viewers and not self._closed:
                    picture_due = self._picture_due
                    self._picture_due = self._text_due = False
                    return picture_due
            return None

    def _is_due(self) -> bool:
        return self._closed or (self._viewers > 0 and (self._picture_due or self._text_due))

    def _of_frame(self, frame: ShownFrame, view: View) -> tuple[dict[str, Any], bytes]:
        rgb, result = fitted(frame.rgb, frame.result)
        picture = drawn(rgb, result, view, self._style)
        encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
        self.encodings += 1
        return _frame_text(frame, result, view.hidden), encoded.tobytes()

    def _send(self, text: dict[str, Any], jpeg: bytes) -> None:
        content = json.dumps(text, ensure_ascii=False, allow_nan=False).encode()
        number = 1 if self._encoded is None else self._encoded.number + 1
        self._encoded = EncodedView(number, jpeg, struct.pack(">I", len(content)) + content + jpeg)
        self._wake_viewers()


def _view_text(view: View) -> dict[str, Any]:
    return {"source": view.source, "opacity": view.opacity, "heat": view.heat, "hidden": sorted(view.hidden)}


def _frame_text(frame: ShownFrame, smaller: FrameResult, hidden: frozenset[str]) -> dict[str, Any]:
    """What the page says of a frame; areas are those of the picture that is shown. Label 0 is always the first class."""
    result = frame.result
    colours, areas = class_colours(result.class_names), smaller.areas
    listed = (
        {result.class_names[0], *areas, *hidden} if len(result.class_names) > LISTED_CLASSES else result.class_names
    )
    classes = [
        {"name": name, "colour": f"#{bytes(colours[label]).hex()}", "share": round(areas.get(name, 0.0), 4)}
        for label, name in enumerate(result.class_names)
        if name in listed
    ]
    return {
        "frame": result.index,
        "time_s": None if result.time_s is None else round(float(result.time_s), 3),
        "width": frame.rgb.shape[1],
        "height": frame.rgb.shape[0],
        "classes": classes,
        "background": result.has_background,
        "valid": result.valid,
        "keyframe": result.keyframe,
        "confidence": round(float(np.mean(smaller.confidence)) / 255, 3),
        "timings_ms": {stage: round(spent_ms, 1) for stage, spent_ms in result.timings_ms.items()},
    }
