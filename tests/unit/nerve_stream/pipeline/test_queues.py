"""Where frames wait: no frame is lost or counted twice, the newest wins or none is lost, and sources take turns."""

import random
import threading
from collections import Counter

import pytest

from nerve_stream.monitoring.counters import DROP_REASONS
from nerve_stream.pipeline.queues import QUEUE_FRAMES, FrameQueues, QueuedFrame
from tests.data.stream_doubles import blank, labelled


def taken(queues: FrameQueues) -> QueuedFrame:
    queued = queues.pop(0)
    assert queued is not None
    return queued


def test_the_newest_frame_wins_before_the_worker() -> None:
    queues = FrameQueues([False], realtime=True)
    for index in range(3):
        assert queues.push(0, blank(index))
    assert taken(queues).frame.index == 2
    counts = queues.counts(0)
    assert (counts.frames_in, counts.superseded, counts.in_flight) == (3, 2, 1)


def test_the_newest_result_wins_before_the_writer() -> None:
    queues = FrameQueues([False], realtime=True)
    for index in range(2):
        queues.push(0, blank(index))
        queued = taken(queues)
        queues.deliver(queued, labelled(queued.frame))
    newest = queues.next_result(0)
    assert newest is not None
    assert newest.frame.index == 1
    assert queues.counts(0).superseded == 1
    assert queues.written(newest)
    assert not queues.written(newest)
    assert (queues.counts(0).done, queues.counts(0).in_flight) == (1, 0)


def test_without_realtime_a_reader_waits_for_room_and_nothing_is_dropped() -> None:
    queues = FrameQueues([False], realtime=False)
    for index in range(QUEUE_FRAMES):
        queues.push(0, blank(index))
    assert queues.reader_waits(0)
    waiting = threading.Thread(target=queues.push, args=(0, blank(QUEUE_FRAMES)))
    waiting.start()
    assert queues.counts(0).frames_in == QUEUE_FRAMES
    assert taken(queues).frame.index == 0
    waiting.join(5)
    assert (queues.counts(0).frames_in, queues.counts(0).dropped) == (QUEUE_FRAMES + 1, 0)


def test_a_slow_writer_holds_up_its_own_source_only() -> None:
    queues = FrameQueues([False, False], realtime=False)
    for _ in range(QUEUE_FRAMES):  # nobody takes the results of source 0
        queues.push(0, blank(0))
        queued = taken(queues)
        queues.deliver(queued, labelled(queued.frame))
    queues.push(0, blank(1))
    assert queues.pop(0) is None
    queues.push(1, blank(0))
    assert taken(queues).source == 1
    assert queues.next_result(0) is not None
    assert taken(queues).source == 0


@pytest.mark.parametrize("realtime", [True, False])
def test_sources_take_turns_however_many_frames_one_of_them_has(realtime: bool) -> None:
    queues = FrameQueues([True, True, True], realtime=realtime)
    served: Counter[int] = Counter()
    for set_paused in range(30):
        queues.push(0, blank(set_paused))
        queues.push(0, blank(set_paused)) if realtime else None
        if not queues.reader_waits(1):
            queues.push(1, blank(set_paused))
        if not queues.reader_waits(2):
            queues.push(2, blank(set_paused))
        queued = taken(queues)
        served[queued.source] += 1
        queues.drop(queued, "failed")
        while not realtime and queues.reader_waits(0):
            queued = taken(queues)
            served[queued.source] += 1
            queues.drop(queued, "failed")
    shares = [served[source] for source in range(3)]
    assert max(shares) - min(shares) <= 1


def test_a_pause_drops_live_frames_and_keeps_the_others() -> None:
    queues = FrameQueues([True, False], realtime=False)
    queues.push(0, blank(0))
    queues.push(1, blank(0))
    queues.set_paused(paused=True)
    queues.push(0, blank(1))
    assert queues.pop(0) is None
    assert queues.reader_waits(1)
    assert queues.counts(0).paused == 2
    assert queues.counts(1).in_flight == 1
    queues.set_paused(paused=False)
    assert taken(queues).source == 1


def test_what_comes_after_a_frame_was_given_up_is_forgotten() -> None:
    queues = FrameQueues([False], realtime=False)
    queues.push(0, blank(0))
    queued = taken(queues)
    queues.give_up(0, "failed")
    queues.deliver(queued, labelled(queued.frame))
    queues.drop(queued, "stopped")
    assert not queues.written(queued)
    assert queues.next_result(0) is None
    counts = queues.counts(0)
    assert (counts.frames_in, counts.failed, counts.stopped, counts.done, counts.in_flight) == (1, 1, 0, 0, 0)
    assert not queues.push(0, blank(1))
    assert queues.counts(0).frames_in == 1


def test_a_result_that_was_given_up_is_not_written() -> None:
    queues = FrameQueues([False], realtime=False)
    queues.push(0, blank(0))
    queued = taken(queues)
    queues.deliver(queued, labelled(queued.frame))
    queues.give_up(0, "stopped")
    assert queues.next_result(0) is None
    assert queues.counts(0).stopped == 1


def act(queues: FrameQueues, rng: random.Random, held: list[QueuedFrame], expected: list[Counter[str]]) -> None:
    """One random step; `expected` counts what came in and what was written without asking the trays."""
    source = rng.randrange(len(expected))
    choice = rng.choice(["put", "put", "take", "deliver", "write", "fail", "pause"])
    if choice == "put" and not queues.reader_waits(source):
        expected[source]["in"] += queues.push(source, blank(0))
    if choice == "take" and (queued := queues.pop(0)) is not None:
        held.append(queued)
    if held and choice in ("deliver", "fail"):
        queued = held.pop(rng.randrange(len(held)))
        if choice == "fail":
            queues.drop(queued, "failed")
            expected[queued.source]["failed"] += 1
        else:
            queues.deliver(queued, labelled(queued.frame))
            expected[queued.source]["ready"] = 1
    if choice == "write" and expected[source]["ready"]:
        expected[source]["ready"] = 0
        written = queues.next_result(source)
        assert written is not None
        expected[source]["done"] += queues.written(written)
    if choice == "pause":
        queues.set_paused(paused=rng.random() < 0.3)


@pytest.mark.parametrize("seed", range(20))
def test_frames_in_are_done_dropped_or_in_flight_after_every_step(seed: int) -> None:
    rng, held = random.Random(seed), list[QueuedFrame]()
    queues = FrameQueues([True, False, True], realtime=True)
    expected = [Counter[str]() for _ in range(3)]
    for _ in range(300):
        act(queues, rng, held, expected)
        assert all(counts.conserved for counts in queues.all_counts())
    for source in range(3):
        queues.give_up(source, "stopped")
        counts = queues.counts(source)
        assert counts.in_flight == 0
        assert counts.frames_in == expected[source]["in"]
        assert counts.done == expected[source]["done"]
        assert counts.failed == expected[source]["failed"]
        assert counts.dropped == sum(getattr(counts, reason) for reason in DROP_REASONS)
        assert counts.frames_in == counts.done + counts.dropped


@pytest.mark.parametrize("realtime", [False, True])
def test_a_step_lets_one_frame_of_a_file_through_a_pause(realtime: bool) -> None:
    queues = FrameQueues([False], realtime=realtime)
    queues.push(0, blank(0))
    queues.set_paused(paused=True)
    assert queues.reader_waits(0)
    queues.step()
    assert taken(queues).frame.index == 0
    assert queues.pop(0) is None
    queues.step()
    assert not queues.reader_waits(0)
    assert queues.push(0, blank(1))
    assert queues.reader_waits(0)
    assert taken(queues).frame.index == 1
    assert queues.pop(0) is None
    assert queues.counts(0).dropped == 0


def test_a_step_lets_the_next_frame_of_a_live_source_through_and_drops_those_after_it() -> None:
    queues = FrameQueues([True], realtime=True)
    queues.set_paused(paused=True)
    queues.push(0, blank(0))
    queues.step()
    for index in (1, 2):
        queues.push(0, blank(index))
    assert taken(queues).frame.index == 2
    queues.push(0, blank(3))
    assert queues.pop(0) is None
    counts = queues.counts(0)
    assert (counts.paused, counts.superseded, counts.in_flight, counts.conserved) == (2, 1, 1, True)


def test_the_end_of_a_pause_ends_its_step() -> None:
    queues = FrameQueues([True], realtime=True)
    for paused in (True, False, True):
        queues.set_paused(paused=paused)
        if not queues.counts(0).frames_in:
            queues.step()
            queues.push(0, blank(0))
            assert taken(queues).frame.index == 0
            queues.step()
    queues.push(0, blank(1))
    assert queues.counts(0).paused == 1
