"""Messages between a run and its worker process: pickles, each with its pixels behind it as they lie in memory."""

import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from nerve_runtime import Frame, FrameResult, NerveError
from nerve_stream.pipeline.worker import VideoSegmenter


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """The first message to a worker process: what opens the segmenter, and whether its halves overlap."""

    opener: Callable[[], VideoSegmenter]
    overlap: bool


@dataclass(frozen=True, slots=True)
class FrameRequest:
    """Segment a frame; its outcome has the same number."""

    number: int
    video: str
    frame: Frame


@dataclass(frozen=True, slots=True)
class ForgetRequest:
    """Release the state of a video."""

    video: str


@dataclass(frozen=True, slots=True)
class Opened:
    """The segmenter is open."""

    backend: str
    class_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NotOpened:
    """The segmenter cannot be opened; the process ends."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Room:
    """A frame could be begun at once."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a frame, and whether the segmenter was ready afterwards."""

    number: int
    ready: bool
    result: FrameResult | Exception


def send_message(connection: Connection, message: object) -> None:
    """Write one message; waits until the other side has taken it.

    Pixels are not put through the connection's own methods, which read in pieces that are each as large as what is
    left: there and back a frame of 720p takes 5.4 to 8.2 ms with them, and 1.9 to 2.5 ms like this.

    Raises:
        OSError: the other side is gone.
    """
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    planes = [buffer.raw() for buffer in buffers]
    connection.send(([plane.nbytes for plane in planes], pickled))
    for plane in planes:
        while plane:
            plane = plane[os.write(connection.fileno(), plane) :]


def receive_message(connection: Connection) -> Any:
    """Wait for one message; its arrays are writable.

    Raises:
        EOFError, OSError: the other side is gone.
    """
    sizes, pickled = connection.recv()
    planes = [bytearray(size) for size in sizes]
    for plane in planes:
        rest = memoryview(plane)
        while rest:
            count = os.readv(connection.fileno(), [rest])
            if not count:
                raise EOFError
            rest = rest[count:]
    return pickle.loads(pickled, buffers=planes)


def without_traceback(error: NerveError) -> NerveError:
    """An error that any process can unpickle: of the nearest of our own types, and so with its exit code."""
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == NerveError.__module__)
    return kind(str(error))
