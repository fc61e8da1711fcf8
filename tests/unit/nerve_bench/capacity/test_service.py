import numpy as np
import pytest

from nerve_bench.capacity.service import Cadence, ServiceTimes, StreamService, assumed_service, measured_service
from nerve_runtime.errors import UsageError
from tests.unit.nerve_bench.capacity.records import FOLLOW_MS, KEYFRAME_MS, SERVICES

KEYFRAME_S, FOLLOW_S = 0.050, 0.010


def times(cadence: Cadence, batch_shares: dict[int, float] | None = None) -> ServiceTimes:
    return ServiceTimes(np.array([KEYFRAME_S]), np.array([FOLLOW_S]), cadence, batch_shares=batch_shares or {1: 1.0})


def served(service: StreamService, frames: int, fps: float = 10.0) -> list[float]:
    return [service([0], index / fps) for index in range(frames)]


def test_a_new_stream_begins_with_a_keyframe_and_has_one_every_so_many_frames() -> None:
    service = StreamService(times(Cadence(every=4)), 10.0, [None])
    assert served(service, 9) == [KEYFRAME_S, *[FOLLOW_S] * 3] * 2 + [KEYFRAME_S]


def test_a_stream_goes_on_from_the_age_that_it_has() -> None:
    service = StreamService(times(Cadence(every=4)), 10.0, [2])
    assert served(service, 3) == [FOLLOW_S, KEYFRAME_S, FOLLOW_S]


def test_attention_is_never_older_than_so_many_seconds() -> None:
    service = StreamService(times(Cadence(every=100, longest_s=0.35)), 10.0, [None])
    assert served(service, 5) == [KEYFRAME_S, *[FOLLOW_S] * 3, KEYFRAME_S]


def test_frames_left_out_bring_early_keyframes() -> None:
    service = StreamService(times(Cadence(every=100, longest_s=9.0, early={1: 0.0, 2: 1.0})), 10.0, [None])
    assert [service([0], moment) for moment in (0.0, 0.1, 0.2, 0.4)] == [KEYFRAME_S, FOLLOW_S, FOLLOW_S, KEYFRAME_S]


@pytest.mark.parametrize("early", [0.0, 0.02, 0.3, 1.0])
def test_the_share_of_keyframes_is_that_of_a_long_stream(early: float) -> None:
    cadence = Cadence(every=10, longest_s=9.0, early={1: early})
    service = StreamService(times(cadence), 10.0, [None], seed=3)
    frames = 40_000
    served(service, frames)
    assert service.keyframes / frames == pytest.approx(cadence.keyframe_share, abs=0.01)


def test_moments_are_those_of_the_mixture() -> None:
    mixed = times(Cadence(every=10))
    draws = np.array([KEYFRAME_S, *[FOLLOW_S] * 9])
    assert mixed.mean_s == pytest.approx(draws.mean())
    assert mixed.scv == pytest.approx(draws.var() / draws.mean() ** 2)
    assert mixed.capacity_fps == pytest.approx(1 / draws.mean())


def test_staggered_streams_do_not_keep_in_step() -> None:
    first = [StreamService(times(Cadence(every=10)), 10.0, [None], seed, staggered=True) for seed in range(30)]
    second_keyframes = {served(service, 12).index(KEYFRAME_S, 1) for service in first}
    assert len(second_keyframes) > 5


def test_a_batch_takes_its_share_of_what_its_frames_take_alone() -> None:
    service = StreamService(times(Cadence(every=100), {1: 1.0, 4: 0.4}), 10.0, [5, 5, 5, 5])
    assert service([0, 1, 2, 3], 0.0) == pytest.approx(4 * FOLLOW_S * 0.4)
    assert service([0, 1], 0.1) == pytest.approx(2 * FOLLOW_S * 0.8)
    assert service([0], 0.2) == FOLLOW_S


def test_records_become_service_times() -> None:
    found = measured_service(SERVICES)
    assert (1000 * found.keyframe_s).tolist() == pytest.approx(KEYFRAME_MS)
    assert (1000 * found.follow_s).tolist() == pytest.approx(FOLLOW_MS)
    assert found.cadence == Cadence(10, 2.0, {1: 0.0, 2: 0.05})
    assert found.cadence.early_share(1.5) == pytest.approx(0.025)
    assert not found.assumed


def test_records_of_batches_say_what_a_frame_takes_among_others() -> None:
    batches = [{"bench": "batch", "batch": size, "ratio_to_one": ratio} for size, ratio in ((1, 1.0), (4, 1.6))]
    assert measured_service([*SERVICES, *batches]).batch_shares == {1: 1.0, 4: 1 / 1.6}


def test_records_without_service_times_are_refused() -> None:
    with pytest.raises(UsageError, match="no records of service times; run: nerve-bench load --json"):
        measured_service([{"bench": "latency"}])


def test_assumed_times_say_so() -> None:
    found = assumed_service("follow=2, keyframe=6", Cadence())
    assert found.assumed
    assert found.mean_s == pytest.approx(0.1 * 0.006 + 0.9 * 0.002)


@pytest.mark.parametrize(
    "words", ["keyframe=40", "keyframe=a,follow=5", "keyframe=0,follow=5", "40,5", "keyframe=1,follow=inf"]
)
def test_assumed_times_that_are_none_are_refused(words: str) -> None:
    with pytest.raises(UsageError, match="expected milliseconds of both kinds, such as keyframe=40,follow=5"):
        assumed_service(words, Cadence())


@pytest.mark.parametrize("words", ["keyframe=1e-9,follow=1e-9", "keyframe=5,follow=0.09"])
def test_assumed_times_too_short_to_simulate_are_refused(words: str) -> None:
    with pytest.raises(UsageError, match=r"expected 0\.1 ms or more for each kind"):
        assumed_service(words, Cadence())
