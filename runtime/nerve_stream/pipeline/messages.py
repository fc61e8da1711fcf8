"""Messages between a run and its worker process: a pickle, and behind it the pixels as they lie in memory."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nerve_runtime import Frame, FrameResult, NerveError
from nerve_stream.child import Connection
from nerve_stream.pipeline.worker import Classes, VideoSegmenter


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """The first message to a worker process: what opens the segmenter, and whether its halves overlap.

    Attributes:
        classes: the list that replaced the opener's before an earlier process ended; None if none did.
    """

    opener: Callable[[], VideoSegmenter]
    overlap: bool
    classes: "ClassesRequest | None" = None


@dataclass(frozen=True, slots=True)
class ClassesRequest:
    """Use another class list; one at a time."""

    classes: Classes
    background: tuple[str, ...] | str


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
class ClassesAnswer:
    """The name of each label after a ClassesRequest, or why the list was refused."""

    class_names: tuple[str, ...] | Exception


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
    """Send one message; waits until the other side has taken it.

    Raises:
        OSError: the other side is gone.
    """
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    connection.send(pickled, *(buffer.raw() for buffer in buffers))


def receive_message(connection: Connection) -> Any:
    """Wait for one message; its arrays are writable.

    Raises:
        OSError: the other side is gone.
        MessageError: what arrives is no message.
    """
    pickled, *planes = connection.receive()
    return pickle.loads(pickled.data, buffers=planes)


def without_traceback(error: NerveError) -> NerveError:
    """An error that any process can unpickle: of the nearest of our own types, and so with its exit code."""
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == NerveError.__module__)
    return kind(str(error))
