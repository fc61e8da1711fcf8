"""What video costs and what it is worth: ways of going on between keyframes, on moving scenes with the truth of every frame."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerve_bench.experiments.tables import Interval, Tables, central_interval, scene_weights
from nerve_bench.measure.latency import machine_facts
from nerve_bench.measure.video_scores import VideoScore
from nerve_bench.world import CLASS_NAMES, moving_scene
from nerve_bench.world.clips import MovingFrame
from nerve_runtime import Segmenter, Temporal
from nerve_runtime.backends import BackendOptions
from nerve_runtime.temporal import EVERY_FRAME

VARIANTS: dict[str, Temporal] = {
    "cold": EVERY_FRAME,
    "temporal": Temporal(),
    "unsmoothed": Temporal(smoothing=0.0),
    "scores_every_2": Temporal(scores_every=2),
    "shift_only": Temporal(scores_every=1000, smoothing=0.0),
    "warm": Temporal(between="warm", smoothing=0.0, change=0.0),
    "exact": Temporal(between="exact", smoothing=0.0, change=0.0),
    "hold": Temporal(between="hold", smoothing=0.0, change=0.0),
    "every_4": Temporal(keyframe_every=4),
    "every_16": Temporal(keyframe_every=16),
    "cold_smoothed": Temporal(keyframe_every=1),
}
"""Each is one way to spend the frames between keyframes; `temporal` is the default of `nerve-segment` on video.

`warm` is the warm walk with the keyframe's affinity, `exact` the limit of that walk, `hold` the keyframe's labels
(freezing), `shift_only` the keyframe's scores moved along with the picture, without CLIP; `temporal` walks with scores
and affinities that move, and `cold_smoothed` is what smoothing alone adds to every-frame-cold.
"""
GUIDED: dict[str, str] = {"cold_guided": "cold", "temporal_guided": "temporal"}
"""Variants with the guided read-out, and the ones that they are otherwise; these are read out bilinearly."""
NAMES = (*VARIANTS, *GUIDED)
AGES_SHOWN = 16


@dataclass(slots=True)
class _Runner:
    segmenter: Segmenter
    score: VideoScore = field(default_factory=VideoScore)
    clip_ms: list[float] = field(default_factory=list)
    """Mean milliseconds a frame, of each clip."""
    clip_counts: list[NDArray[np.int64]] = field(default_factory=list)
    """Confusion of each clip."""
    clip_changed: list[tuple[int, int]] = field(default_factory=list)
    """Of each clip the resting pixels that changed their label, and all resting pixels."""
    stage_ms: dict[str, float] = field(default_factory=dict)
    keyframes: int = 0

    def play(self, clip: Sequence[MovingFrame]) -> None:
        self.segmenter.reset()
        self.score.begin_clip()
        counts, changed = self.score.table.counts.copy(), replace(self.score.changed)
        spent_ms = 0.0
        for frame in clip:
            result = self.segmenter.segment(frame.rgb)
            self.score.add(frame, result.labels, result.affinity_age)
            self.keyframes += result.keyframe
            spent_ms += result.timings_ms["total"]
            for stage, milliseconds in result.timings_ms.items():
                self.stage_ms[stage] = self.stage_ms.get(stage, 0.0) + milliseconds
        self.clip_ms.append(spent_ms / len(clip))
        self.clip_counts.append(self.score.table.counts - counts)
        self.clip_changed.append((self.score.changed.hits - changed.hits, self.score.changed.of - changed.of))

    def miou_over(self, other: "_Runner") -> tuple[float, Interval]:
        """Points of mIoU less those of another variant on the same clips, with the 95 % interval over drawn clips."""
        tables = Tables({"own": np.array(self.clip_counts), "other": np.array(other.clip_counts)})
        points, interval = tables.difference("own", "other")
        return round(points, 2), interval

    def points_over(self, other: "_Runner") -> dict[str, Any]:
        """Points of mIoU and flicker less those of another variant, with 95 % intervals, as `miou_over`."""
        points, interval = self.miou_over(other)
        own, others = np.array(self.clip_changed), np.array(other.clip_changed)
        draws = scene_weights(len(own))
        return {
            "miou_minus_cold": points,
            "miou_interval": interval,
            "flicker_minus_cold": round(float(_percent(own.sum(0)) - _percent(others.sum(0))), 3),
            "flicker_interval": central_interval(_percent(draws @ own) - _percent(draws @ others)),
        }


def measure_video(
    bundle: Path,
    seeds: Sequence[int],
    frames: int,
    variants: Sequence[str],
    threads: int,
    progress: Callable[..., Any],
) -> Iterator[dict[str, Any]]:
    """Play every clip through every variant, in turn, and yield a header and one record a variant.

    Args:
        bundle: of the tiny preset, whose words are those of the world.
        seeds: one a clip.
        frames: of each clip.
        variants: names of `NAMES`; `cold` is always among them, for it is what the others are compared with, and of a
            guided one the one that is read out bilinearly.
        threads: of ONNX Runtime, 0 lets it choose.
        progress: makes a progress bar of an iterable.
    """
    plain = [GUIDED[name] for name in variants if name in GUIDED]
    names = list(dict.fromkeys(["cold", *plain, *variants]))
    runners: dict[str, _Runner] = {}
    try:
        for name in names:
            runners[name] = _Runner(_opened(bundle, name, threads))
        size_px = runners["cold"].segmenter.manifest.geometry.working_hw[0]
        yield _header(runners["cold"].segmenter, threads)
        _warm_up(runners.values(), size_px)
        for seed in progress(seeds, "playing clips"):
            clip = list(moving_scene(seed, frames, size_px=size_px))
            for runner in runners.values():
                runner.play(clip)
        for name, runner in runners.items():
            record = _record(name, runner, runners["cold"], len(seeds), frames)
            if name in GUIDED:
                points, interval = runner.miou_over(runners[GUIDED[name]])
                record |= {"miou_minus_bilinear": points, "miou_minus_bilinear_interval": interval}
            yield record
    finally:
        for runner in runners.values():
            runner.segmenter.close()


def _percent(pairs: NDArray[Any]) -> NDArray[np.float64]:
    """Per cent of pairs (..., 2), hits and of how many."""
    return np.asarray(100 * pairs[..., 0] / pairs[..., 1], np.float64)


def _opened(bundle: Path, name: str, threads: int) -> Segmenter:
    return Segmenter.open(
        bundle,
        list(CLASS_NAMES),
        backend="ort",
        backend_options=BackendOptions(threads=threads),
        temporal=VARIANTS[GUIDED.get(name, name)],
        readout="guided" if name in GUIDED else "bilinear",
    )


def _warm_up(runners: Any, size_px: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size_px, size_px, 3), dtype=np.uint8)
    for runner in runners:
        for _ in range(3):
            runner.segmenter.segment(noise)


def _header(segmenter: Segmenter, threads: int) -> dict[str, Any]:
    facts = {**machine_facts(), "backend": segmenter.backend, "threads": threads or "chosen by the library"}
    return {**facts, "precision": segmenter.manifest.precision, "classes": len(CLASS_NAMES)}


def _record(name: str, runner: _Runner, cold: _Runner, clips: int, frames: int) -> dict[str, Any]:
    score = runner.score
    # Of each clip the ratio, then the median: a noisy neighbour disturbs one clip and all variants on it.
    ratios = np.array(runner.clip_ms) / np.array(cold.clip_ms)
    return {
        "bench": "video",
        "variant": name,
        "readout": runner.segmenter.readout,
        "ms_per_frame": round(float(np.median(runner.clip_ms)), 3),
        "ratio_to_cold": round(float(np.median(ratios)), 3),
        "miou": round(score.table.miou(), 2),
        **runner.points_over(cold),
        "pixel_accuracy": round(score.table.pixel_accuracy(), 2),
        "flicker": round(score.changed.percent(), 3),
        "consistency": round(score.consistent.percent(), 2),
        "ghosts": round(score.ghosts.percent(), 2),
        "things_named_percent": round(score.named_percent(), 1),
        "recovery_frames": round(score.recovery_frames(cold.score), 2),
        "keyframe_percent": round(100 * runner.keyframes / (clips * frames), 1),
        "stationary_percent": round(score.stationary_percent(), 1),
        "accuracy_by_age": {
            str(age): round(share.percent(), 2) for age, share in sorted(score.by_age.items()) if age < AGES_SHOWN
        },
        "stage_ms_per_frame": {stage: round(ms / (clips * frames), 3) for stage, ms in runner.stage_ms.items()},
        "clips": clips,
        "frames": frames,
    }
