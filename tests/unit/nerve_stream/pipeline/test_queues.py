"""Where frames wait: no frame is lost or counted twice, the newest wins or none is lost, and sources take turns."""

import random
import threading
from collections import Counter

import pytest

from nerve_stream.monitoring.counters import DROP_REASONS
from nerve_stream.pipeline.queues import QUEUE_FRAMES, Ticket, Trays
from tests.data.stream_doubles import blank, labelled


def taken(trays: Trays) -> Ticket:
    ticket = trays.take(0)
    assert ticket is not None
    return ticket


def test_the_newest_frame_wins_before_the_worker() -> None:
    trays = Trays([False], realtime=True)
    for index in range(3):
        assert trays.put(0, blank(index))
    assert taken(trays).frame.index == 2
    counts = trays.counts(0)
    assert (counts.frames_in, counts.superseded, counts.in_flight) == (3, 2, 1)


def test_the_newest_result_wins_before_the_writer() -> None:
    trays = Trays([False], realtime=True)
    for index in range(2):
        trays.put(0, blank(index))
        ticket = taken(trays)
        trays.deliver(ticket, labelled(ticket.frame))
    newest = trays.next_result(0)
    assert newest is not None
    assert newest.frame.index == 1
    assert trays.counts(0).superseded == 1
    assert trays.written(newest)
    assert not trays.written(newest)
    assert (trays.counts(0).done, trays.counts(0).in_flight) == (1, 0)


def test_without_realtime_a_reader_waits_for_room_and_nothing_is_dropped() -> None:
    trays = Trays([False], realtime=False)
    for index in range(QUEUE_FRAMES):
        trays.put(0, blank(index))
    assert trays.reader_waits(0)
    waiting = threading.Thread(target=trays.put, args=(0, blank(QUEUE_FRAMES)))
    waiting.start()
    assert trays.counts(0).frames_in == QUEUE_FRAMES
    assert taken(trays).frame.index == 0
    waiting.join(5)
    assert (trays.counts(0).frames_in, trays.counts(0).dropped) == (QUEUE_FRAMES + 1, 0)


def test_a_slow_writer_holds_up_its_own_source_only() -> None:
    trays = Trays([False, False], realtime=False)
    for _ in range(QUEUE_FRAMES):  # nobody takes the results of source 0
        trays.put(0, blank(0))
        ticket = taken(trays)
        trays.deliver(ticket, labelled(ticket.frame))
    trays.put(0, blank(1))
    assert trays.take(0) is None
    trays.put(1, blank(0))
    assert taken(trays).lane == 1
    assert trays.next_result(0) is not None
    assert taken(trays).lane == 0


@pytest.mark.parametrize("realtime", [True, False])
def test_sources_take_turns_however_many_frames_one_of_them_has(realtime: bool) -> None:
    trays = Trays([True, True, True], realtime=realtime)
    served: Counter[int] = Counter()
    for turn in range(30):
        trays.put(0, blank(turn))
        trays.put(0, blank(turn)) if realtime else None
        if not trays.reader_waits(1):
            trays.put(1, blank(turn))
        if not trays.reader_waits(2):
            trays.put(2, blank(turn))
        ticket = taken(trays)
        served[ticket.lane] += 1
        trays.drop(ticket, "failed")
        while not realtime and trays.reader_waits(0):
            ticket = taken(trays)
            served[ticket.lane] += 1
            trays.drop(ticket, "failed")
    shares = [served[lane] for lane in range(3)]
    assert max(shares) - min(shares) <= 1


def test_a_pause_drops_live_frames_and_keeps_the_others() -> None:
    trays = Trays([True, False], realtime=False)
    trays.put(0, blank(0))
    trays.put(1, blank(0))
    trays.turn(paused=True)
    trays.put(0, blank(1))
    assert trays.take(0) is None
    assert trays.reader_waits(1)
    assert trays.counts(0).paused == 2
    assert trays.counts(1).in_flight == 1
    trays.turn(paused=False)
    assert taken(trays).lane == 1


def test_what_comes_after_a_frame_was_given_up_is_forgotten() -> None:
    trays = Trays([False], realtime=False)
    trays.put(0, blank(0))
    ticket = taken(trays)
    trays.give_up(0, "failed")
    trays.deliver(ticket, labelled(ticket.frame))
    trays.drop(ticket, "stopped")
    assert not trays.written(ticket)
    assert trays.next_result(0) is None
    counts = trays.counts(0)
    assert (counts.frames_in, counts.failed, counts.stopped, counts.done, counts.in_flight) == (1, 1, 0, 0, 0)
    assert not trays.put(0, blank(1))
    assert trays.counts(0).frames_in == 1


def test_a_result_that_was_given_up_is_not_written() -> None:
    trays = Trays([False], realtime=False)
    trays.put(0, blank(0))
    ticket = taken(trays)
    trays.deliver(ticket, labelled(ticket.frame))
    trays.give_up(0, "stopped")
    assert trays.next_result(0) is None
    assert trays.counts(0).stopped == 1


def act(trays: Trays, rng: random.Random, held: list[Ticket], expected: list[Counter[str]]) -> None:
    """One random step; `expected` counts what came in and what was written without asking the trays."""
    lane = rng.randrange(len(expected))
    choice = rng.choice(["put", "put", "take", "deliver", "write", "fail", "pause"])
    if choice == "put" and not trays.reader_waits(lane):
        expected[lane]["in"] += trays.put(lane, blank(0))
    if choice == "take" and (ticket := trays.take(0)) is not None:
        held.append(ticket)
    if held and choice in ("deliver", "fail"):
        ticket = held.pop(rng.randrange(len(held)))
        if choice == "fail":
            trays.drop(ticket, "failed")
            expected[ticket.lane]["failed"] += 1
        else:
            trays.deliver(ticket, labelled(ticket.frame))
            expected[ticket.lane]["ready"] = 1
    if choice == "write" and expected[lane]["ready"]:
        expected[lane]["ready"] = 0
        written = trays.next_result(lane)
        assert written is not None
        expected[lane]["done"] += trays.written(written)
    if choice == "pause":
        trays.turn(paused=rng.random() < 0.3)


@pytest.mark.parametrize("seed", range(20))
def test_frames_in_are_done_dropped_or_in_flight_after_every_step(seed: int) -> None:
    rng, held = random.Random(seed), list[Ticket]()
    trays = Trays([True, False, True], realtime=True)
    expected = [Counter[str]() for _ in range(3)]
    for _ in range(300):
        act(trays, rng, held, expected)
        assert all(counts.conserved for counts in trays.all_counts())
    for lane in range(3):
        trays.give_up(lane, "stopped")
        counts = trays.counts(lane)
        assert counts.in_flight == 0
        assert counts.frames_in == expected[lane]["in"]
        assert counts.done == expected[lane]["done"]
        assert counts.failed == expected[lane]["failed"]
        assert counts.dropped == sum(getattr(counts, reason) for reason in DROP_REASONS)
        assert counts.frames_in == counts.done + counts.dropped
