"""What the page answers: itself, frames, snapshots, and what a viewer asks of the run."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from nerve_runtime import NerveError, SourceError, UsageError
from nerve_runtime.opencv import cv2
from nerve_stream.sinks.masks import label_png
from nerve_stream.web.control import RunControl
from nerve_stream.web.hub import Hub
from nerve_stream.web.security import RateLimit, RefusedError, read_body
from nerve_stream.web.uploads import UPLOAD_LIMIT_BYTES, UploadedPictures, decoded_upload

VIEWERS_LIMIT = 32
SEND_TIMEOUT_S = 30.0
"""A viewer that takes nothing for so long is let go."""
JSON_LIMIT_BYTES = 100_000
"""Room for 1,203 class names with synonyms."""
ASKED_PER_S, ASKED_AT_ONCE = 20.0, 40
UPLOADS_PER_S, UPLOADS_AT_ONCE = 1.0, 5
SNAPSHOTS_PER_S, SNAPSHOTS_AT_ONCE = 2.0, 10
ACKNOWLEDGED = "next"
BOUNDARY = "nerve-frame"
PAGE_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""All that is read from disk, once at the start."""
TRY_LATER, VIOLATION = 1013, 1008

Answer = Callable[[Request], Awaitable[Response]]


class PageApp:
    """The answers of one page.

    Args:
        hub: the frames.
        control: the run.
        uploads: gives the source that takes pictures.
        sources: gives the names that a viewer may choose from.
    """

    def __init__(
        self,
        hub: Hub,
        control: RunControl,
        uploads: Callable[[], UploadedPictures],
        sources: Callable[[], tuple[str, ...]],
    ) -> None:
        self._hub, self._control, self._uploads, self._sources = hub, control, uploads, sources
        self._asked = RateLimit(ASKED_PER_S, ASKED_AT_ONCE)
        self._uploaded = RateLimit(UPLOADS_PER_S, UPLOADS_AT_ONCE)
        self._snapshots = RateLimit(SNAPSHOTS_PER_S, SNAPSHOTS_AT_ONCE)
        self._naming = asyncio.Lock()
        self._picturing = asyncio.Lock()

    def starlette(self) -> Starlette:
        """The application, without its guard."""
        folder = files("nerve_stream.web") / "page"
        pages = [_page_route(path, (folder / name).read_bytes(), kind) for path, (name, kind) in PAGE_FILES.items()]
        reading = {"/stream.mjpg": self._mjpeg, "/snapshot.png": self._snapshot, "/labels.png": self._labels}
        changing = {"/words": self._words, "/view": self._view, "/run": self._run, "/pictures": self._pictures}
        return Starlette(
            routes=[
                *pages,
                *(Route(path, _refusable(answer), methods=["GET"]) for path, answer in reading.items()),
                *(Route(path, _refusable(answer), methods=["POST"]) for path, answer in changing.items()),
                WebSocketRoute("/live", self._live),
            ],
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._hub.attach(asyncio.get_running_loop())
        yield

    async def _live(self, socket: WebSocket) -> None:
        if self._hub.viewers >= VIEWERS_LIMIT:
            await socket.accept()
            await socket.close(TRY_LATER, "too many viewers")
            return
        with self._hub.viewing():
            await socket.accept()
            turns = _Turns()
            tasks = [
                asyncio.ensure_future(self._send_views(socket, turns)),
                asyncio.ensure_future(_hear(socket, turns)),
            ]
            done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            for task in done:
                with contextlib.suppress(WebSocketDisconnect, asyncio.TimeoutError, RuntimeError):
                    task.result()

    async def _send_views(self, socket: WebSocket, turns: "_Turns") -> None:
        """Send the newest view each time the viewer has drawn the one before."""
        number = 0
        while (view := await self._hub.next_view(number)) is not None:
            number = view.number
            turns.begin()
            await asyncio.wait_for(socket.send_bytes(view.message), SEND_TIMEOUT_S)
            await turns.ended.wait()

    async def _mjpeg(self, _: Request) -> Response:
        if self._hub.viewers >= VIEWERS_LIMIT:
            raise RefusedError(503, f"{VIEWERS_LIMIT} viewers look already; try later")
        return StreamingResponse(self._parts(), media_type=f"multipart/x-mixed-replace; boundary={BOUNDARY}")

    async def _parts(self) -> AsyncIterator[bytes]:
        with self._hub.viewing():
            number, shown = 0, b""
            # Each boundary is sent with the part before it: browsers draw a part when they see its end.
            yield f"--{BOUNDARY}\r\n".encode()
            while (view := await self._hub.next_view(number)) is not None:
                number = view.number
                if view.jpeg and view.jpeg is not shown:
                    shown = view.jpeg
                    head = f"content-type: image/jpeg\r\ncontent-length: {len(shown)}\r\n\r\n".encode()
                    yield head + shown + f"\r\n--{BOUNDARY}\r\n".encode()

    async def _snapshot(self, _: Request) -> Response:
        return await self._png("snapshot.png", self._snapshot_png)

    async def _labels(self, _: Request) -> Response:
        return await self._png("labels.png", self._labels_png)

    def _snapshot_png(self) -> bytes | None:
        picture = self._hub.picture()
        return None if picture is None else cv2.imencode(".png", picture[..., ::-1])[1].tobytes()

    def _labels_png(self) -> bytes | None:
        frame = self._hub.shown()
        return None if frame is None else label_png(frame.result.labels)

    async def _png(self, name: str, made: Callable[[], bytes | None]) -> Response:
        _grant(self._snapshots)
        async with self._picturing:
            png = await run_in_threadpool(made)
        if png is None:
            raise RefusedError(404, "there is no picture yet")
        return Response(png, media_type="image/png", headers={"content-disposition": f'attachment; filename="{name}"'})

    async def _words(self, request: Request) -> Response:
        asked = await self._asked_json(request)
        text = asked.get("words")
        if not isinstance(text, str):
            raise RefusedError(400, 'expected {"words": "a; b, c"}')
        async with self._naming:
            names = await run_in_threadpool(self._control.set_words, text)
        self._uploads().again()
        self._hub.refresh()
        return JSONResponse({"classes": list(names)})

    async def _view(self, request: Request) -> Response:
        self._hub.set_view(self._hub.view.changed(await self._asked_json(request), self._sources()))
        return JSONResponse({})

    async def _run(self, request: Request) -> Response:
        self._control.act(str((await self._asked_json(request)).get("do")))
        self._hub.refresh()
        return JSONResponse({})

    async def _pictures(self, request: Request) -> Response:
        _grant(self._uploaded)
        content = await read_body(request, UPLOAD_LIMIT_BYTES)
        async with self._picturing:
            rgb = await run_in_threadpool(decoded_upload, content)
        if self._control.paused:
            self._control.act("step")
        uploads = self._uploads()
        uploads.put(rgb)
        self._hub.set_view(self._hub.view.changed({"source": uploads.name}, self._sources()))
        return JSONResponse({"width": rgb.shape[1], "height": rgb.shape[0]})

    async def _asked_json(self, request: Request) -> dict[str, Any]:
        _grant(self._asked)
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise RefusedError(415, "expected content-type application/json")
        try:
            asked = json.loads(await read_body(request, JSON_LIMIT_BYTES))
            # Half of a surrogate pair ("\\ud800") is JSON, but no text that could be sent to the viewers.
            json.dumps(asked, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            raise RefusedError(400, "the body is no JSON") from None
        if not isinstance(asked, dict):
            raise RefusedError(400, "expected a JSON object")
        return asked


class _Turns:
    """Whether a viewer owes an answer to the view that it was sent."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.ended.set()

    def begin(self) -> None:
        """A view is being sent."""
        self.ended.clear()


async def _hear(socket: WebSocket, turns: _Turns) -> None:
    """Take one word for each view that was sent; anything else ends the connection, so that nobody can flood."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        if message.get("text") != ACKNOWLEDGED or turns.ended.is_set():
            await socket.close(VIOLATION, f"expected {ACKNOWLEDGED!r} once after each view")
            return
        turns.ended.set()


def _grant(limit: RateLimit) -> None:
    if not limit.grant():
        raise RefusedError(429, "asked too often; wait a second")


def _page_route(path: str, content: bytes, kind: str) -> Route:
    async def answer(_: Request) -> Response:
        return Response(content, media_type=kind)

    return Route(path, answer, methods=["GET"])


def _refusable(answer: Answer) -> Answer:
    """The answer, or a JSON object with the error that it raises."""

    async def answered(request: Request) -> Response:
        try:
            return await answer(request)
        except RefusedError as error:
            # What is left of the body is not read.
            return JSONResponse({"error": error.reason}, error.status, {"connection": "close"})
        except NerveError as error:
            return JSONResponse({"error": str(error)}, 422 if isinstance(error, (SourceError, UsageError)) else 503)

    return answered
