"""The measured side: cameras give their frames on time, and every frame is accounted for. Only generous bounds on time."""

import time
from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nerve_bench.capacity import alone
from nerve_bench.capacity.alone import _cadence_record, state_record
from nerve_bench.capacity.arrivals import camera_arrivals
from nerve_bench.capacity.cameras import NS_PER_S, Camera, cameras_of
from nerve_bench.capacity.load import LoadPlan, load_record
from nerve_bench.capacity.worker import TimedWorker
from nerve_runtime.errors import ResourceError, UsageError
from nerve_runtime.temporal import Temporal
from tests.data.stream_doubles import DoubleSegmenter, blank

PICTURES = [np.full((2, 3, 3), level, dtype=np.uint8) for level in range(4)]
SERVICE_S = 0.020
CAPACITY_FPS = 1 / SERVICE_S
PLAN = LoadPlan((0.2,), fps=10.0, seconds=1.5, temporal=Temporal(keyframe_every=3))


def measured(load: float, policy: str, plan: LoadPlan = PLAN) -> dict[str, Any]:
    segmenter = DoubleSegmenter(encode_s=SERVICE_S / 2, decode_s=SERVICE_S / 2)
    return load_record(segmenter, [PICTURES], plan, CAPACITY_FPS, load, policy)


@pytest.mark.parametrize("policy", ["newest", "fifo"])
def test_three_times_too_many_frames_are_offered_all_the_same_and_most_are_dropped(policy: str) -> None:
    record = measured(3.0, policy)
    assert record["cameras"] == 15
    arrival_s, _ = camera_arrivals(
        record["cameras"],
        record["fps"],
        record["warm_s"] + record["seconds"],
        jitter=record["jitter"],
        late_frames=record["late_frames"],
        seed=record["seed"],
    )
    counted = arrival_s >= record["warm_s"]
    assert record["offered_fps"] == pytest.approx(counted.sum() / record["seconds"], abs=0.01)
    assert record["dropped_percent"] == pytest.approx(100 * (1 - record["n"] / counted.sum()), abs=0.01)
    assert record["dropped_percent"] > 50
    assert record["service_ms"] >= 1000 * SERVICE_S
    assert record["p50_ms"] <= record["p90_ms"] <= record["p99_ms"]


@pytest.mark.parametrize("policy", ["newest", "fifo"])
def test_latency_counts_from_when_a_frame_was_due(policy: str) -> None:
    record = measured(0.2, policy)
    assert record["n"] > 5
    assert record["p50_ms"] >= 1000 * SERVICE_S
    assert 0 < record["busy_percent"] <= 100


def test_a_camera_gives_no_frame_before_it_is_due_and_says_when_it_was() -> None:
    camera = Camera("yard", np.array([0.0, 0.02, 0.05]), PICTURES)
    start_ns = time.monotonic_ns()
    for frame, due_s in zip(camera.frames(start_ns), camera.due_s, strict=True):
        assert time.monotonic_ns() >= frame.arrived_ns == start_ns + round(due_s * NS_PER_S)
    assert frame.time_s == Fraction(50, 1000)


def test_pictures_are_played_to_and_fro() -> None:
    camera = Camera("yard", np.zeros(0), PICTURES)
    assert [int(camera.picture(index)[0, 0, 0]) for index in range(9)] == [0, 1, 2, 3, 2, 1, 0, 1, 2]


def test_cameras_follow_the_schedule_that_is_simulated() -> None:
    cameras = cameras_of(3, [PICTURES], 20.0, 4.0, jitter=0.2, late_frames=5, seed=9)
    arrival_s, camera_of = camera_arrivals(3, 20.0, 4.0, jitter=0.2, late_frames=5, seed=9)
    for number, camera in enumerate(cameras):
        assert np.array_equal(camera.due_s, arrival_s[camera_of == number])


def test_a_worker_notes_when_frames_were_with_it_one_at_a_time() -> None:
    with TimedWorker(DoubleSegmenter(encode_s=0.005, decode_s=0.005)) as worker:
        for index in range(4):
            worker.segment("a", blank(index))
        served = worker.served
    assert [frame.keyframe for frame in served] == [True, False, False, False]
    assert all(frame.service_ms >= 10 for frame in served)
    assert all(before.ended_ns <= after.began_ns for before, after in pairwise(served))


def test_a_frame_that_fails_is_raised() -> None:
    with TimedWorker(DoubleSegmenter(fail_at=1)) as worker:
        worker.segment("a", blank(0))
        with pytest.raises(ResourceError):
            worker.segment("a", blank(1))


def test_early_keyframes_are_those_that_the_count_did_not_ask_for() -> None:
    temporal = Temporal(keyframe_every=4)
    regular = [True, False, False, False] * 3
    early = [True, False, True, False, False, False, True, False]
    assert _cadence_record([regular], 1, temporal)["early_percent"] == 0
    assert _cadence_record([early], 2, temporal)["early_percent"] == pytest.approx(100 / 6, abs=0.01)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"loads": (0.5,), "policies": ("lifo",)}, "policies are lifo, expected of: newest, fifo"),
        ({"loads": (0.5, 0.0)}, r"loads are 0\.5, 0\.0, expected one or more above 0"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LoadPlan(**words)


def test_state_is_what_grows_with_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[object] = []

    class Holding(DoubleSegmenter):
        """A video of it holds five bytes, however many frames it has seen."""

        def new_video(self) -> Any:
            held.append(self)
            return SimpleNamespace(segment=lambda pixels: None)

    monkeypatch.setattr(alone, "resident_bytes", lambda: 1000 + 5 * len(held))
    record = state_record(Holding(), PICTURES)  # type: ignore[arg-type]
    assert (record["bytes_per_stream"], record["resident_bytes"], record["n"]) == (5, 1005, alone.STATE_VIDEOS)
