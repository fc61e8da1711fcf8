"""What a worker is: the one thing in a run that segments, for all sources."""

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, TypeVar

from nerve_runtime import Frame, FrameResult, HungError, NerveError
from nerve_stream.monitoring.health import WorkerState
from nerve_stream.pipeline.clocks import AwakeClock
from nerve_stream.pipeline.hang_limit import HangLimit

logger = logging.getLogger("nerve_runtime")

OneWorker = TypeVar("OneWorker", bound="Worker")
Classes = str | tuple[str, ...]
"""`"a; b, c"`, or one string a class."""
Settle = Callable[[FrameResult | BaseException], None]
"""Called once for each frame, with its result or with what went wrong, from one of the worker's threads."""


class FrameLostError(NerveError):
    """A frame was lost because the worker had to be started again; `cause` says why, the exit code is its."""

    def __init__(self, message: str, cause: NerveError | None = None) -> None:
        super().__init__(message)
        self.cause = cause
        self.exit_code = cause.exit_code if cause is not None else NerveError.exit_code


class SegmentedVideo(Protocol):
    """State of one video: what a Segmenter's `new_video` gives."""

    def encode(self, frame: Frame) -> Any:
        """The first half of a frame: what does not need the frame before to be finished."""

    def decode(self, encoded: Any) -> FrameResult:
        """The second half; called once for each encoded frame, in the same order."""


class VideoSegmenter(Protocol):
    """What a worker needs of a Segmenter."""

    @property
    def ready(self) -> bool:
        """False after several frames in a row without finite scores."""

    @property
    def backend(self) -> str:
        """What runs the graphs, in words."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label."""

    def new_video(self) -> SegmentedVideo:
        """State for one more video."""

    def set_classes(self, classes: Classes, background: tuple[str, ...] | str = ()) -> None:
        """Use another class list from the next frame on; a list that is refused changes nothing."""

    def stop(self) -> None:
        """End the frame under way with an error soon; the segmenter is of no use afterwards."""

    def close(self) -> None:
        """Release the graphs."""


class Worker(ABC):
    """Segments the frames of several videos, one frame in each half at a time; a context manager.

    Attributes:
        hang_limit: a frame that is in the worker for longer has failed.
        ends_hung_frames: a hung frame costs that frame only; otherwise it ends the worker.
        state: where it stands; "failed" and "closed" are final.
        error: why it cannot go on, once `state` is "failed"; not a NerveError if it is a bug.
    """

    ends_hung_frames = False
    error: BaseException | None = None

    def __init__(self) -> None:
        self.hang_limit = HangLimit()
        self.state: WorkerState = "opening"
        self._changed = threading.Condition()
        self._awake = AwakeClock()

    @property
    @abstractmethod
    def ready(self) -> bool:
        """It answers, and the latest scores were finite."""

    @property
    @abstractmethod
    def restarts(self) -> int:
        """How often it was started again."""

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """The name of each label."""

    @abstractmethod
    def describe(self) -> str:
        """What runs the graphs, in words."""

    @abstractmethod
    def wait_room(self, timeout_s: float) -> bool:
        """Wait until a frame could be begun at once; false when the time is over first, or it is not ready.

        A caller that picks its frame after this picks the newest there is.
        """

    @abstractmethod
    def submit(self, video: str, frame: Frame, settle: Settle) -> None:
        """Begin a frame; by one thread only, after `wait_room` said that there is room.

        Args:
            video: tells videos apart; the first frame of a new one is a keyframe.
            frame: frames of one video in order.
            settle: called exactly once, soon or later: with the result, with the error of this frame, or with a
                FrameLostError or HungError when the worker had to be ended or started again.
        """

    @abstractmethod
    def set_classes(self, classes: Classes, background: tuple[str, ...] | str = ()) -> tuple[str, ...]:
        """Use another class list for every frame that is decoded from now on, while frames go on; from any thread.

        Args:
            classes: `"a; b, c"`, or one string a class.
            background: words for everything else.

        Returns:
            the name of each label.

        Raises:
            UsageError: the list is not usable; the old one stays in use.
            FrameLostError: the worker process was ended meanwhile; the next one uses the old list.
        """

    @abstractmethod
    def forget(self, video: str) -> None:
        """Release the state of a video that is over."""

    @abstractmethod
    def abort(self) -> None:
        """End the frames under way with errors soon; afterwards only `close` is of use."""

    @abstractmethod
    def close(self) -> None:
        """Release everything; closing twice is fine.

        Raises:
            HungError: a thread or process did not end.
        """

    def __enter__(self: OneWorker) -> OneWorker:
        """Return the worker itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the worker; a hang does not replace an error that is raised already."""
        try:
            self.close()
        except HungError as error:
            if value is None:
                raise
            logger.warning("%s", error)


def hung_error(frame: Frame, video: str, limit_s: float, consequence: str) -> HungError:
    """The error of a frame that took too long."""
    return HungError(f"frame {frame.index} of {video} was not segmented within {limit_s:.3g} s; {consequence}")
