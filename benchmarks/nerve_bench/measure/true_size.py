"""One frame at any size: the bundle beside the eager reference, in time and at every tap, in one run.

Reference and bundle take 5 GB each at true size, so each works in a process of its own, one after the other; both get
the same frame and the machine for themselves.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nerve_bench.measure.accuracy import World
from nerve_bench.measure.latency import BundleStages, ReferenceStages, Timings, machine_facts
from nerve_export.isolation import run_isolated
from nerve_export.parity.compare import compare_bundle
from nerve_export.parity.frames import parity_frames
from nerve_export.parity.reference import open_reference, reference_taps
from nerve_export.presets.files import bundle_preset
from nerve_ref.templates import TEMPLATE_SETS
from nerve_ref.text import parse_classes, text_bank
from nerve_ref.weights.files import WeightChoice
from nerve_runtime.bundle.manifest import load_manifest

STAGES = ("frame", "scores", "attention", "mix", "walk", "readout")
ONE_TEMPLATE = "single"
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Effort:
    """How many frames are timed after one of warm-up, and on how many threads; 0 lets the libraries choose."""

    frames: int
    threads: int


def measure_true_size(
    bundle: Path, weights: WeightChoice, effort: Effort, progress: Progress
) -> Iterator[dict[str, Any]]:
    """Time the eager reference and the bundle on one frame, then compare them at every tap.

    Yields:
        A header; per runner and stage the median, with the ratio to eager; per tap its cosine and differences.
    """
    manifest = load_manifest(bundle)
    yield {
        **machine_facts(),
        "bundle": bundle.name,
        "preset": manifest.preset,
        "precision": manifest.precision,
        "opset": manifest.opset,
        "random_weights": manifest.random_weights,
        "working_hw": manifest.geometry.working_hw,
        "classes": len(parse_classes(bundle_preset(bundle, manifest.preset).parity_classes).names),
        "gmac": manifest.stages["frame"].gmac,
        "warm_up": 1,
        "frames": effort.frames,
        "threads": effort.threads or torch.get_num_threads(),
    }
    with tempfile.TemporaryDirectory(prefix="nerve-taps-") as taps:
        progress("timing the eager reference")
        eager = run_isolated("timing the reference", time_reference, bundle, weights, effort)
        progress("timing the bundle")
        found = run_isolated("timing the bundle", time_bundle, bundle, effort)
        for runner, timings in (("reference_eager", eager), ("bundle_ort", found)):
            yield from (_record(runner, stage, timings[stage], eager[stage]) for stage in STAGES)
        progress("running the reference for its taps")
        run_isolated("running the reference", write_taps, bundle, weights, Path(taps))
        progress("comparing at every tap")
        report = run_isolated("comparing", compare_bundle, bundle, manifest, Path(taps))
    for tap in report.in_method_order():
        yield {"bench": "parity", **tap.as_json()}


def _record(runner: str, stage: str, measured_ms: list[float], eager_ms: list[float]) -> dict[str, Any]:
    median = float(np.median(measured_ms))
    return {
        "bench": "true_size",
        "runner": runner,
        "stage": stage,
        "p50_ms": round(median, 1),
        "least_ms": round(min(measured_ms), 1),
        "ratio_to_eager": round(float(np.median(eager_ms)) / median, 2),
        "n": len(measured_ms),
    }


def time_reference(bundle: Path, weights: WeightChoice, effort: Effort) -> Timings:
    """Milliseconds of each stage of the eager reference, the frame of warm-up left out."""
    if effort.threads:
        torch.set_num_threads(effort.threads)
    manifest = load_manifest(bundle)
    preset = bundle_preset(bundle, manifest.preset)
    models, params = open_reference(manifest, preset, weights)
    names = parse_classes(preset.parity_classes)
    # One template: 80 of them would only fill memory with sentences that the timing leaves out.
    bank = text_bank(models.clip, models.tokenizer, names, TEMPLATE_SETS[ONE_TEMPLATE])
    runner = ReferenceStages(World(models, bank, params), compiled=False)
    return _timed(runner, params.size_hw, effort.frames)


def time_bundle(bundle: Path, effort: Effort) -> Timings:
    """Milliseconds of each stage of the bundle through the runtime, the frame of warm-up left out."""
    manifest = load_manifest(bundle)
    classes = bundle_preset(bundle, manifest.preset).parity_classes
    runner = BundleStages(bundle, 1, effort.threads, spinning=True, classes=classes, templates=ONE_TEMPLATE)
    return _timed(runner, manifest.geometry.working_hw, effort.frames)


def _timed(runner: ReferenceStages | BundleStages, size_hw: tuple[int, int], frames: int) -> Timings:
    (picture,) = parity_frames(size_hw, 1)
    runner.frame(picture, keyframe=True)
    runner.timings.clear()
    for _ in range(frames):
        runner.frame(picture, keyframe=True)
    return runner.timings


def write_taps(bundle: Path, weights: WeightChoice, folder: Path) -> None:
    """The reference's taps on one frame."""
    manifest = load_manifest(bundle)
    preset = bundle_preset(bundle, manifest.preset)
    models, params = open_reference(manifest, preset, weights)
    reference_taps(models, params, preset.parity_classes, 1, folder)
