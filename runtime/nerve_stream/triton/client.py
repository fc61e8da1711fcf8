"""A segmenter that runs in a Triton server: the interface of `nerve_runtime.Segmenter`, so that one line changes."""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Any

import numpy as np

from nerve_runtime import (
    EVERY_FRAME,
    Constants,
    Frame,
    FrameResult,
    Labels,
    NerveError,
    Readout,
    Temporal,
    UsageError,
    label_dtype,
)
from nerve_runtime.images import Picture, read_pictures
from nerve_stream.triton import messages
from nerve_stream.triton.messages import Facts, Options
from nerve_stream.triton.transport import Connection, ForgottenError, connect

SEQUENCE_BITS = 63
DEFAULT_TIMEOUT_S = 30.0
Words = str | Iterable[str]


class _Vocabulary:
    """The class list of a segmenter; another list is another object."""

    def __init__(self, classes: Words, background: Words) -> None:
        if isinstance(classes, str):
            classes = [name for part in classes.replace("\n", ";").split(";") if (name := part.strip())]
        self.classes = list(classes)
        self.background = background if isinstance(background, str) else list(background)
        if not self.classes:
            raise UsageError("the class list is empty; name at least one class")
        if wrong := [word for word in (*self.classes, *self.background) if not isinstance(word, str)]:
            raise UsageError(f"the class list has {wrong[0]!r}, expected strings")

    def tensor(self) -> np.ndarray[Any, Any]:
        """As a request carries it, (1, c)."""
        return np.array([[word.encode() for word in self.classes]], dtype=np.object_)


class TritonVideo(AbstractContextManager["TritonVideo"]):
    """One video: a sequence of the server, with a connection of its own. For one thread at a time.

    Args:
        connection: to the server, closed with the video.
        vocabulary: gives the class list in use.
        options: of the sequence, without the background.
    """

    def __init__(self, connection: Connection, vocabulary: Callable[[], _Vocabulary], options: Options) -> None:
        self._connection = connection
        self._vocabulary = vocabulary
        self._options = options
        self._sequence = secrets.randbits(SEQUENCE_BITS) or 1  # 0 is no sequence
        self._sent: _Vocabulary | None = None  # the list of the sequence; without one the next request starts it anew
        self._started = False
        self._frames = 0
        self._closed = False

    def segment(self, frame: Frame | np.ndarray[Any, Any], *, bgr: bool = False) -> FrameResult:
        """Label every pixel of a frame, or of pixels uint8 (H, W, 3), RGB, or BGR where `bgr`.

        A sequence that the server forgot, as after a pause or a restart, is started once more: with a keyframe.

        Raises:
            UsageError: the pixels are not uint8 (H, W, 3), the words are not usable, or the video is closed.
            ResourceError: the server is not there, or has no room; the next frame can be tried.
            HungError: it does not answer in time.
        """
        if self._closed:
            raise UsageError("this segmenter was closed; open it again")
        index = frame.index if isinstance(frame, Frame) else self._frames
        pixels = _checked(frame.rgb if isinstance(frame, Frame) else frame, index)
        self._frames += 1
        rgb = pixels[..., ::-1] if bgr else pixels
        tensors = {messages.FRAME: rgb[None]}
        if isinstance(frame, Frame):
            tensors[messages.INDEX] = np.array([[frame.index]], dtype=np.int64)
            tensors[messages.TIME_S] = np.array([[float(frame.time_s)]])
        started = time.perf_counter()
        outputs = self._asked(tensors)
        round_trip_ms = 1000 * (time.perf_counter() - started)
        result = _result(outputs, index, frame.time_s if isinstance(frame, Frame) else None, round_trip_ms)
        return replace(result, rgb=rgb)

    def use_classes(self, vocabulary: _Vocabulary) -> tuple[str, ...]:
        """Let the server check a class list and use it from now on; returns the names of its labels.

        Raises:
            UsageError: the list is not usable; the one before stays in use.
        """
        outputs = self._asked({}, vocabulary)
        return _names(outputs)

    def reset(self) -> None:
        """Forget what came before: the next frame starts the sequence anew, with a keyframe."""
        self._sent = None

    @property
    def ready(self) -> bool:
        """False once closed, and while the server or its model is not ready; asks the server."""
        if self._closed:
            return False
        try:
            self._connection.check_ready()
        except NerveError:
            return False
        return True

    def close(self) -> None:
        """End the sequence where the server is still there, and close the connection; closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._started:
                self._connection.infer({messages.OPTIONS: _text("{}")}, self._sequence, end=True)
        except NerveError:
            pass  # the server forgets the sequence by itself
        finally:
            self._connection.close()

    def __exit__(self, *raised: object) -> None:
        """Close the video."""
        self.close()

    def _asked(self, tensors: dict[str, Any], vocabulary: _Vocabulary | None = None) -> dict[str, Any]:
        wanted = vocabulary or self._vocabulary()
        try:
            return self._once(tensors, wanted)
        except ForgottenError:
            self._sent = None
            return self._once(tensors, wanted)
        except UsageError:
            raise  # the server's list is as it was
        except NerveError:
            if self._sent is not wanted:  # an answer that was lost may have changed it
                self._sent = None
            raise

    def _once(self, tensors: dict[str, Any], wanted: _Vocabulary) -> dict[str, Any]:
        start = self._sent is None
        more: dict[str, Any] = {}
        if self._sent is not wanted:
            more[messages.CLASSES] = wanted.tensor()
            options = self._options if start else Options()
            text = options.model_copy(update={"background": wanted.background}).to_json()
            more[messages.OPTIONS] = _text(text)
        outputs = self._connection.infer({**tensors, **more}, self._sequence, start=start)
        self._sent, self._started = wanted, True
        return outputs


class TritonSegmenter(AbstractContextManager["TritonSegmenter"]):
    """Segments frames in a Triton server that serves a repository of `nerve-build triton`. A context manager.

    Its own `segment` is for one video and one thread at a time; `new_video` gives as many more as there are sources.

    >>> with TritonSegmenter.open("grpc://server:8001", ["ladybug", "grass"]) as segmenter:     # doctest: +SKIP
    ...     result = segmenter.segment(rgb)

    Attributes:
        address: of the server.
        temporal: how the frames of a video help each other.
        class_names: the name of each label.
    """

    def __init__(
        self, connecting: Callable[[], Connection], vocabulary: _Vocabulary, temporal: Temporal, options: Options
    ) -> None:
        self.temporal = temporal
        self._connecting = connecting
        self._vocabulary = vocabulary
        self._options = options
        connection = connecting()
        self.address = connection.address
        self._video = TritonVideo(connection, lambda: self._vocabulary, options)
        try:
            connection.check_ready()
            self.class_names = self._video.use_classes(vocabulary)
        except BaseException:
            self._video.close()
            raise

    @classmethod
    def open(
        cls,
        address: str,
        classes: Words,
        *,
        background: Words = (),
        temporal: Temporal = EVERY_FRAME,
        templates: Words | None = None,
        constants: Constants | None = None,
        readout: Readout | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        model: str = messages.MODEL,
    ) -> "TritonSegmenter":
        """Reach a server, and let it check the classes and options.

        Args:
            address: `grpc://host:8001` or `http://host:8000`.
            classes: one string a class, each may list synonyms after commas; or `"a; b, c"`.
            background: words for everything else; they become class 0 and the others start at 1.
            temporal: how the frames of a video help each other; for video use `Temporal()`.
            templates: name of a template set, templates with `{}`, or None for the bundle's default.
            constants: of the method, instead of the bundle's defaults.
            readout: "bilinear" or "guided", None for the bundle's default.
            timeout_s: longest wait for an answer, seconds.
            model: name of the model in the server.

        Raises:
            UsageError: the address, the classes or a setting make no sense, or the server has no such model.
            ResourceError: the server is not there, the model is not ready, or all sequences are taken.
            HungError: it does not answer in time.
            CompatibilityError: tritonclient is not installed.
        """
        if not 0 < timeout_s < np.inf:
            raise UsageError(f"timeout_s is {timeout_s}, expected seconds above 0")
        options = Options(
            temporal=None if temporal == EVERY_FRAME else temporal,
            constants=constants,
            readout=readout,
            templates=templates if templates is None or isinstance(templates, str) else list(templates),
        )
        vocabulary = _Vocabulary(classes, background)
        return cls(lambda: connect(address, model, timeout_s), vocabulary, temporal, options)

    @property
    def backend(self) -> str:
        """Where the frames are computed."""
        return f"triton: {self.address}"

    @property
    def ready(self) -> bool:
        """False once closed, and while the server or its model is not ready; asks the server each time."""
        return self._video.ready

    def new_video(self) -> TritonVideo:
        """Start another video, a sequence of its own that shares the class list; close it when it ends."""
        return TritonVideo(self._connecting(), lambda: self._vocabulary, self._options)

    def set_classes(self, classes: Words, background: Words = ()) -> None:
        """Use another class list from the next frame on; attention is not computed anew.

        Raises:
            UsageError: the list is not usable; the old one stays in use.
        """
        vocabulary = _Vocabulary(classes, background)
        self.class_names = self._video.use_classes(vocabulary)
        self._vocabulary = vocabulary

    def segment(self, frame: Frame | np.ndarray[Any, Any], *, bgr: bool = False) -> FrameResult:
        """Label every pixel of a frame; see `TritonVideo.segment`."""
        return self._video.segment(frame, bgr=bgr)

    def __call__(self, pictures: Picture | Sequence[Picture]) -> list[FrameResult]:
        """Segment pictures, each by itself; one result each, in their order.

        They go through the segmenter's own sequence, one after another: its next frame is a keyframe.

        Args:
            pictures: the path of an image file, pixels uint8 (H, W, 3), RGB, or a Frame; or a sequence of those.

        Raises:
            SourceError: a file is no image, or is damaged; see `nerve_runtime.images.read_image`.
            NerveError: as in `TritonVideo.segment`.
        """
        results = []
        for place, picture in enumerate(read_pictures(pictures)):
            self.reset()
            try:
                result = self.segment(picture)
            finally:
                self.reset()
            results.append(result if isinstance(picture, Frame) else replace(result, index=place))
        return results

    def stream(self, frames: Iterable[Frame]) -> Iterator[FrameResult]:
        """Segment frames one after another; what has a `close` is closed at the end."""
        with ExitStack() as stack:
            if close := getattr(frames, "close", None):
                stack.callback(close)
            yield from map(self.segment, frames)

    def reset(self) -> None:
        """Forget what came before: the next frame is computed from nothing, as after a cut."""
        self._video.reset()

    def close(self) -> None:
        """End the sequence; videos of `new_video` are closed by themselves. Closing twice is fine."""
        self._video.close()

    def __exit__(self, *raised: object) -> None:
        """Close the segmenter."""
        self.close()


def _checked(pixels: object, index: int) -> np.ndarray[Any, Any]:
    """Pixels that may be sent: the server says the rest, but an array of another kind would not reach it."""
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        got = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise UsageError(f"frame {index} is {got}, expected uint8 (H, W, 3) pixels, RGB")
    return pixels


def _text(text: str) -> np.ndarray[Any, Any]:
    return np.array([[text.encode()]], dtype=np.object_)


def _names(outputs: dict[str, Any]) -> tuple[str, ...]:
    return tuple(bytes(name).decode() for name in outputs[messages.CLASS_NAMES].ravel())


def _result(outputs: dict[str, Any], index: int, time_s: Any, round_trip_ms: float) -> FrameResult:
    """The result of a frame; `total` is what the caller waited, network included."""
    names, facts = _names(outputs), Facts.of_json(outputs[messages.FACTS].ravel()[0])
    labels: Labels = outputs[messages.LABELS][0].astype(label_dtype(len(names)))  # 65535 becomes 255, both no label
    return FrameResult(
        labels=labels, confidence=outputs[messages.CONFIDENCE][0].copy(), class_names=names, index=index,
        time_s=time_s, timings_ms={**facts.timings_ms, "total": round_trip_ms}, keyframe=facts.keyframe,
        affinity_age=facts.affinity_age, valid=facts.valid,
    )  # fmt: skip
