"""Some of the frames of a source."""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from fractions import Fraction

from nerve_runtime import Frame
from nerve_stream.sources.base import FrameSource, SourceState


class SelectedFrames(FrameSource):
    """The frames of another source without some of them; everything else about it is the other's.

    Args:
        source: read and closed with this one.
        limit: how many frames to give, None for all.
        without: indices of frames to leave out.
    """

    def __init__(
        self, source: FrameSource, *, limit: int | None = None, without: AbstractSet[int] = frozenset()
    ) -> None:
        self._source = source
        self._limit = limit
        self._without = without
        self.name, self.live = source.name, source.live
        self.fps, self.size_hw = source.fps, source.size_hw
        known = [count for count in (source.count, limit) if count is not None]
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

    def _frames(self) -> Iterator[Frame]:
        given = 0
        for frame in self._source:
            if frame.index in self._without:
                continue
            yield frame
            given += 1
            if given == self._limit:
                return

    def seek(self, time_s: Fraction) -> None:
        """As the source."""
        self._source.seek(time_s)

    def close(self) -> None:
        """Close the source."""
        self._started = True
        self._source.close()
