"""Live sources whose decoder process is a fake that misbehaves: rows 27 to 29 and 48 of the fault table."""

import itertools
import logging
import threading
import time
from collections.abc import Iterator
from fractions import Fraction

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerve_runtime.errors import SourceError, UsageError
from nerve_runtime.frames import Frame
from nerve_stream import backoff as restarts
from nerve_stream import child
from nerve_stream.sources import live
from nerve_stream.sources.decoding import process as decoder
from nerve_stream.sources.live import StreamClock
from nerve_stream.sources.opening import open_frames
from nerve_stream.sources.options import LiveOptions
from tests.data.processes import threads_and_files

URL = "rtsp://user:secret@127.0.0.1:1/live"
PATIENT = LiveOptions(open_timeout_s=5, read_timeout_s=10)
"""For decoders that do not hang: a frame may take its time where others want the processor."""


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "SLACK_S", 0.2)
    monkeypatch.setattr(child, "TERMINATE_TIMEOUT_S", 0.3)
    monkeypatch.setattr(live, "Backoff", lambda longest_s: restarts.Backoff(0.01, 0.05))


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The decoder processes to come, by their functions in fake_decoders; the last one stays."""
    to_come: list[str] = []

    def started(target: str) -> child.Child:
        return child.Child(f"tests.data.fake_decoders:{to_come.pop(0) if len(to_come) > 1 else to_come[0]}")

    monkeypatch.setattr(decoder, "Child", started)
    return to_come


def children() -> list[psutil.Process]:
    return psutil.Process().children()


def decoded(frames: Iterator[Frame], count: int) -> list[Frame]:
    return list(itertools.islice(frames, count))


def test_row_29_a_decoder_that_ignores_sigterm_is_killed_and_leaves_nothing(scripts: list[str]) -> None:
    before, held = children(), threads_and_files()
    scripts += ["stubborn", "endless"]
    with open_frames(URL, live=LiveOptions(open_timeout_s=5, read_timeout_s=1)) as source:
        (stubborn,) = [child for child in children() if child not in before]
        frames = iter(source)
        assert len(decoded(frames, 3)) == 3
        assert next(frames).index == 3
        assert source.reconnects == 1
        assert not stubborn.is_running()
        assert source.last_error == (
            "source rtsp://***@127.0.0.1:1/live gave nothing for 1.2 s; its decoder hangs and is ended"
        )
    assert children() == before  # a zombie would be one of them
    assert threads_and_files() <= held


def test_a_loss_is_told_once_with_its_return_and_without_the_password(
    scripts: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    scripts += ["breaking_off", *["refusing"] * 4, "endless"]
    with caplog.at_level(logging.INFO), open_frames(URL, live=PATIENT) as source:
        assert len(decoded(iter(source), 5)) == 5
    lost, back = [record.getMessage() for record in caplog.records if record.name == "nerve_runtime"]
    assert lost == "source rtsp://***@127.0.0.1:1/live is lost: the cable is out"
    assert back.startswith("source rtsp://***@127.0.0.1:1/live is back after ")


def test_indices_and_times_go_on_over_a_loss(scripts: list[str]) -> None:
    scripts += ["breaking_off"]
    with open_frames(URL, live=PATIENT) as source:
        frames = decoded(iter(source), 9)
        assert source.reconnects == 2
    assert [frame.index for frame in frames] == list(range(9))
    times_s = [frame.time_s for frame in frames]
    assert times_s[:3] == [0, Fraction(1, 10), Fraction(2, 10)]
    assert times_s[4] - times_s[3] == times_s[8] - times_s[7] == Fraction(1, 10)
    assert all(earlier < later for earlier, later in itertools.pairwise(times_s))


def test_states_are_told_to_who_looks_from_another_thread(scripts: list[str]) -> None:
    scripts += ["breaking_off", "refusing"]
    source = open_frames(URL, live=PATIENT)
    assert (source.live, source.state) == (True, "streaming")
    reader = threading.Thread(target=lambda: list(source))
    reader.start()
    deadline_s = time.monotonic() + 5
    while source.last_error != "nobody is there" and time.monotonic() < deadline_s:
        time.sleep(0.01)
    states: list[str] = [source.state]
    source.close()
    reader.join(3)
    assert not reader.is_alive()
    assert [*states, source.state] == ["reconnecting", "ended"]


def test_closing_from_another_thread_ends_a_next_that_waits(scripts: list[str]) -> None:
    scripts += ["silent"]
    source = open_frames(URL, live=LiveOptions(read_timeout_s=60))
    seen: list[Frame] = []
    reader = threading.Thread(target=lambda: seen.extend(source))
    reader.start()
    while not seen:
        time.sleep(0.01)
    closed_at_s = time.monotonic()
    source.close()
    reader.join(10)
    assert time.monotonic() - closed_at_s < 3
    assert (len(seen), source.state) == (1, "ended")


def test_row_32_a_decoder_that_crashes_again_and_again_has_failed(scripts: list[str]) -> None:
    scripts += ["crashing"]
    seen: list[Frame] = []
    source = open_frames(URL, live=PATIENT)
    with pytest.raises(SourceError, match=r"crashed more than 5 times in 60 s, .* was killed by signal SIGSEGV"):
        seen.extend(source)
    assert (len(seen), source.reconnects, source.state) == (6, 5, "failed")
    assert source.last_error is not None
    assert "SIGSEGV" in source.last_error


def test_words_that_are_no_message_are_refused(scripts: list[str]) -> None:
    scripts += ["babbling"]
    with pytest.raises(SourceError, match="sent something that is no frame: a message of 2021161080 parts"):
        open_frames(URL, live=PATIENT)


def test_a_bug_of_the_decoder_comes_with_its_traceback_and_without_the_password(scripts: list[str]) -> None:
    scripts += ["buggy"]
    with pytest.raises(SourceError, match="ended with exit code 1: Traceback") as failed:
        open_frames(URL, live=PATIENT)
    assert str(failed.value).endswith("ValueError: a bug at rtsp://***@host/live")


def test_the_very_first_opening_fails_at_once(scripts: list[str]) -> None:
    before = children()
    scripts += ["refusing"]
    with pytest.raises(SourceError, match=r"^nobody is there$"):
        open_frames(URL, live=PATIENT)
    assert children() == before


def test_a_source_may_be_waited_for(scripts: list[str]) -> None:
    scripts += ["refusing", "refusing", "endless"]
    with open_frames(URL, live=LiveOptions(wait_for_source=True)) as source:
        assert (source.state, source.size_hw, source.last_error) == ("opening", (0, 0), "nobody is there")
        frames = iter(source)
        assert [frame.index for frame in decoded(frames, 2)] == [0, 1]
        assert (source.state, source.size_hw, source.fps, source.reconnects) == ("streaming", (2, 2), Fraction(10), 0)


def test_a_source_that_stays_away_is_given_up(scripts: list[str]) -> None:
    scripts += ["breaking_off", "refusing"]
    source = open_frames(URL, live=LiveOptions(give_up_after_s=0.5))
    started_s = time.monotonic()
    with pytest.raises(SourceError, match=r"was away for 0\.5 s and is given up: nobody is there"):
        list(source)
    assert time.monotonic() - started_s >= 0.5


def test_a_recording_behind_a_url_ends_and_does_not_begin_anew(scripts: list[str]) -> None:
    scripts += ["recording"]
    source = open_frames("http://127.0.0.1:1/clip.mp4", live=PATIENT)
    assert [frame.index for frame in source] == [0, 1, 2]
    assert (source.state, source.reconnects) == ("ended", 0)
    scripts[:] = ["broken_recording"]
    with pytest.raises(SourceError, match="the network is gone; it is a recording that broke off"):
        list(open_frames("http://127.0.0.1:1/clip.mp4", live=PATIENT))


def test_a_size_that_changes_goes_through_the_pipe(scripts: list[str]) -> None:
    scripts += ["growing"]
    small, large = open_frames("http://127.0.0.1:1/clip.ts", live=PATIENT)
    assert (small.rgb.shape, large.rgb.shape) == ((2, 2, 3), (3, 4, 3))
    assert (small.rgb.ravel().tolist(), large.rgb.ravel().tolist()) == (list(range(12)), list(range(36)))


def test_a_duration_counts_from_the_first_frame(scripts: list[str]) -> None:
    scripts += ["endless"]
    frames = list(open_frames(URL, duration_s=0.5, live=PATIENT))
    assert [frame.time_s for frame in frames] == [Fraction(tenth, 10) for tenth in range(5)]


def test_a_live_source_has_no_start_and_cannot_be_sought(scripts: list[str]) -> None:
    scripts += ["endless"]
    with pytest.raises(UsageError, match="is live and has no start to skip"):
        open_frames(URL, start_s=1)
    with (
        open_frames(URL, live=PATIENT) as source,
        pytest.raises(UsageError, match=r"is live, 1\.000 s of it cannot be"),
    ):
        source.seek(Fraction(1))


FRAMES = st.lists(
    st.tuples(
        st.none() | st.fractions(min_value=-1_000_000, max_value=1_000_000, max_denominator=90_000),
        st.integers(min_value=0, max_value=10**13),
    ),
    min_size=2,
    max_size=20,
)


@given(FRAMES)
def test_row_48_whatever_a_clock_says_times_only_grow(frames: list[tuple[Fraction | None, int]]) -> None:
    clock = StreamClock()
    times_s = [clock.time_s(own_s, arrived_ns) for own_s, arrived_ns in frames]
    assert times_s[0] == 0
    assert all(earlier < later for earlier, later in itertools.pairwise(times_s))


@given(
    st.fractions(min_value=-1000, max_value=1000, max_denominator=90_000),
    st.lists(st.fractions(min_value=Fraction(1, 1000), max_value=9, max_denominator=1000), max_size=20),
)
def test_a_sane_clock_is_kept_whenever_its_frames_arrive(first_s: Fraction, steps_s: list[Fraction]) -> None:
    clock, own_s = StreamClock(), first_s
    assert clock.time_s(own_s, 5) == 0
    for step_s in steps_s:
        own_s += step_s
        assert clock.time_s(own_s, 5) == own_s - first_s


def test_another_connection_may_have_any_clock() -> None:
    clock = StreamClock()
    clock.time_s(Fraction(50), 0)
    clock.forget_source()
    assert clock.time_s(Fraction(55), 2_000_000_000) == 2  # five seconds later by a clock that means nothing here
    assert clock.time_s(Fraction(56), 3_500_000_000) == 3


def test_a_clock_that_leaps_is_replaced_by_the_arrival() -> None:
    clock, second_ns = StreamClock(), 1_000_000_000
    times_s = [
        clock.time_s(Fraction(own_s), arrived_s * second_ns)
        for own_s, arrived_s in ((5, 0), (6, 1), (900, 3), (901, 4))
    ]
    assert times_s == [0, 1, 3, 4]


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("open_timeout_s", 0, "open_timeout_s is 0 s, expected a number of seconds above 0"),
        ("read_timeout_s", float("nan"), "read_timeout_s is nan s"),
        ("give_up_after_s", -1, "give_up_after_s is -1 s"),
        ("rtsp_transport", "http", "rtsp_transport is 'http', expected tcp or udp"),
    ],
)
def test_a_senseless_option_is_refused(field: str, value: object, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        LiveOptions(**{field: value})  # type: ignore[arg-type]
