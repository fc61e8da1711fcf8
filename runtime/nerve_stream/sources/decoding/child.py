"""The decoder process of one live source: options in through standard input, frames out through standard output.

It decodes as fast as the source delivers and hands over the newest frames, one for each byte that asks for it. It ends by itself
as soon as standard input ends, that is when the parent closes it or dies, however it dies.
"""

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import suppress

from nerve_runtime import SourceError
from nerve_stream.redaction import redacted
from nerve_stream.sources.decoding.messages import TEXT_LIMIT_BYTES, Header, Kind
from nerve_stream.sources.decoding.readers import DecodedPicture, LiveReader, open_reader
from nerve_stream.sources.decoding.recipe import decode_recipe

WAITING_PICTURES = (
    2  # one being made ready for the parent's next question, one for a hiccup; more would be older than new
)
CLOSE_TIMEOUT_S = 0.5  # time to close the connection; some cameras keep a session that was not closed for a minute
ALIVE_EVERY_S = 0.5
PIPE_BYTES = 1 << 20


class PictureSender:
    """Sends a picture whenever the parent asks for one, from a thread of its own, so that nothing stops the decoding.

    Of a live source the oldest waiting picture gives way to a new one: a parent that was suspended finds new pictures,
    not a backlog. Of a recording none is lost: it waits.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting: deque[DecodedPicture] = deque()
        self._requested = 0
        self._alive_due = False
        self._last: bytes | None = None
        self._changed = threading.Condition()
        self._superseded = 0
        self._sent_at_s = time.monotonic()
        self.recorded = False
        self._thread = threading.Thread(target=self._send_all, name="nerve-outbox", daemon=True)

    def send_text(self, kind: Kind, text: str = "") -> None:
        """Send words at once; only before `start`."""
        self._write(_message(kind, text))

    def start(self) -> None:
        """Begin to send pictures."""
        self._thread.start()

    def request(self, pictures: int) -> None:
        """Note that the parent waits for so many more pictures."""
        with self._changed:
            self._requested += pictures
            self._changed.notify_all()

    def put(self, decoded: DecodedPicture) -> None:
        """Hand over a picture."""
        with self._changed:
            while self.recorded and len(self._waiting) >= WAITING_PICTURES:
                self._changed.wait()
            if len(self._waiting) >= WAITING_PICTURES:
                self._waiting.popleft()
                self._superseded += 1
            self._waiting.append(decoded)
            self._changed.notify_all()

    def skip(self) -> None:
        """Note that a picture was decoded that nobody wants, and send a sign of life now and then."""
        with self._changed:
            if time.monotonic() - self._sent_at_s >= ALIVE_EVERY_S:
                self._alive_due = True
                self._changed.notify_all()

    def finish(self, kind: Kind, text: str = "") -> None:
        """Send what waits, as far as it is asked for, then the last message; ends the process."""
        with self._changed:
            self._last = _message(kind, text)
            self._changed.notify_all()
        self._thread.join()

    def _send_all(self) -> None:
        try:
            for content in self._contents():
                self._write(content)
                self._sent_at_s = time.monotonic()
        except SourceError as error:
            self._last = _message(Kind.REFUSED, str(error))
        except OSError:
            os._exit(0)  # nobody reads any more
        except BaseException:  # noqa: BLE001 - told to the parent, which reports it
            self._last = _message(Kind.FAULT, traceback.format_exc())
        with suppress(OSError):
            self._write(self._last or b"")
        os._exit(0)

    def _contents(self) -> Iterator[bytes | memoryview]:
        while (decoded := self._next()) is not None:
            if not isinstance(decoded, DecodedPicture):
                yield decoded
                continue
            rgb = decoded.to_rgb()
            size_hw = (rgb.shape[0], rgb.shape[1])
            what = (decoded.index, self._superseded, decoded.arrived_ns, decoded.time_s, rgb.nbytes)
            yield Header(Kind.PICTURE, size_hw, *what).packed()
            yield rgb.data.cast("B")

    def _next(self) -> DecodedPicture | bytes | None:
        """A picture that was asked for, a sign of life that is due, or None when everything is sent."""
        with self._changed:
            while True:
                if self._waiting and self._requested:
                    self._requested -= 1
                    self._changed.notify_all()
                    return self._waiting.popleft()
                if self._last is not None and not self._waiting:
                    return None
                if self._alive_due and self._requested:
                    self._alive_due = False
                    return _message(Kind.ALIVE, "")
                self._changed.wait()

    def _write(self, content: bytes | memoryview) -> None:
        view = memoryview(content)
        while view:
            view = view[os.write(self._descriptor, view) :]


def _message(kind: Kind, text: str) -> bytes:
    payload = redacted(text).encode()[:TEXT_LIMIT_BYTES]
    return Header(kind, payload_bytes=len(payload)).packed() + payload


def main() -> None:
    """Open what standard input says, and send its frames until they end or nobody wants them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent answers and ends us
    sender = PictureSender(_private_stdout())
    line = _read_line()
    if not line:
        return
    recipe, every = decode_recipe(line)
    stopping = threading.Event()
    threading.Thread(target=_exit_with_parent, args=(sender, stopping), name="nerve-parent", daemon=True).start()
    try:
        sender.send_text(Kind.STARTED)
        reader = open_reader(recipe)
        sender.recorded = reader.recorded
        fps = reader.fps and reader.fps.as_integer_ratio()
        sender.send_text(Kind.OPENED, json.dumps({"fps": fps, "recorded": reader.recorded}))
    except SourceError as error:
        sender.send_text(Kind.REFUSED, str(error))
        return
    except Exception:  # noqa: BLE001 - told to the parent, which reports it
        sender.send_text(Kind.FAULT, traceback.format_exc())
        return
    sender.start()
    sender.finish(*_read(reader, every, sender, stopping))


def _read(reader: LiveReader, every: int, sender: PictureSender, stopping: threading.Event) -> tuple[Kind, str]:
    """Hand over the wanted pictures until the source ends; its last message."""
    try:
        for decoded in reader.pictures():
            if stopping.is_set():
                reader.close()
                return Kind.ENDED, ""
            if decoded.index % every == 0:
                sender.put(decoded)
            else:
                sender.skip()
    except SourceError as error:
        return Kind.LOST, str(error)
    except Exception:  # noqa: BLE001 - told to the parent, which reports it
        return Kind.FAULT, traceback.format_exc()
    return Kind.ENDED, ""


def _private_stdout() -> int:
    """Standard output for us alone: what a library prints goes nowhere, neither between frames nor into logs."""
    descriptor = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    if sys.platform == "linux":
        import fcntl

        with suppress(OSError):  # a user who has many pipes may be refused a larger one; it only saves time
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return descriptor


def _read_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(0, 1 << 16)
        if not part:
            return b""
        line += part
    return line


def _exit_with_parent(sender: PictureSender, stopping: threading.Event) -> None:
    """Each byte of the parent asks for a picture; the end of its pipe, however it came about, is ours too."""
    while asked := os.read(0, 1 << 16):
        sender.request(len(asked))
    stopping.set()
    time.sleep(CLOSE_TIMEOUT_S)
    os._exit(0)
