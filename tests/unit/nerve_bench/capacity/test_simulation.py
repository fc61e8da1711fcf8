"""The simulation is held to closed forms; its errors here are a few standard errors of means over independent runs."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from nerve_bench.capacity.arrivals import FloatArray, camera_arrivals
from nerve_bench.capacity.queueing import (
    full_probability,
    mean_wait_s,
    shared_queue_wait_s,
    wait_probability,
    wait_quantile_s,
)
from nerve_bench.capacity.simulation import BoundedFifo, NewestOfEach, SimulatedRun, WaitingFrames, simulate

RUNS, FRAMES, WARM = 20, 20_000, 2_000
SERVICE_S = 0.010
STANDARD_ERRORS = 4
"""A right simulation fails one of these tests once in 16,000 seeds; the seeds are fixed."""

Draw = Callable[[np.random.Generator], FloatArray]


def constant(rng: np.random.Generator) -> FloatArray:
    return np.full(FRAMES, SERVICE_S)


def exponential(rng: np.random.Generator) -> FloatArray:
    return rng.exponential(SERVICE_S, FRAMES)


def two_kinds(rng: np.random.Generator) -> FloatArray:
    """One frame in ten takes 5.5 times what the others take, as keyframes do."""
    return np.where(rng.random(FRAMES) < 0.1, 5.5, 1.0) * SERVICE_S / 1.45


SCV: dict[Draw, float] = {constant: 0.0, exponential: 1.0, two_kinds: (0.1 * 5.5**2 + 0.9) / 1.45**2 - 1}


def poisson_run(load: float, draw: Draw, seed: int, waiting: WaitingFrames | None = None) -> SimulatedRun:
    rng = np.random.default_rng(seed)
    arrival_s = np.cumsum(rng.exponential(SERVICE_S / load, FRAMES))
    services = iter(draw(rng).tolist())
    stream = np.zeros(FRAMES, dtype=np.intp)
    return simulate(
        arrival_s, stream, lambda streams, now_s: next(services), BoundedFifo() if waiting is None else waiting
    )


def mean_and_error(values: list[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))


@pytest.mark.parametrize("load", [0.3, 0.7])
@pytest.mark.parametrize("draw", [constant, exponential, two_kinds], ids=["M/D/1", "M/M/1", "M/G/1"])
def test_mean_waits_are_those_of_pollaczek_and_khinchine(draw: Draw, load: float) -> None:
    waits = [float(poisson_run(load, draw, seed).wait_s[WARM:].mean()) for seed in range(RUNS)]
    mean, error = mean_and_error(waits)
    assert abs(mean - mean_wait_s(load, SERVICE_S, SCV[draw])) < STANDARD_ERRORS * error
    assert error < 0.05 * mean, "the runs are too short to tell anything"


class LastInFirstOut(BoundedFifo):
    """A wrong discipline: its mean wait is right, because the server is as busy; its tail is not."""

    def take(self, most: int) -> list[int]:
        return [self._frames.pop()]


def quantile_of_exponential_service(
    waiting: Callable[[], WaitingFrames], probability: float
) -> tuple[float, float, float]:
    """A quantile of the time in the system at load 0.7, its error, and what M/M/1 says: that time is exponential."""
    runs = [poisson_run(0.7, exponential, seed, waiting()).latency_s[WARM:] for seed in range(RUNS)]
    mean, error = mean_and_error([float(np.quantile(run, probability)) for run in runs])
    return mean, error, -math.log(1 - probability) * SERVICE_S / (1 - 0.7)


@pytest.mark.parametrize("probability", [0.5, 0.9, 0.99])
def test_quantiles_are_those_of_m_m_1(probability: float) -> None:
    found, error, expected = quantile_of_exponential_service(BoundedFifo, probability)
    assert abs(found - expected) < STANDARD_ERRORS * error


def test_a_wrong_discipline_is_caught_by_its_median() -> None:
    found, error, expected = quantile_of_exponential_service(LastInFirstOut, 0.5)
    assert abs(found - expected) > STANDARD_ERRORS * error


def test_a_service_that_is_too_long_by_a_tenth_is_caught() -> None:
    waits = [float(poisson_run(0.77, two_kinds, seed).wait_s[WARM:].mean()) for seed in range(RUNS)]
    mean, error = mean_and_error(waits)
    assert abs(mean - mean_wait_s(0.7, SERVICE_S, SCV[two_kinds])) > STANDARD_ERRORS * error


def frames_in_system(run: SimulatedRun, at_s: FloatArray) -> FloatArray:
    """How many frames are waiting or served at some moments, each counted by itself."""
    return np.array([((run.arrival_s <= moment) & (run.ended_s > moment)).sum() for moment in at_s], dtype=np.float64)


def test_littles_law_holds() -> None:
    run = poisson_run(0.7, two_kinds, seed=5)
    rate = FRAMES / run.arrival_s[-1]
    moments = np.random.default_rng(6).uniform(0, run.arrival_s[-1], 4_000)
    seen, seen_error = mean_and_error(frames_in_system(run, moments).tolist())
    assert abs(seen - rate * float(run.latency_s.mean())) < STANDARD_ERRORS * seen_error


@pytest.mark.parametrize("load", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("waiting", [lambda: BoundedFifo(1), lambda: NewestOfEach(1)], ids=["fifo", "newest"])
def test_drops_are_those_of_a_queue_with_two_places(waiting: Callable[[], WaitingFrames], load: float) -> None:
    shares = [float(poisson_run(load, exponential, seed, waiting()).dropped.mean()) for seed in range(RUNS)]
    mean, error = mean_and_error(shares)
    assert abs(mean - full_probability(load, 2)) < STANDARD_ERRORS * error


@pytest.mark.parametrize("until_s", [0.0, 0.37, 3.0, math.inf])
@pytest.mark.parametrize("waiting", [lambda: BoundedFifo(3), lambda: NewestOfEach(5)], ids=["fifo", "newest"])
def test_every_frame_is_done_dropped_or_in_flight(waiting: Callable[[], WaitingFrames], until_s: float) -> None:
    arrival_s, camera = camera_arrivals(5, 30.0, 5.0, jitter=0.5, seed=3)
    run = simulate(arrival_s, camera, lambda streams, now_s: SERVICE_S, waiting(), until_s=until_s)
    assert run.conserved
    assert run.frames_in == int((arrival_s <= until_s).sum())
    assert run.busy_s <= run.seconds + SERVICE_S
    if math.isinf(until_s):
        assert run.in_flight == 0
        assert run.done + int(run.dropped.sum()) == len(arrival_s)


def test_the_newest_frame_of_a_stream_wins_and_streams_take_turns() -> None:
    waiting = NewestOfEach(3)
    assert [waiting.push(frame, stream) for frame, stream in ((0, 2), (1, 0), (2, 2), (3, 1))] == [None, None, 0, None]
    assert len(waiting) == 3
    assert waiting.take(2) == [1, 3]
    assert waiting.push(4, 0) is None
    assert waiting.take(5) == [2, 4]
    assert len(waiting) == 0


def test_a_batch_takes_what_waits_and_no_more() -> None:
    sizes: list[int] = []

    def batch_seconds(streams: list[int], now_s: float) -> float:
        sizes.append(len(streams))
        return 1.0

    arrival_s = np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    run = simulate(arrival_s, np.arange(5), batch_seconds, BoundedFifo(), batch=3)  # type: ignore[arg-type]
    assert sizes == [1, 3, 1]
    assert run.ended_s.tolist() == [1.0, 2.0, 2.0, 2.0, 3.0]


def test_a_run_is_the_same_again_and_another_seed_is_another_run() -> None:
    times = [camera_arrivals(4, 10.0, 20.0, jitter=0.2, late_frames=10, seed=seed)[0] for seed in (1, 1, 2)]
    assert np.array_equal(times[0], times[1])
    assert not np.array_equal(times[0], times[2])


def test_cameras_give_their_frames_at_their_rate_and_in_order() -> None:
    arrival_s, camera = camera_arrivals(3, 20.0, 60.0, jitter=0.3, seed=8)
    assert np.all(np.diff(arrival_s) >= 0)
    for number in range(3):
        assert abs((camera == number).sum() / 60.0 - 20.0) < 0.1
        assert np.diff(arrival_s[camera == number]).max() < 2.7 / 20.0


def test_the_formulas_agree_where_they_meet() -> None:
    assert mean_wait_s(0.8, 2.0, 1.0) == pytest.approx(8.0)  # M/M/1: rho s / (1 - rho)
    assert shared_queue_wait_s(0.8, 2.0, 0.4, 0.6, servers=1) == pytest.approx(mean_wait_s(0.8, 2.0, 0.4, 0.6))
    assert shared_queue_wait_s(0.8, 2.0, 1.0, servers=400) < 0.01 * mean_wait_s(0.8, 2.0, 1.0)
    assert wait_probability(0.5, 2) == pytest.approx(1 / 3)  # Erlang's C of one erlang at two servers
    assert math.isinf(mean_wait_s(1.0, 2.0, 1.0))
    assert math.isinf(wait_quantile_s(0.99, 1.2, math.inf))
    in_m_m_1 = wait_quantile_s(0.99, 0.8, 8.0)
    assert 0.8 * math.exp(-in_m_m_1 * (1 - 0.8) / 2.0) == pytest.approx(0.01)
    assert full_probability(1.0, 3) == pytest.approx(full_probability(1.000001, 3), rel=1e-4)


def test_work_after_the_end_of_a_run_is_not_counted() -> None:
    run = simulate(np.array([1.0]), np.zeros(1, dtype=np.intp), lambda *_: 10.0, BoundedFifo(), until_s=4.0)
    assert (run.busy_s, run.done, run.in_flight) == (3.0, 0, 1)
