"""What tests of a run share: outputs that note what they get, a live source, and running it all."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from nerve_runtime.errors import SourceError
from nerve_runtime.frames import Frame
from nerve_runtime.result import FrameResult
from nerve_stream.pipeline import (
    LocalWorker,
    StreamJob,
    StreamOptions,
    StreamReport,
    run_streams,
)
from nerve_stream.sources.base import FrameSource
from tests.data.stream_doubles import DoubleSegmenter, blank, numbered

REALTIME = StreamOptions(realtime=True)


class Written(list[int]):
    """Indices of what was written, slowly if asked for, with something done at a certain one."""

    def __init__(self, each_s: float = 0.0, at: dict[int, Callable[[], object]] | None = None) -> None:
        super().__init__()
        self._each_s, self._at = each_s, at or {}

    def __call__(self, frame: Frame, result: FrameResult) -> None:
        assert frame.index == result.index
        time.sleep(self._each_s)
        self._at.get(frame.index, lambda: None)()
        self.append(frame.index)


class Camera(FrameSource):
    """A live source of `count` frames at `fps`; `close` ends it."""

    live = True

    def __init__(self, count: int, fps: float = 200.0, *, live: bool = True) -> None:
        self.name, self.size_hw, self.live = "camera", (2, 3), live
        self.closed = threading.Event()
        self._count, self._fps = count, fps

    def read_frames(self) -> Iterator[Frame]:
        for index in range(self._count):
            if self.closed.wait(1 / self._fps):
                return
            yield blank(index)

    def close(self) -> None:
        super().close()
        self.closed.set()


def run_all(frames: dict[str, Iterable[Frame]], **more: Any) -> tuple[list[StreamReport], dict[str, Written]]:
    written = {name: more.get("written", {}).get(name, Written()) for name in frames}
    jobs = [StreamJob(name, source, written[name]) for name, source in frames.items()]
    with LocalWorker(more.get("segmenter") or DoubleSegmenter()) as worker:
        kept = {key: more[key] for key in ("control", "health", "idle") if key in more}
        stop = more.get("stop") or threading.Event()
        reports = run_streams(jobs, worker, more.get("options"), stop=stop, **kept)
    return reports, written


def cut_off(count: int) -> Iterator[Frame]:
    yield from numbered(count)
    raise SourceError("the cable was pulled")
