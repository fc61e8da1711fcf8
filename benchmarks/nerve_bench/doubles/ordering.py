"""Which work has happened before which: finds work on streams that uses memory which nothing orders.

Each stream counts its pieces of work. A clock says for sure how many of each stream are done before the next piece; events
carry clocks from stream to stream, and waiting carries them to the host (vector clocks, as in race detectors).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field


class MisuseError(Exception):
    """The caller broke a rule of the imitated library: a bug, so no NerveError, and never to be caught."""


class Clock(dict[int, int]):
    """By stream, how many of its pieces of work are done for sure."""

    def merge(self, other: "Clock") -> None:
        """Know what the other knows too."""
        for stream, count in other.items():
            self[stream] = max(self.get(stream, 0), count)

    def copy(self) -> "Clock":
        """A clock of its own."""
        return Clock(self)


@dataclass(slots=True)
class _Uses:
    """The last work that wrote a piece of memory, and since then the last of each stream that read it."""

    written: tuple[int, int] | None = None
    read: dict[int, int] = field(default_factory=dict)


class Ordering:
    """Remembers who used which memory last; addresses are those at which blocks begin."""

    def __init__(self) -> None:
        self._uses: dict[int, _Uses] = {}
        self._host = Clock()

    def host_saw(self, clock: Clock) -> None:
        """The host waited: what it puts on any stream from now on comes after this."""
        self._host.merge(clock)

    def begin(self, stream: int, clock: Clock, reads: Sequence[int], writes: Sequence[int]) -> None:
        """Put a piece of work on a stream, whose clock advances.

        Raises:
            MisuseError: it may run at the same time as other work that uses the same memory.
        """
        clock.merge(self._host)
        for address in reads:
            self._refuse_unordered(address, stream, clock, "read", [self._of(address).written])
        for address in writes:
            uses = self._of(address)
            self._refuse_unordered(address, stream, clock, "written", [uses.written, *uses.read.items()])
        clock[stream] = clock.get(stream, 0) + 1
        for address in reads:
            self._of(address).read[stream] = clock[stream]
        for address in writes:
            self._uses[address] = _Uses((stream, clock[stream]))

    def forget(self, address: int) -> None:
        """The memory was freed."""
        self._uses.pop(address, None)

    def _of(self, address: int) -> _Uses:
        return self._uses.setdefault(address, _Uses())

    def _refuse_unordered(
        self, address: int, stream: int, clock: Clock, how: str, earlier: list[tuple[int, int] | None]
    ) -> None:
        for use in earlier:
            if use is not None and clock.get(use[0], 0) < use[1] and use[0] != stream:
                raise MisuseError(
                    f"memory at {address:#x} is {how} by stream {stream}, and stream {use[0]} may still be using it: "
                    "an event is missing"
                )
