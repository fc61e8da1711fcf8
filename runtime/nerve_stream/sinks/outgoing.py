"""Overlay video sent out live: RTSP, UDP, RTMP, SRT, or MPEG-TS on stdout; a receiver never holds up the segmentation."""

import errno
import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import IO, NamedTuple, cast
from urllib.parse import urlsplit

import numpy as np

from nerve_runtime import CompatibilityError, FrameResult, ResourceError, UsageError
from nerve_runtime.opencv import cv2
from nerve_stream.backoff import Backoff
from nerve_stream.drawing.overlay import DEFAULT_STYLE, OverlayStyle, overlay
from nerve_stream.redaction import redacted
from nerve_stream.sinks.base import FpsMeter, Sink, UInt8Array
from nerve_stream.sinks.outgoing_child import CLOCK_HZ, HEADER, READY, SENT
from nerve_stream.sinks.video import VIDEO_FPS_IF_UNKNOWN, fit_to_canvas

# One format a scheme. An MPEG-TS packet is 188 bytes; seven of them fill a datagram that no Ethernet has to split.
OUTGOING_SCHEMES = {"rtsp": "rtsp", "rtsps": "rtsp", "udp": "mpegts", "srt": "mpegts", "rtmp": "flv"}
FORMAT_OPTIONS = {"rtsp": {"rtsp_transport": "tcp"}, "flv": {"flvflags": "no_duration_filesize"}, "mpegts": {}}
UDP_PACKET = "pkt_size=1316"
STDOUT_TEXT = "-"
QUEUE_FRAMES = 2
OPEN_TIMEOUT_S = 8.0  # a second of it is for a Python that starts on a busy machine
STALLED_S = 4.0
CLOSE_S = 1.0  # what is queued may still be sent
FINISH_S = 0.4
JOIN_S = 0.8
POLL_S = 0.1
READ_BYTES = 4096
# The search path is handed on as it is, so that the process finds what the parent found, whatever started the parent.
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from nerve_stream.sinks.outgoing_child import main; sys.exit(main())"
)

logger = logging.getLogger("nerve_runtime")


class _ConnectionLostError(Exception):
    """The connection is of no use any more; says why, without secrets."""


class _PendingFrame(NamedTuple):
    rgb: UInt8Array
    result: FrameResult
    fps: float | None
    offered_s: float


class OutgoingStream(Sink):
    """H.264 of the frames with their labels over them, sent while they are made; what is new goes first.

    `write` only queues the frame and returns; the queue holds two, and when it is full its oldest frame is lost. A
    thread draws, and a process of its own encodes and sends (`outgoing_child`), so that a slow, hung or dead receiver costs
    frames of this stream and nothing else. A lost connection is made again after 0.5 to 10 s, for ever. A receiver that
    takes nothing for 4 s counts as lost. Times are those at which frames were offered, not those of the source: a viewer
    sees what is now. A keyframe a second.

    Args:
        url: rtsp://, rtsps://, udp://, rtmp://, srt://, or `-` for MPEG-TS on stdout, on which nothing else may be
            printed then.
        size_hw: of the picture that is sent, padded to even sides; frames of another size are fitted into it.
        fps: frames a second to declare, None if unknown.
        style: how labels are drawn.

    Attributes:
        frames_offered: calls of `write`.
        frames_sent: of these, how many were handed to the receiver.
        frames_lost: of these, how many never will be; offered = sent + lost + at most three on their way.
        reconnects: connections made after the first.
        receiver_gone: the reader of stdout closed it; nothing can be sent any more. Never true of a URL.

    Raises:
        UsageError: another scheme, a URL without host, or stdout is a terminal.
        ResourceError: the first connection cannot be made within 8 s.
        CompatibilityError: this FFmpeg cannot speak the protocol, or the system is Windows.
    """

    kind = "stream"

    def __init__(
        self, url: str, size_hw: tuple[int, int], *, fps: Fraction | None = None, style: OverlayStyle = DEFAULT_STYLE
    ) -> None:
        self.path, muxer = _checked_url(url)
        self.frames_offered = self.frames_sent = self.frames_lost = self.reconnects = 0
        self.receiver_gone = False
        self._style = style
        self._fps_meter = FpsMeter()
        self._size_hw = size_hw[0] + size_hw[0] % 2, size_hw[1] + size_hw[1] % 2
        self._settings: dict[str, object] = {
            "url": _with_packet_size(url),
            "format": muxer,
            "options": FORMAT_OPTIONS[muxer],
            "size_hw": self._size_hw,
            "fps": str(fps or VIDEO_FPS_IF_UNKNOWN),
        }
        self._queue: deque[_PendingFrame] = deque()
        self._changed = threading.Condition()
        self._closing, self._give_up = threading.Event(), threading.Event()
        self._started_s = time.monotonic()
        self._last_tick = -1
        self._sender: _SenderProcess | None = self._first_sender()
        self._thread = threading.Thread(target=self._run, name="nerve-outgoing", daemon=True)
        self._thread.start()

    def write(self, rgb: UInt8Array, result: FrameResult) -> None:
        """Queue one frame and return at once; both arrays must not change afterwards."""
        waiting = _PendingFrame(rgb, result, self._fps_meter.count_frame(), time.monotonic())
        with self._changed:
            self.frames_offered += 1
            self._queue.append(waiting)
            if len(self._queue) > QUEUE_FRAMES:
                self._queue.popleft()
                self.frames_lost += 1
            self._changed.notify()

    def commit(self) -> None:
        """Send what is queued if that takes no longer than a second, and end the connection; see `close`."""
        self.close()

    def abort(self) -> None:
        """End the connection; what was sent cannot be taken back."""
        self.close()

    def close(self) -> None:
        """End within two seconds, whatever the receiver does; closing twice is fine."""
        self._closing.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(CLOSE_S)
        self._give_up.set()
        self._thread.join(JOIN_S)
        with self._changed:
            self.frames_lost += len(self._queue)
            self._queue.clear()

    def _first_sender(self) -> "_SenderProcess":
        try:
            return _SenderProcess(self._settings, self._give_up)
        except _ConnectionLostError as broken:
            if "Protocol not found" in str(broken):
                raise CompatibilityError(
                    f"this FFmpeg cannot speak {self.path}; use rtsp:// or udp://, or install a PyAV built with it"
                ) from broken
            raise ResourceError(
                f"cannot send to {redacted(str(self._settings['url']))}: {broken}; start the receiver first, and check "
                "the address, the port and that sending is allowed"
            ) from broken

    def _run(self) -> None:
        backoff = Backoff()
        while True:
            waiting = self._next()
            if waiting is None:
                break
            if self.receiver_gone:
                self._count(lost=1)
                continue
            try:
                if self._sender is None:
                    self._sender = _SenderProcess(self._settings, self._give_up)
                    self.reconnects += 1
                self._sender.send(self._encoded(waiting))
            except _ConnectionLostError as broken:
                self._note_lost(broken, backoff)
            else:
                backoff.reset()
                self._count(sent=1)
        if self._sender is not None:
            self._sender.finish()

    def _note_lost(self, broken: _ConnectionLostError, backoff: Backoff) -> None:
        self._count(lost=1)
        self.receiver_gone = self._settings["url"] == STDOUT_TEXT and str(broken) == os.strerror(errno.EPIPE)
        if self._sender is not None:
            whither = "nothing more is sent" if self.receiver_gone else "trying again"
            logger.warning("%s: connection lost (%s); %s", self.path, broken, whither)
            self._sender.kill()
            self._sender = None
        if not self.receiver_gone:
            self._closing.wait(backoff.delay_s())

    def _next(self) -> _PendingFrame | None:
        """The oldest queued frame, waited for; None when the stream is closing and none is left to send."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing.is_set())
            if not self._queue or (self._closing.is_set() and self._sender is None):
                return None
            return self._queue.popleft()

    def _count(self, *, sent: int = 0, lost: int = 0) -> None:
        with self._changed:
            self.frames_sent += sent
            self.frames_lost += lost

    def _encoded(self, waiting: _PendingFrame) -> bytes:
        """One picture as the sender reads it: its time in ticks, then I420."""
        picture = fit_to_canvas(overlay(waiting.rgb, waiting.result, self._style, fps=waiting.fps), self._size_hw)
        tick = round((waiting.offered_s - self._started_s) * CLOCK_HZ)
        self._last_tick = max(tick, self._last_tick + 1)  # encoders refuse a time that does not grow
        planes = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420), dtype=np.uint8)
        return HEADER.pack(self._last_tick) + planes.tobytes()


class _SenderProcess:
    """One connection: a sender process, spoken to through pipes with a deadline on everything; for one thread.

    Args:
        order: what the process needs to know.
        give_up: once set, nothing is waited for any longer.

    Raises:
        _ConnectionLostError: the connection cannot be made.
    """

    def __init__(self, settings: dict[str, object], give_up: threading.Event) -> None:
        self._give_up = give_up
        passed: tuple[int, ...] = ()
        if settings["url"] == STDOUT_TEXT:
            passed = (os.dup(sys.stdout.fileno()),)
            settings = {**settings, "url": f"pipe:{passed[0]}"}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=passed,
                bufsize=0,
            )
        finally:
            for descriptor in passed:
                os.close(descriptor)
        self._into, self._out_of = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        os.set_blocking(self._into.fileno(), False)
        try:
            deadline_s = time.monotonic() + OPEN_TIMEOUT_S
            self._send_bytes(json.dumps(settings).encode() + b"\n", deadline_s)
            self._wait_for_answer(READY, deadline_s)
        except _ConnectionLostError:
            self.kill()
            raise

    def send(self, content: bytes) -> None:
        """Hand over one picture and wait until it was sent.

        Raises:
            _ConnectionLostError: that took longer than 4 s, or the process ended.
        """
        deadline_s = time.monotonic() + STALLED_S
        self._send_bytes(content, deadline_s)
        self._wait_for_answer(SENT, deadline_s)

    def finish(self) -> None:
        """Tell the process that no more comes, and wait half a second before killing it."""
        self._into.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(FINISH_S)
        self.kill()

    def kill(self) -> None:
        """End the process, wait for it, and close its pipes."""
        self._process.kill()
        self._process.wait()
        self._into.close()
        self._out_of.close()

    def _send_bytes(self, content: bytes, deadline_s: float) -> None:
        left = memoryview(content)
        while left:
            self._wait_for([], [self._into], deadline_s)
            try:
                left = left[os.write(self._into.fileno(), left) :]
            except BrokenPipeError:
                return  # it ended, and the answer says why
            except BlockingIOError:
                continue

    def _wait_for_answer(self, wanted: bytes, deadline_s: float) -> None:
        answer = b""
        while answer != wanted:
            self._wait_for([self._out_of], [], deadline_s)
            more = os.read(self._out_of.fileno(), READ_BYTES)
            answer += more
            if not more or (answer.endswith(b"}\n") and answer != wanted):
                raise _ConnectionLostError(_reason(answer))

    def _wait_for(self, readable: list[IO[bytes]], writable: list[IO[bytes]], deadline_s: float) -> None:
        while not self._give_up.is_set():
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise _ConnectionLostError("the receiver takes nothing")
            if any(select.select(readable, writable, [], min(left_s, POLL_S))):
                return
        raise _ConnectionLostError("the stream is closing")


def _reason(answer: bytes) -> str:
    """Why the process ended, from its last words."""
    _, found, words = answer.partition(b'{"error"')
    if not found:
        return "the sender process ended"
    return redacted(str(json.loads(found + words)["error"]))


def _with_packet_size(url: str) -> str:
    if not url.startswith("udp:") or "pkt_size=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}{UDP_PACKET}"


def _checked_url(url: str) -> tuple[Path, str]:
    """What to call the URL, and FFmpeg's format for it."""
    if os.name == "nt":
        raise CompatibilityError("outgoing streams need a system with POSIX pipes; on Windows write --overlay")
    if url == STDOUT_TEXT:
        if sys.stdout.isatty():
            raise UsageError("the stream would go to the terminal; pipe it: nerve-segment ... | ffplay -")
        return Path(url), "mpegts"
    parts = urlsplit(url)
    if parts.scheme not in OUTGOING_SCHEMES:
        schemes = ", ".join(f"{scheme}://" for scheme in OUTGOING_SCHEMES)
        raise UsageError(f"cannot send to {redacted(url)}: expected {schemes} or - for MPEG-TS on stdout")
    if not parts.hostname:
        raise UsageError(f"cannot send to {redacted(url)}: the URL names no host; expected {parts.scheme}://HOST:PORT")
    return Path(f"{parts.scheme}:{parts.hostname}"), OUTGOING_SCHEMES[parts.scheme]
