"""Measured load on one node: what becomes of the frames when cameras offer more and more of them.

The node is the real one: the queues, threads and worker of `nerve_stream` (policy "newest"), or the same worker behind a
queue with a bound (policy "fifo").
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from nerve_bench.capacity.alone import (
    network_record,
    percentiles_ms,
    saturated_record,
    service_records,
    state_record,
)
from nerve_bench.capacity.cameras import Camera, Pictures, cameras_of
from nerve_bench.capacity.worker import NS_PER_MS, NS_PER_S, TimedWorker
from nerve_runtime import Frame, FrameResult, Segmenter
from nerve_runtime.errors import UsageError
from nerve_runtime.temporal import Temporal
from nerve_stream.pipeline import StreamJob, StreamOptions, run_streams
from nerve_stream.pipeline.worker import VideoSegmenter

POLICIES = ("newest", "fifo")
WARM_UP_KEYFRAMES = 2
"""Frames due within so many keyframe periods after the start are not counted: cameras begin one after another."""
HEAD_START_S = 0.3
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What is measured.

    Attributes:
        loads: offered frames a second over the capacity of the node.
        fps: frames a second that a camera gives, about: their number is whole, so the rate is fitted to the load.
        seconds: of each load and policy, without warm-up.
        service_frames: frames whose service time is measured alone.
        policies: some of `POLICIES`.
        bound: frames that may wait under policy fifo.
        jitter: as in `camera_frames`.
        seed: of arrivals.
        temporal: says when keyframes are due.

    Raises:
        UsageError: a policy is unknown, or a load is not above 0.
    """

    loads: tuple[float, ...]
    fps: float = 10.0
    seconds: float = 60.0
    service_frames: int = 800
    policies: tuple[str, ...] = POLICIES
    bound: int = 8
    jitter: float = 0.2
    seed: int = 0
    temporal: Temporal = field(default_factory=Temporal)

    def __post_init__(self) -> None:
        unknown = [policy for policy in self.policies if policy not in POLICIES]
        if unknown or not self.policies:
            raise UsageError(f"policies are {', '.join(self.policies) or 'none'}, expected of: {', '.join(POLICIES)}")
        if not self.loads or min(self.loads) <= 0:
            raise UsageError(f"loads are {', '.join(map(str, self.loads)) or 'none'}, expected one or more above 0")


@dataclass(frozen=True, slots=True)
class _DoneFrame:
    """When a frame was due and when its result was there, in nanoseconds."""

    due_ns: int
    done_ns: int


def measure_load(
    segmenter: Segmenter, clips: Sequence[Pictures], plan: LoadPlan, progress: Callable[..., Any]
) -> Iterator[dict[str, Any]]:
    """Yield records of what frames take alone, then one of each load and policy.

    Args:
        segmenter: opened with `plan.temporal`.
        clips: what the cameras see.
        plan: what is measured.
        progress: wraps the loads in a progress bar.

    Raises:
        NerveError: a frame failed.
    """
    yield state_record(segmenter, clips[0])
    yield network_record(segmenter)
    services = service_records(segmenter, clips, plan.service_frames, plan.temporal)
    yield from services
    capacity_fps = services[-1]["capacity_fps"]
    for overlap in (False, True):
        yield saturated_record(segmenter, clips, plan.service_frames, capacity_fps, overlap=overlap)
    for load, policy in progress(
        [(load, policy) for load in plan.loads for policy in plan.policies], "measuring loads"
    ):
        yield load_record(segmenter, clips, plan, capacity_fps, load, policy)


def load_record(
    segmenter: VideoSegmenter, clips: Sequence[Pictures], plan: LoadPlan, capacity_fps: float, load: float, policy: str
) -> dict[str, Any]:
    """What became of the frames at one load; open loop: cameras never wait, and time counts from when a frame is due."""
    count = max(1, round(load * capacity_fps / plan.fps))
    fps = round(load * capacity_fps / count, 4)
    every = plan.temporal.keyframe_every
    warm_s = round(WARM_UP_KEYFRAMES * every / fps, 4)
    seed = plan.seed + round(100 * load)
    cameras = cameras_of(count, clips, fps, warm_s + plan.seconds, jitter=plan.jitter, late_frames=every, seed=seed)
    start_ns = time.monotonic_ns() + round(HEAD_START_S * NS_PER_S)
    with TimedWorker(segmenter) as worker:
        if policy == "newest":
            done = _newest_run(worker, cameras, start_ns)
        else:
            done = _fifo_run(worker, cameras, start_ns, plan.bound)
    from_ns = start_ns + round(warm_s * NS_PER_S)
    offered = sum(int((camera.due_s >= warm_s).sum()) for camera in cameras)
    own = [frame for frame in done if frame.due_ns >= from_ns]
    latencies_ms = [(frame.done_ns - frame.due_ns) / NS_PER_MS for frame in own]
    served = [frame for frame in worker.served if frame.ended_ns >= from_ns]
    to_ns = from_ns + round(plan.seconds * NS_PER_S)
    busy_ns = sum(max(0, min(frame.ended_ns, to_ns) - max(frame.began_ns, from_ns)) for frame in served)
    return {
        "bench": "load",
        "policy": policy,
        "load": load,
        "cameras": count,
        "fps": fps,
        "capacity_fps": capacity_fps,
        "offered_fps": round(offered / plan.seconds, 2),
        "done_fps": round(len(own) / plan.seconds, 2),
        "mean_ms": round(sum(latencies_ms) / len(own), 3),
        **percentiles_ms(latencies_ms),
        "dropped_percent": round(100 * (1 - len(own) / offered), 2),
        "busy_percent": round(100 * busy_ns / (to_ns - from_ns), 1),
        "service_ms": round(sum(frame.service_ms for frame in served) / len(served), 3),
        "keyframe_percent": round(100 * sum(frame.keyframe for frame in served) / len(served), 1),
        "seconds": plan.seconds,
        "warm_s": warm_s,
        "jitter": plan.jitter,
        "late_frames": every,
        "seed": seed,
        "bound": plan.bound if policy == "fifo" else None,
        "n": len(own),
    }


def _newest_run(worker: TimedWorker, cameras: Sequence[Camera], start_ns: int) -> list[_DoneFrame]:
    """Through `run_streams` as `nerve-segment --realtime` calls it."""
    done: list[_DoneFrame] = []

    def write(frame: Frame, result: FrameResult) -> None:
        done.append(_DoneFrame(frame.arrived_ns, time.monotonic_ns()))

    jobs = [StreamJob(camera.name, camera.frames(start_ns), write) for camera in cameras]
    for report in run_streams(jobs, worker, StreamOptions(realtime=True), stop=threading.Event()):
        if report.error is not None:
            raise report.error
    return done


def _fifo_run(worker: TimedWorker, cameras: Sequence[Camera], start_ns: int, bound: int) -> list[_DoneFrame]:
    """First in, first out; a frame that finds `bound` others waiting is rejected."""
    waiting: queue.Queue[tuple[str, Frame]] = queue.Queue(bound)
    done: list[_DoneFrame] = []

    def read(camera: Camera) -> None:
        for frame in camera.frames(start_ns):
            # One that is rejected was offered and is never done: that is how it is counted.
            with contextlib.suppress(queue.Full):
                waiting.put_nowait((camera.name, frame))

    readers = [threading.Thread(target=read, args=(camera,), name=camera.name, daemon=True) for camera in cameras]
    for reader in readers:
        reader.start()
    while any(reader.is_alive() for reader in readers) or not waiting.empty():
        try:
            name, frame = waiting.get(timeout=POLL_S)
        except queue.Empty:
            continue
        worker.segment(name, frame)
        done.append(_DoneFrame(frame.arrived_ns, time.monotonic_ns()))
    return done
