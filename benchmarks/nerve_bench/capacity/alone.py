"""What a frame takes and a stream holds when nothing else is on the node: the inputs of the simulation."""

import threading
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from importlib.resources import files
from typing import Any

import numpy as np

from nerve_bench.capacity.cameras import Camera, Pictures
from nerve_bench.capacity.service import measured_service
from nerve_bench.capacity.worker import ServedFrame, TimedWorker
from nerve_bench.measure.memory import resident_bytes
from nerve_runtime import Frame, Segmenter
from nerve_runtime.opencv import cv2
from nerve_runtime.temporal import Temporal
from nerve_stream import open_frames
from nerve_stream.pipeline import StreamJob, run_streams

PERCENTILES = (50, 90, 99)
STRIDES = (1, 2, 3, 4)
"""How many frames of a camera lie between two that are taken; 1 loses none."""
STEP_S = Fraction(1, 1000)
"""Between two frames where the count and the motion alone shall make keyframes."""
WARM_UP_SHARE = 0.1
STATE_VIDEOS = 24
NETWORK_FRAMES = 25
SATURATED_STREAMS = 4


def percentiles_ms(values_ms: Sequence[float]) -> dict[str, float]:
    """p50, p90 and p99 as fields of a record, of at least one value."""
    found = np.percentile(values_ms, PERCENTILES)
    return {f"p{share}_ms": round(float(value), 3) for share, value in zip(PERCENTILES, found, strict=True)}


def service_records(
    segmenter: Segmenter, clips: Sequence[Pictures], frames: int, temporal: Temporal
) -> list[dict[str, Any]]:
    """What keyframes and frames between take alone, how often motion makes a keyframe early, and the capacity.

    All clips in turn, as on a node with streams: what one left in the caches is not there for the next.
    """
    records = []
    served: list[ServedFrame] = []
    for stride in STRIDES:
        steps = max(3 * temporal.keyframe_every, frames // len(clips) // (1 if stride == 1 else 4))
        with TimedWorker(segmenter) as worker:
            found = [_in_turn(worker, clips, stride, steps)]
            served = served or worker.served[round(WARM_UP_SHARE * len(worker.served)) :]
        records.append(_cadence_record(found[0], stride, temporal))
    for kind in ("keyframe", "follow"):
        samples_ms = [frame.service_ms for frame in served if frame.keyframe is (kind == "keyframe")]
        own = {
            "bench": "load_service",
            "kind": kind,
            "n": len(samples_ms),
            "mean_ms": round(float(np.mean(samples_ms)), 3),
        }
        records.append({**own, **percentiles_ms(samples_ms), "samples_ms": [round(value, 3) for value in samples_ms]})
    times = measured_service(records)
    share, mean_ms = times.cadence.keyframe_share, 1000 * times.mean_s
    capacity = {"bench": "load_capacity", "keyframe_percent": round(100 * share, 2), "mean_ms": round(mean_ms, 3)}
    return [*records, {**capacity, "scv": round(times.scv, 3), "capacity_fps": round(times.capacity_fps, 2)}]


def _in_turn(worker: TimedWorker, clips: Sequence[Pictures], stride: int, steps: int) -> list[list[bool]]:
    """Which frames of each clip were keyframes, where every so many-th frame of its camera is taken."""
    cameras = [Camera(f"camera {number}", np.zeros(0), clip) for number, clip in enumerate(clips)]
    found: list[list[bool]] = [[] for _ in cameras]
    for step in range(steps):
        for camera, keyframes in zip(cameras, found, strict=True):
            result = worker.segment(camera.name, Frame(camera.picture(step * stride), step, step * STEP_S))
            keyframes.append(result.keyframe)
    return found


def _cadence_record(found: Sequence[Sequence[bool]], stride: int, temporal: Temporal) -> dict[str, Any]:
    """Of the frames that the count would let follow, how many became keyframes."""
    early = at_risk = 0
    for keyframes in found:
        age = 0
        for keyframe in keyframes[1:]:
            age += 1
            if age < temporal.keyframe_every:
                at_risk += 1
                early += keyframe
            age = 0 if keyframe else age
    rules = {"keyframe_every": temporal.keyframe_every, "longest_s": temporal.longest_s}
    return {
        "bench": "load_cadence",
        "stride": stride,
        "early_percent": round(100 * early / at_risk, 3),
        "n": at_risk,
        **rules,
    }


def saturated_record(
    segmenter: Segmenter, clips: Sequence[Pictures], frames: int, capacity_fps: float, *, overlap: bool
) -> dict[str, Any]:
    """Frames a second through all of `run_streams` where a frame always waits and none is dropped."""

    def source(clip: Pictures) -> Iterator[Frame]:
        camera = Camera("", np.zeros(0), clip)
        for index in range(frames // SATURATED_STREAMS):
            yield Frame(camera.picture(index), index, Fraction(index, 10))

    jobs = [
        StreamJob(f"stream {number}", source(clips[number % len(clips)]), lambda frame, result: None)
        for number in range(SATURATED_STREAMS)
    ]
    with TimedWorker(segmenter, overlap=overlap) as worker:
        began_s = time.monotonic()
        reports = run_streams(jobs, worker, stop=threading.Event())
        seconds = time.monotonic() - began_s
    for report in reports:
        if report.error is not None:
            raise report.error
    fps = sum(report.frames for report in reports) / seconds
    return {
        "bench": "load_saturated",
        "overlap": overlap,
        "fps": round(fps, 2),
        "of_capacity_percent": round(100 * fps / capacity_fps, 1),
        "n": sum(report.frames for report in reports),
    }


def state_record(segmenter: Segmenter, clip: Pictures) -> dict[str, Any]:
    """Resident bytes that one more video takes once it has a keyframe, the mean of `STATE_VIDEOS`."""
    segmenter.new_video().segment(clip[0])
    before = resident_bytes()
    videos = [segmenter.new_video() for _ in range(STATE_VIDEOS)]
    for video in videos:
        for picture in clip[:2]:
            video.segment(picture)
    grown = resident_bytes() - before
    return {
        "bench": "load_state",
        "bytes_per_stream": max(0, grown) // len(videos),
        "resident_bytes": before,
        "n": len(videos),
    }


def network_record(segmenter: Segmenter) -> dict[str, Any]:
    """Bytes a frame of the packaged clip: encoded, raw, at the working size; and of its labels, raw and as PNG."""
    clip = files("nerve_stream") / "demo" / "clip.mp4"
    masks = []
    with open_frames(str(clip)) as source:
        video = segmenter.new_video()
        count, fps, size_hw = source.count or 0, source.fps, source.size_hw
        for frame in source:
            if frame.index < NETWORK_FRAMES:
                result = video.segment(frame)
                masks.append(len(cv2.imencode(".png", result.labels)[1]))
            count = max(count, frame.index + 1)
    height, width = size_hw
    working_h, working_w = segmenter.manifest.geometry.working_hw
    return {
        "bench": "load_network",
        "clip_hw": [height, width],
        "clip_fps": float(fps or 0),
        "encoded_bytes": round(len(clip.read_bytes()) / count),
        "raw_bytes": 3 * height * width,
        "working_bytes": 3 * working_h * working_w,
        "labels_bytes": height * width,
        "labels_png_bytes": round(float(np.mean(masks))),
        "n": count,
    }
