"""Some of the frames of a source."""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from fractions import Fraction
from itertools import islice

from nerve_runtime import Frame
from nerve_stream.sources.base import FrameSource, SourceState
from nerve_stream.sources.options import Part

WHOLE = Part()


class SelectedFrames(FrameSource):
    """The frames of another source without some of them; everything else about it is the other's.

    Args:
        source: read and closed with this one.
        limit: how many frames to give, None for all.
        without: indices of frames to leave out.
        part: which of them by time and number, of a source that gives all.

    Raises:
        UsageError: while it is read: the part starts behind the last frame.
    """

    def __init__(
        self,
        source: FrameSource,
        *,
        limit: int | None = None,
        without: AbstractSet[int] = frozenset(),
        part: Part = WHOLE,
    ) -> None:
        self._source = source
        self._limit = limit
        self._without = without
        self._part = part
        self.name, self.live = source.name, source.live
        self.fps, self.size_hw = source.fps, source.size_hw
        count = source.count if part == WHOLE else None
        known = [number for number in (count, limit) if number is not None]
        self.count = min(known) if known else None

    @property
    def state(self) -> SourceState:
        """As the source."""
        return self._source.state

    @state.setter
    def state(self, state: SourceState) -> None:
        self._source.state = state

    @property
    def reconnects(self) -> int:  # type: ignore[override]
        """As the source."""
        return self._source.reconnects

    @property
    def skipped(self) -> int:  # type: ignore[override]
        """As the source."""
        return self._source.skipped

    @property
    def lost(self) -> int:  # type: ignore[override]
        """As the source."""
        return self._source.lost

    @property
    def last_error(self) -> str | None:
        """As the source."""
        return self._source.last_error

    @last_error.setter
    def last_error(self, error: str | None) -> None:
        self._source.last_error = error

    def read_frames(self) -> Iterator[Frame]:
        """Give the chosen frames; see FrameSource."""
        kept = (frame for frame in self._frames_of_part() if frame.index not in self._without)
        yield from islice(kept, self._limit)

    def _frames_of_part(self) -> Iterator[Frame]:
        part, first_s, in_time = self._part, None, 0
        since_first_s = Fraction(0)
        for frame in self._source:
            first_s = frame.time_s if first_s is None else first_s
            since_first_s = frame.time_s - first_s
            if part.length_s is not None and since_first_s >= part.begin_s + part.length_s:
                break
            if since_first_s >= part.begin_s:
                if in_time % part.every == 0:
                    yield frame
                in_time += 1
        if part.begin_s and not in_time:
            raise part.refuse_beyond(self.name, since_first_s)

    def seek(self, time_s: Fraction) -> None:
        """As the source."""
        self._source.seek(time_s)

    def close(self) -> None:
        """Close the source."""
        self._started = True
        self._source.close()
