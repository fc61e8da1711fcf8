"""Overlay video sent out live: RTSP, UDP, RTMP, SRT, or MPEG-TS on stdout; a receiver never holds up the segmentation."""

import errno
import json
import logging
import os
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np

from nerve_runtime import CompatibilityError, FrameResult, ResourceError, UsageError
from nerve_runtime.drawing import DEFAULT_STYLE, OverlayStyle, overlay
from nerve_runtime.opencv import cv2
from nerve_stream.backoff import Backoff
from nerve_stream.child import Child
from nerve_stream.redaction import redacted
from nerve_stream.sinks.base import FpsMeter, Sink, UInt8Array
from nerve_stream.sinks.outgoing_child import CLOCK_HZ, PTS
from nerve_stream.sinks.video import VIDEO_FPS_IF_UNKNOWN, fit_to_canvas
from nerve_stream.sources.images import Picture

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
SENDER = "nerve_stream.sinks.outgoing_child:main"

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
        self._sender: _SenderProcess | None = None
        self._connect_first()
        self._thread = threading.Thread(target=self._run, name="nerve-outgoing", daemon=True)
        self._thread.start()

    def write(self, rgb: UInt8Array, result: FrameResult, picture: Picture | None = None) -> None:
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
        sender = self._sender
        if sender is not None and self._thread.is_alive():
            sender.child.connection.disconnect()
        self._thread.join(JOIN_S)
        with self._changed:
            self.frames_lost += len(self._queue)
            self._queue.clear()

    def _connect_first(self) -> None:
        try:
            self._connect()
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
                sender = self._sender
                if sender is None:
                    sender = self._connect()
                    self.reconnects += 1
                sender.send(*self._drawn(waiting))
            except _ConnectionLostError as broken:
                self._note_lost(broken, backoff)
            else:
                backoff.reset()
                self._count(sent=1)
        self._disconnect(FINISH_S)

    def _connect(self) -> "_SenderProcess":
        self._sender = sender = _SenderProcess(self._settings)
        if self._give_up.is_set():  # `close` looked for a process before this one was there
            sender.child.connection.disconnect()
        try:
            sender.open()
        except _ConnectionLostError:
            self._disconnect()
            raise
        return sender

    def _disconnect(self, timeout_s: float = 0.0) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.child.close(timeout_s)

    def _note_lost(self, broken: _ConnectionLostError, backoff: Backoff) -> None:
        self._count(lost=1)
        self.receiver_gone = self._settings["url"] == STDOUT_TEXT and str(broken) == os.strerror(errno.EPIPE)
        if self._sender is not None:
            whither = "nothing more is sent" if self.receiver_gone else "trying again"
            logger.warning("%s: connection lost (%s); %s", self.path, broken, whither)
            self._disconnect()
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

    def _drawn(self, waiting: _PendingFrame) -> tuple[int, UInt8Array]:
        """One frame as the sender takes it: its time in ticks, and its overlay in I420."""
        picture = fit_to_canvas(overlay(waiting.rgb, waiting.result, self._style, fps=waiting.fps), self._size_hw)
        tick = round((waiting.offered_s - self._started_s) * CLOCK_HZ)
        self._last_tick = max(tick, self._last_tick + 1)  # encoders refuse a time that does not grow
        return self._last_tick, np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420), dtype=np.uint8)


class _SenderProcess:
    """One connection to the receiver: a child process that encodes and sends.

    Args:
        settings: what the process needs to know; see `outgoing_child`.
    """

    def __init__(self, settings: dict[str, object]) -> None:
        self._settings = settings
        passed: tuple[int, ...] = ()
        if settings["url"] == STDOUT_TEXT:
            passed = (os.dup(sys.stdout.fileno()),)
            self._settings = {**settings, "url": f"pipe:{passed[0]}"}
        try:
            self.child = Child(SENDER, pass_fds=passed)
        finally:
            for descriptor in passed:
                os.close(descriptor)

    def open(self) -> None:
        """Wait until the connection is made.

        Raises:
            _ConnectionLostError: it cannot be made within 8 s.
        """
        self._exchange(json.dumps(self._settings).encode(), timeout_s=OPEN_TIMEOUT_S)

    def send(self, pts: int, planes: UInt8Array) -> None:
        """Hand over one frame, its time in 1/90000 s and its I420 pixels, and wait until it was sent.

        Raises:
            _ConnectionLostError: that took longer than 4 s, or the process ended.
        """
        self._exchange(PTS.pack(pts), planes.reshape(-1).data, timeout_s=STALLED_S)

    def _exchange(self, *parts: bytes | memoryview, timeout_s: float) -> None:
        connection = self.child.connection
        try:
            with suppress(ConnectionError):  # it has ended, and its last answer says why
                connection.send(*parts, timeout_s=timeout_s)
            (error,) = connection.receive(timeout_s)
        except TimeoutError:
            raise _ConnectionLostError("the receiver takes nothing") from None
        except OSError:
            raise _ConnectionLostError(f"the sender process {self.child.ending()}") from None
        if error.size:
            raise _ConnectionLostError(redacted(error.tobytes().decode()))


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
