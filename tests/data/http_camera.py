"""A web server on loopback: an endless MJPEG stream, files, and answers that lead elsewhere."""

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2

from tests.data.rtsp_server import numbered

BOUNDARY = "frame"


class Camera(http.server.BaseHTTPRequestHandler):
    """`/live` is the stream, `/leave?URL` a redirect, any other path a file of `folder`."""

    folder = Path()
    fps = 12

    def do_GET(self) -> None:
        """Answer one request."""
        with suppress(BrokenPipeError, ConnectionResetError):
            if self.path.startswith("/live"):
                self._stream()
            elif self.path.startswith("/leave?"):
                self._answer(302, ("Location", self.path.partition("?")[2]))
            else:
                self._file()

    def _answer(self, code: int, *headers: tuple[str, str]) -> None:
        self.send_response(code)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def _stream(self) -> None:
        self._answer(200, ("Content-Type", f"multipart/x-mixed-replace; boundary={BOUNDARY}"))
        for number in range(1_000_000):
            jpeg = cv2.imencode(".jpg", numbered(number, (48, 64))[..., ::-1])[1].tobytes()
            head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.wfile.write(head.encode() + jpeg + b"\r\n")
            time.sleep(1 / self.fps)

    def _file(self) -> None:
        content = (self.folder / self.path.strip("/")).read_bytes()
        self._answer(200, ("Content-Length", str(len(content))))
        self.wfile.write(content)

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - the library's name
        """Say nothing."""


@contextmanager
def http_camera(folder: Path) -> Iterator[str]:
    """Serve the folder and the stream; the address without a path."""
    handler = type("CameraOfFolder", (Camera,), {"folder": folder})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
