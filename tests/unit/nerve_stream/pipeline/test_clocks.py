"""Row 48: the clock is monotonic; a suspension is no hang, brings no burst, and no pause is negative."""

from fractions import Fraction

import pytest

from nerve_stream.pipeline.clocks import LATE_S, LONGEST_PAUSE_S, LONGEST_TICK_S, AwakeClock, Pacer


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_time_asleep_is_not_counted() -> None:
    clock = FakeClock()
    awake = AwakeClock(clock)
    for _ in range(10):
        clock.now_s += 0.05
        awake.tick()
    assert awake.awake_s == pytest.approx(0.5)
    clock.now_s += 0.04
    assert awake.awake_s == pytest.approx(0.54)  # between two ticks too, or a frame would be late too early
    clock.now_s -= 0.04
    clock.now_s += 3600
    assert awake.tick() == pytest.approx(0.5 + LONGEST_TICK_S)
    clock.now_s -= 50
    assert awake.tick() == pytest.approx(0.5 + LONGEST_TICK_S)


def test_a_file_plays_as_fast_as_it_was_recorded() -> None:
    clock = FakeClock()
    pacer = Pacer(clock)
    assert pacer.pause_s(Fraction(7)) == 0
    clock.now_s += 0.01
    assert pacer.pause_s(Fraction(7) + Fraction(1, 25)) == pytest.approx(0.03)
    clock.now_s += 0.05
    assert pacer.pause_s(Fraction(7) + Fraction(1, 25)) == 0


def test_frames_after_a_suspension_come_at_their_pace_and_not_at_once() -> None:
    clock = FakeClock()
    pacer = Pacer(clock)
    pacer.pause_s(Fraction(0))
    clock.now_s += 60
    pauses_s = [pacer.pause_s(Fraction(index, 25)) for index in range(1, 26)]
    assert pauses_s[0] == 0
    assert pauses_s[1:] == pytest.approx([index / 25 for index in range(1, 25)], abs=1e-6)


@pytest.mark.parametrize("time_s", [Fraction(-5), Fraction(10**6), Fraction(0), Fraction(1, 10**9)])
def test_nonsense_timestamps_never_ask_for_a_long_or_a_negative_pause(time_s: Fraction) -> None:
    clock = FakeClock()
    pacer = Pacer(clock)
    for one in (Fraction(0), time_s, time_s, Fraction(0), time_s + Fraction(1, 25)):
        assert 0 <= pacer.pause_s(one) <= LONGEST_PAUSE_S
        clock.now_s += LATE_S / 10
