"""A source whose frames begin again when they are over."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction

from nerve_runtime import Frame
from nerve_stream.sources.base import FrameSource

UNKNOWN_FPS = Fraction(25)
POLL_S = 0.1


WantsAgain = Callable[[float, bool], bool]
"""Waits up to so many seconds and says whether the next turn may begin; told whether the source is one picture."""


def always(timeout_s: float, still: bool) -> bool:
    """Begin again at once."""
    return True


class LoopedFrames(FrameSource):
    """The frames of a source again and again, until it is closed; indices and times go on from turn to turn.

    Args:
        opener: opens the source; called at once, and for each turn.
        wants_again: asked at the end of each turn, several times a second.

    Raises:
        NerveError: the source cannot be opened.
    """

    def __init__(self, opener: Callable[[], FrameSource], wants_again: WantsAgain = always) -> None:
        self._opener, self._wants_again = opener, wants_again
        self._source = opener()
        self._closed = False
        self._shift_s = Fraction(0)
        self._still = self._source.count == 1
        self.name, self.fps, self.size_hw = self._source.name, self._source.fps, self._source.size_hw

    @property
    def skipped(self) -> int:  # type: ignore[override]
        """As the source."""
        return self._source.skipped

    def read_frames(self) -> Iterator[Frame]:
        """Give the frames of each turn; see FrameSource."""
        index, end_s = 0, Fraction(0)
        while True:
            first_index, self._shift_s = index, end_s
            for frame in self._source:
                index = first_index + frame.index
                time_s = self._shift_s + frame.time_s
                self.resting = False
                yield replace(frame, index=index, time_s=time_s)
                index, end_s = index + 1, time_s + 1 / (self.fps or UNKNOWN_FPS)
            if not self._begin_again():
                return

    def _begin_again(self) -> bool:
        """Wait until the next turn may begin, and open it; false once closed."""
        self.resting = True
        while not self._closed:
            if self._wants_again(POLL_S, self._still):
                self._source = self._opener()
                break
        if self._closed:
            self._source.close()
        return not self._closed

    def seek(self, time_s: Fraction) -> None:
        """As the source, within this turn."""
        self._source.seek(max(Fraction(0), time_s - self._shift_s))

    def close(self) -> None:
        """End, and close the source."""
        super().close()
        self._closed = True
        self._source.close()
