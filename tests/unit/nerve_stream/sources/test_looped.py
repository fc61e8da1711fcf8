"""A source that begins again: its frames go on, it waits where nobody wants more, and it ends when it is closed."""

import threading
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice

from nerve_runtime import Frame
from nerve_stream.sources.base import FrameSource
from nerve_stream.sources.looped import LoopedFrames
from tests.data.stream_doubles import blank


class Three(FrameSource):
    """Three frames at 25 a second."""

    fps = Fraction(25)

    def __init__(self, count: int = 3) -> None:
        self.name, self.size_hw, self.count = "three", (2, 3), count
        self.closed = 0

    def read_frames(self) -> Iterator[Frame]:
        yield from map(blank, range(self.count or 0))

    def close(self) -> None:
        super().close()
        self.closed += 1


def test_indices_and_times_go_on_from_turn_to_turn() -> None:
    frames = list(islice(LoopedFrames(Three), 7))
    assert [frame.index for frame in frames] == list(range(7))
    assert [frame.time_s for frame in frames] == [Fraction(index, 25) for index in range(7)]
    assert [int(frame.rgb[0, 0, 0]) for frame in frames] == [0, 1, 2, 0, 1, 2, 0]


def test_the_next_turn_waits_until_it_is_wanted_and_says_that_it_rests() -> None:
    asked, wanted = threading.Event(), threading.Event()

    def wants_again(timeout_s: float, still: bool) -> bool:
        asked.set()
        return wanted.wait(timeout_s)

    source, found = LoopedFrames(Three, wants_again), list[int]()

    def read() -> None:
        found.extend(frame.index for frame in islice(source, 4))

    reader = threading.Thread(target=read)
    reader.start()
    assert asked.wait(5)
    assert source.resting
    wanted.set()
    reader.join(5)
    assert (found, source.resting) == ([0, 1, 2, 3], False)


def test_closing_ends_a_source_that_rests() -> None:
    asked = threading.Event()

    def never(timeout_s: float, still: bool) -> bool:
        asked.set()
        return False

    source = LoopedFrames(Three, never)
    reader = threading.Thread(target=lambda: list(source))
    reader.start()
    assert asked.wait(5)
    source.close()
    reader.join(3)
    assert not reader.is_alive()


def test_it_is_told_that_a_source_is_one_picture() -> None:
    told: list[bool] = []

    def note(timeout_s: float, still: bool) -> bool:
        told.append(still)
        return len(told) < 2

    source = LoopedFrames(lambda: Three(1), note)
    assert [frame.index for frame in islice(source, 2)] == [0, 1]
    assert told == [True]


def test_every_turn_is_closed() -> None:
    opened: list[Three] = []

    def opener() -> Three:
        opened.append(Three())
        return opened[-1]

    frames = iter(LoopedFrames(opener))
    assert [next(frames).index for _ in range(4)] == [0, 1, 2, 3]
    assert opened[0].closed
    assert not opened[1].closed


def test_seeking_is_within_the_turn() -> None:
    sought: list[Fraction] = []

    class Sought(Three):
        def seek(self, time_s: Fraction) -> None:
            sought.append(time_s)

    source = LoopedFrames(Sought)
    list(islice(source, 4))  # one frame into the second turn
    source.seek(Fraction(4, 25))
    source.seek(Fraction(0))
    assert sought == [Fraction(1, 25), Fraction(0)]
