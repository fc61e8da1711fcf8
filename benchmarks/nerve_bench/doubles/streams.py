"""Streams, events and graphs of the imitated CUDA: work that is done when it is waited for."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from nerve_bench.doubles.ordering import Clock


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of work: what it does, and the addresses of the memory that it reads and writes."""

    run: Callable[[], None]
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()


@dataclass(eq=False)
class FakeStream:
    """Work in order; `int()` of it is the handle that TensorRT takes.

    `clock` is what has happened for sure before the next piece of work: so many pieces of each stream.
    """

    handle: int
    clock: Clock = field(default_factory=Clock)
    queue: deque[Callable[[], None]] = field(default_factory=deque)
    done: int = 0
    recorded: list[Work] | None = None

    def __int__(self) -> int:
        return self.handle

    @property
    def position(self) -> int:
        """How many pieces of work were ever put on it."""
        return self.done + len(self.queue)

    def run(self, until: int | None = None) -> None:
        """Do all work, or up to a position."""
        last = self.position if until is None else until
        while self.done < last:
            work = self.queue.popleft()
            self.done += 1
            work()


@dataclass(eq=False)
class FakeEvent:
    """A place in a stream."""

    handle: int
    stream: FakeStream | None = None
    position: int = 0
    clock: Clock = field(default_factory=Clock)

    @property
    def is_done(self) -> bool:
        """Whether all work before it is."""
        return self.stream is None or self.stream.done >= self.position

    def run(self) -> None:
        """Do all work before it."""
        if self.stream is not None:
            self.stream.run(self.position)


@dataclass(eq=False)
class FakeGraph:
    """Recorded work."""

    work: list[Work]


@dataclass(eq=False)
class FakeGraphExec:
    """Recorded work that can be launched."""

    work: list[Work]
