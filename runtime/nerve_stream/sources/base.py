"""What gives frames: `FrameSource`, the base of video files, pictures and cameras.

A source of your own is one file and one registration. This one reads frames from a NumPy file, uint8 (n, H, W, 3), RGB:

    from fractions import Fraction

    import numpy as np

    from nerve_runtime import Frame
    from nerve_stream import FrameSource, register_source
    from nerve_stream.cli import run_segment

    class NumpyFrames(FrameSource):
        fps = Fraction(25)

        def __init__(self, path):
            self._frames = np.load(path, mmap_mode="r")
            self.name, self.count, self.size_hw = path.name, len(self._frames), self._frames.shape[1:3]

        def read_frames(self):
            for index, rgb in enumerate(self._frames):
                yield Frame(np.array(rgb), index, index / self.fps)

    register_source(".npy", NumpyFrames)

    if __name__ == "__main__":
        run_segment()

Saved as `segment_arrays.py`, `python segment_arrays.py frames.npy --classes "ladybug; grass" --overlay out.mp4` takes what
`nerve-segment` takes, and arrays too. A source with something to release overrides `close`; one that finds its file
damaged raises `nerve_runtime.SourceError`, which a command says in one line.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from fractions import Fraction
from types import TracebackType
from typing import Literal

from nerve_runtime import Frame, UsageError
from nerve_stream.redaction import redacted

SourceState = Literal["opening", "streaming", "reconnecting", "failed", "ended"]


class FrameSource(ABC):
    """Frames in order, once; closes itself at the end and is a context manager.

    Attributes:
        name: the source in words, without its folder and without credentials.
        count: number of frames the source declares, None if unknown; never trusted for more than a progress bar.
        fps: frames a second, None if unknown.
        size_hw: size of the first frame in pixels; later ones may differ. (0, 0) while a live source that is waited for
            has not come.
        live: a camera or a URL: frames come at their own pace and can be lost.
        resting: no frame is due, because it waits for somebody who wants one; its disk or decoder does not hang.
        state: what the source does now; changes while it is read, and may be looked at from any thread.
        reconnects: how often a live source was lost and came back.
        skipped: pictures of a folder that were damaged and left out.
        lost: frames of a live source that were decoded and then replaced by newer ones before anybody took them.
        last_error: why the source was lost or failed last, in words without credentials; None if it never was.
    """

    name: str
    count: int | None = None
    fps: Fraction | None = None
    size_hw: tuple[int, int]
    live: bool = False
    resting: bool = False
    state: SourceState = "streaming"
    reconnects: int = 0
    skipped: int = 0
    lost: int = 0
    last_error: str | None = None
    _started = False

    def __iter__(self) -> Iterator[Frame]:
        """Iterate over the frames.

        Raises:
            UsageError: the source was read or closed already.
            SourceError: the source broke off; raised after the frames that could be read.
        """
        if self._started:
            raise UsageError(f"source {self.name} was read or closed already; open it again")
        self._started = True
        return self._frames_then_close()

    def _frames_then_close(self) -> Iterator[Frame]:
        try:
            with contextlib.closing(self):
                yield from self.read_frames()
        except Exception as error:
            self.state, self.last_error = "failed", redacted(str(error))
            raise

    @abstractmethod
    def read_frames(self) -> Iterator[Frame]:
        """Give each frame once, in order; called once, by `iter`.

        Raises:
            SourceError: the source broke off.
        """

    def seek(self, time_s: Fraction) -> None:
        """Go on with the first frame at or after a time of the source's own clock; may be asked from any thread.

        It is done before the next frame is given; a time before the first frame or after the last means that frame or
        the end.

        Raises:
            UsageError: only video files can be sought in.
        """
        kind = "is live" if self.live else "is no video file"
        raise UsageError(
            f"source {self.name} {kind}, {float(time_s):.3f} s of it cannot be sought; only video files can"
        )

    def close(self) -> None:
        """Release the file or device; closing twice is fine.

        From another thread it also ends a `next` that waits there, within 3 s.
        """
        self._started = True
        if self.state != "failed":
            self.state = "ended"

    def __enter__(self) -> "FrameSource":
        """Return the source itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the source."""
        self.close()
