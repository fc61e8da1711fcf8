"""A page without a run, and clients of it that send exactly what a test wants."""

import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from websockets.sync.client import ClientConnection, connect

from nerve_runtime.drawing import OverlayStyle
from nerve_runtime.result import FrameResult
from nerve_stream.monitoring.health import Health
from nerve_stream.pipeline import LocalWorker, StreamControl
from nerve_stream.web.address import PageAddress, parse_page_address
from nerve_stream.web.live_page import LivePage
from tests.data.stream_doubles import DoubleSegmenter

PATIENCE_S = 10.0


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.json()["error"])


def half_and_half(size_hw: tuple[int, int] = (48, 64), names: tuple[str, ...] = ("a", "b")) -> FrameResult:
    """A result whose left half is class 0 and whose right half is class 1, sure at the top and unsure below."""
    labels = np.zeros(size_hw, dtype=np.uint8)
    labels[:, size_hw[1] // 2 :] = 1
    confidence = np.zeros(size_hw, dtype=np.uint8)
    confidence[: size_hw[0] // 2] = 255
    return FrameResult(labels, confidence, names, 0, None, {"total": 1.0}, True, 0, True)


def grey(size_hw: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    """A frame of one grey."""
    return np.full((*size_hw, 3), 128, dtype=np.uint8)


@dataclass
class ServedPage:
    """A live page whose run a test plays; a context manager.

    Attributes:
        address: where it listens.
        segmenter: takes the words.
        control: what viewers pause.
    """

    address: PageAddress = field(default_factory=lambda: PageAddress(port=0))
    segmenter: DoubleSegmenter = field(default_factory=DoubleSegmenter)
    control: StreamControl = field(default_factory=StreamControl)
    stop: threading.Event = field(default_factory=threading.Event)
    fixed: str | None = None

    def __enter__(self) -> "ServedPage":
        self.page = LivePage(self.address, OverlayStyle(), Health(), self.control, self.stop)
        self.worker = LocalWorker(self.segmenter)
        self.page.begin(self.worker, ("a", "b"), (), self.fixed)
        (self.uploads,) = self.page.jobs(["first", "second"])
        self.port = int(self.page.url.split("/")[2].rpartition(":")[2])
        self.host = f"127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_: TracebackType | BaseException | type | None) -> None:
        self.page.close()
        self.worker.close()

    @property
    def hub(self) -> Any:
        """Of the page."""
        return self.page._hub

    def show(self, source: str = "first", rgb: NDArray[np.uint8] | None = None, result: Any = None) -> None:
        """Publish a frame."""
        self.page.sink(source).write(grey() if rgb is None else rgb, result or half_and_half())

    def ask(
        self, path: str, *, method: str = "GET", body: bytes | None = None, own: bool = True, **headers: str
    ) -> Answer:
        """Ask with exactly these headers, `_` for `-`; `own` adds the page's Origin to what changes something."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if own and method != "GET":
            sent = {"origin": f"http://{self.host}", **sent}
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            client.putrequest(method, path, skip_host="host" in sent)
            for name, value in sent.items():
                client.putheader(name, value)
            if body is not None and "transfer-encoding" not in sent:
                client.putheader("content-length", str(len(body)))
            client.endheaders(body, encode_chunked="transfer-encoding" in sent)
            answer = client.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            client.close()

    def post(self, path: str, wanted: object, **headers: str) -> Answer:
        """Ask with a JSON body."""
        sent = {"content_type": "application/json", **headers}
        return self.ask(path, method="POST", body=json.dumps(wanted).encode(), own=True, **sent)

    def viewer(self, host: str = "127.0.0.1", **headers: str) -> "Viewer":
        """Look, as the page does, at an address that calls itself `host`; headers replace what a browser sends."""
        sent = {"origin": f"http://{host}:{self.port}", **headers}
        here = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)  # wherever the name may lead
        return Viewer(connect(f"ws://{host}:{self.port}/live", sock=here, additional_headers=sent, max_size=None))


class Viewer:
    """One WebSocket of the page; a context manager."""

    def __init__(self, connecting: AbstractContextManager[ClientConnection]) -> None:
        self._stack = ExitStack()
        self.socket = self._stack.enter_context(connecting)

    def next(self, timeout_s: float = PATIENCE_S) -> tuple[dict[str, Any], bytes]:
        """The next view, what it says and its picture, acknowledged."""
        message = self.socket.recv(timeout_s)
        assert isinstance(message, bytes)
        self.socket.send("next")
        (length,) = struct.unpack_from(">I", message)
        return json.loads(message[4 : 4 + length]), message[4 + length :]

    def next_where(self, holds: Callable[[dict[str, Any]], object]) -> tuple[dict[str, Any], bytes]:
        """The next view of which something holds."""
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            text, jpeg = self.next()
            if holds(text):
                return text, jpeg
        raise AssertionError(f"not within {PATIENCE_S} s; the last view says {text}")

    def __enter__(self) -> "Viewer":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def decoded(picture: bytes) -> NDArray[np.uint8]:
    """The pixels of a PNG or JPEG as they are stored, BGR."""
    found = cv2.imdecode(np.frombuffer(picture, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    assert found is not None
    return np.asarray(found, dtype=np.uint8)


def open_to_all() -> PageAddress:
    """An address that asks for a token."""
    return parse_page_address("0.0.0.0:0")


def png_of(size_hw: tuple[int, int], path: Path) -> bytes:
    """The bytes of a PNG."""
    cv2.imwrite(str(path), np.zeros((*size_hw, 3), dtype=np.uint8))
    return path.read_bytes()
