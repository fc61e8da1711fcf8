"""What the decoder process of a live source runs.

It decodes as fast as the source delivers, and sends one of the newest frames for each request of its parent.
"""

import threading
import time
from collections import deque

from nerve_runtime import SourceError
from nerve_stream.child import Connection
from nerve_stream.redaction import redacted
from nerve_stream.sources.decoding.inputs import decode_input
from nerve_stream.sources.decoding.messages import Header, send_header
from nerve_stream.sources.decoding.readers import DecodedFrame, LiveReader, open_reader

# One being converted for the parent's next request, one for a hiccup; more would be older than new.
QUEUE_FRAMES = 2
ALIVE_EVERY_S = 0.5


class FrameSender:
    """Sends a frame whenever the parent requests one, from a thread of its own, so that nothing stops the decoding.

    Of a live source the oldest queued frame gives way to a new one: a parent that was suspended finds new frames,
    not a backlog. Of a recording none is lost: the decoder waits.

    Args:
        connection: to the parent.
        recorded: the source is a recording.

    Attributes:
        stopped: the parent wants no more, or the last message was sent.
    """

    def __init__(self, connection: Connection, *, recorded: bool) -> None:
        self.stopped = threading.Event()
        self._connection, self._recorded = connection, recorded
        self._queue: deque[DecodedFrame] = deque()
        self._last: Header | None = None
        self._changed = threading.Condition()
        self._superseded = 0
        self._alive_due = self._finished = False
        self._sent_at_s = time.monotonic()
        self._thread = threading.Thread(target=self._serve, name="nerve-frames", daemon=True)
        self._thread.start()

    def put(self, decoded: DecodedFrame) -> None:
        """Queue a frame."""
        with self._changed:
            while self._recorded and len(self._queue) >= QUEUE_FRAMES and not self.stopped.is_set():
                self._changed.wait()
            if len(self._queue) >= QUEUE_FRAMES:
                self._queue.popleft()
                self._superseded += 1
            self._queue.append(decoded)
            self._changed.notify_all()

    def skip(self) -> None:
        """Note that a frame was decoded that is not wanted; a waiting parent hears so now and then."""
        with self._changed:
            self._alive_due = time.monotonic() - self._sent_at_s >= ALIVE_EVERY_S
            self._changed.notify_all()

    def finish(self, last: Header) -> None:
        """Wait until the queued frames are sent, and the last message after them."""
        with self._changed:
            self._last = last
            self._changed.notify_all()
        self._thread.join()

    def _serve(self) -> None:
        try:
            while not self._finished:
                self._connection.receive()  # a request
                self._answer()
        except ConnectionError:
            pass  # the parent wants no more
        except SourceError as error:
            send_header(self._connection, Header("lost", redacted(str(error))))
        finally:
            with self._changed:
                self.stopped.set()
                self._changed.notify_all()

    def _answer(self) -> None:
        """Send a frame or the last message, and signs of life until there is one."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._last is not None or self._alive_due)
                decoded = self._queue.popleft() if self._queue else None
                self._alive_due = False
                self._finished = decoded is None and self._last is not None
                superseded = self._superseded
                self._changed.notify_all()
            if decoded is not None:
                self._send_frame(decoded, superseded)
            else:
                send_header(self._connection, self._last or Header("alive"))
            self._sent_at_s = time.monotonic()
            if decoded is not None or self._finished:
                return

    def _send_frame(self, decoded: DecodedFrame, superseded: int) -> None:
        rgb = decoded.to_rgb()
        header = Header(
            "frame",
            size_hw=(rgb.shape[0], rgb.shape[1]),
            index=decoded.index,
            superseded=superseded,
            arrived_ns=decoded.arrived_ns,
            time_s=decoded.time_s,
        )
        send_header(self._connection, header, rgb)


def main(connection: Connection) -> None:
    """Open what the first message says, and send its frames until they end or the parent ends the connection."""
    (text,) = connection.receive()
    live_input, every = decode_input(text.tobytes())
    send_header(connection, Header("started"))
    try:
        reader = open_reader(live_input)
    except SourceError as error:
        send_header(connection, Header("lost", redacted(str(error))))
        return
    send_header(connection, Header("opened", fps=reader.fps, recorded=reader.recorded))
    sender = FrameSender(connection, recorded=reader.recorded)
    sender.finish(_decode(reader, every, sender))


def _decode(reader: LiveReader, every: int, sender: FrameSender) -> Header:
    """Queue the wanted frames until the source ends or the parent wants no more; the last message."""
    try:
        for decoded in reader.frames():
            if sender.stopped.is_set():
                reader.close()  # some cameras keep a session that was not closed for a minute
                break
            if decoded.index % every == 0:
                sender.put(decoded)
            else:
                sender.skip()
    except SourceError as error:
        return Header("lost", redacted(str(error)))
    return Header("ended")
