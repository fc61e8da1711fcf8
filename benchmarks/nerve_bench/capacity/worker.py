"""The worker whose load is measured: `nerve_stream`'s own, one frame at a time, with a clock."""

import math
import threading
import time
from dataclasses import dataclass
from functools import partial

from nerve_runtime import Frame, FrameResult
from nerve_stream.pipeline import LocalWorker
from nerve_stream.pipeline.worker import Settle, VideoSegmenter

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class ServedFrame:
    """When a frame was with the worker, in nanoseconds of the monotonic clock, and whether it was a keyframe."""

    began_ns: int
    ended_ns: int
    keyframe: bool

    @property
    def service_ms(self) -> float:
        """How long it was there."""
        return (self.ended_ns - self.began_ns) / NS_PER_MS


class TimedWorker(LocalWorker):
    """A `LocalWorker` that takes one frame at a time unless told, and notes when each was with it.

    One at a time is what queueing theory and the simulation are about. `nerve-segment` encodes a frame while it decodes
    another; how much more that serves is measured by itself.

    Attributes:
        served: every frame that came out with a result.
    """

    def __init__(self, segmenter: VideoSegmenter, *, overlap: bool = False) -> None:
        self.served: list[ServedFrame] = []
        super().__init__(segmenter, overlap=overlap)

    def submit(self, video: str, frame: Frame, settle: Settle) -> None:
        """Begin a frame, and note when."""
        super().submit(video, frame, partial(self._noted, time.monotonic_ns(), settle))

    def _noted(self, began_ns: int, settle: Settle, outcome: FrameResult | BaseException) -> None:
        if isinstance(outcome, FrameResult):
            self.served.append(ServedFrame(began_ns, time.monotonic_ns(), outcome.keyframe))
        settle(outcome)

    def segment(self, video: str, frame: Frame) -> FrameResult:
        """One frame by itself, waited for; raises what it failed with."""
        settled = threading.Event()
        outcomes: list[FrameResult | BaseException] = []

        def settle(outcome: FrameResult | BaseException) -> None:
            outcomes.append(outcome)
            settled.set()

        self.wait_room(math.inf)
        self.submit(video, frame, settle)
        settled.wait()
        (outcome,) = outcomes
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome
