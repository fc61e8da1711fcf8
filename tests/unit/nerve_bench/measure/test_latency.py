"""What is timed is the method itself, on equal work, against the eager reference."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nerve_bench.measure.accuracy import World
from nerve_bench.measure.latency import STAGES, BundleStages, LatencyPlan, ReferenceStages, measure_latency
from nerve_bench.world import SEEDS, moving_scene
from nerve_ref.pipeline import segment
from nerve_ref.video import VideoReference
from nerve_runtime import Segmenter
from nerve_runtime.errors import CompatibilityError
from tests.contracts.checkout import ROOT, rooms_environment, run
from tests.unit.nerve_bench.conftest import quietly

COMPARE_COMPILED = """
from nerve_bench.measure.accuracy import World
from nerve_bench.measure.latency import ReferenceStages
from nerve_bench.world import SEEDS, moving_scene
from nerve_export.presets.files import presets
from nerve_ref.weights.networks import tiny_models
world = World.open(tiny_models(), presets()["tiny"].params)
eager, compiled = ReferenceStages(world, compiled=False), ReferenceStages(world, compiled=True)
differences = []
for index, frame in enumerate(moving_scene(SEEDS["clips"][0], 2, size_px=128, cuts=0)):
    for stages in (eager, compiled):
        stages.frame(frame.rgb, keyframe=index == 0)
    differences.append((eager.kept[2] - compiled.kept[2]).abs().max().item())
print(max(differences))
"""
Frames = list[NDArray[np.uint8]]


@pytest.fixture(scope="module")
def frames() -> Frames:
    return [frame.rgb for frame in moving_scene(SEEDS["clips"][0], 4, size_px=128, cuts=0)]


def walked(stages: ReferenceStages) -> torch.Tensor:
    assert stages.kept is not None
    return stages.kept[2]


def test_the_stages_of_the_reference_give_what_the_reference_gives(world: World, frames: Frames) -> None:
    stages = ReferenceStages(world, compiled=False)
    stages.frame(frames[0], keyframe=True)
    bilinear = replace(world.params, readout="bilinear")  # as the stages are read out
    expected = segment(world.models, torch.from_numpy(frames[0]), world.bank, bilinear)
    assert torch.equal(walked(stages), expected.P)
    labels, _ = stages.functions["readout"](walked(stages), expected.grid_hw)
    assert torch.equal(labels, expected.labels)


def test_between_keyframes_they_do_the_work_of_the_references_video(world: World, frames: Frames) -> None:
    stages = ReferenceStages(world, compiled=False)
    video = VideoReference(world.models, world.bank, world.params, keyframe_every=4)
    for index, frame in enumerate(frames):
        stages.frame(frame, keyframe=index == 0)
        assert torch.equal(walked(stages), video.step(torch.from_numpy(frame)).P)
    counts = {stage: len(times) for stage, times in stages.timings.items()}
    assert counts == {"attention": 1, "scores": 4, "mix": 1, "walk": 1, "walk_warm": 3, "readout": 4, "frame": 4}


def test_two_runners_on_one_unet_do_not_disturb_each_other(world: World, frames: Frames) -> None:
    """As eager and compiled reference run side by side."""
    first, second = ReferenceStages(world, compiled=False), ReferenceStages(world, compiled=False)
    for frame in frames[:2]:
        first.frame(frame, keyframe=True)
        second.frame(frame, keyframe=True)
        assert torch.equal(walked(first), walked(second))


@pytest.mark.slow
def test_the_compiled_reference_gives_the_same_scores() -> None:
    """In a process of its own: the shape checks of these tests cannot be compiled."""
    env = rooms_environment(OMP_NUM_THREADS="1")
    ended = run(sys.executable, "-c", COMPARE_COMPILED, cwd=ROOT, env=env)
    assert ended.returncode == 0, ended.stderr
    assert float(ended.stdout) < 1e-3


@pytest.mark.onnx
def test_a_keyframe_where_none_was_expected_is_refused(bundle: Path, frames: Frames) -> None:
    stages = BundleStages(bundle, 2, 1, spinning=False)
    stages.frame(frames[0], keyframe=True)
    with pytest.raises(CompatibilityError, match="frame 1: keyframe is False, expected True"):
        stages.frame(frames[1], keyframe=True)


@pytest.mark.onnx
def test_another_back_end_than_the_one_asked_for_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Segmenter, "backend", property(lambda self: "fake"))
    with pytest.raises(CompatibilityError, match="asked for ort, got fake: refusing to report it"):
        BundleStages(bundle, 2, 1, spinning=False)


@pytest.mark.onnx
def test_every_stage_of_every_runner_is_reported_with_its_ratio_to_eager(
    world: World, bundle: Path, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.compile is left out here: it takes half a minute, and the records are made alike for all runners."""
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    runners = ("reference_eager", "reference_compile", "bundle_ort")
    plan = LatencyPlan(frames=4, warm_up=2, keyframe_every=2, threads=1, spinning=False, runners=runners)
    header, *records = measure_latency(world, bundle, frames, plan, quietly)
    assert header["bench"] == "header"
    assert {"machine", "cores", "torch", "onnxruntime", "precision", "warm_up", "frames"} <= set(header)
    assert {record["runner"] for record in records} == set(runners)
    for every, unused in ((1, {"walk_warm"}), (2, set())):
        for runner in ("reference_eager", "bundle_ort"):
            rows = [r for r in records if r["runner"] == runner and r["keyframe_every"] == every]
            assert {row["stage"] for row in rows} == {"frame", *STAGES} - unused
            counts = {row["stage"]: row["n"] for row in rows}
            assert counts["frame"] == counts["scores"] == plan.frames
            assert counts["attention"] == plan.frames // every
    assert all(row["ratio_to_eager"] == 1.0 for row in records if row["runner"] == "reference_eager")
    assert all(row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"] for row in records)
    # One digit is printed after the point, which is much of the few frames a second of a busy machine.
    assert all(row["fps"] == pytest.approx(1000 / row["typical_ms"], rel=0.02, abs=0.051) for row in records)
    json.dumps([header, *records])


@pytest.mark.onnx
def test_what_crosses_is_the_same_on_the_processor_and_on_the_imitation_of_cuda(
    world: World, bundle: Path, frames: Frames
) -> None:
    """One working frame up, one plane of labels and one of confidence down, one wait: on keyframes and between."""
    wide = [np.ascontiguousarray(np.tile(frame, (1, 2, 1))) for frame in frames]
    runners = ("reference_eager", "bundle_ort", "bundle_fake_cuda")
    plan = LatencyPlan(frames=4, warm_up=2, keyframe_every=2, threads=1, spinning=False, runners=runners)
    header, *records = measure_latency(world, bundle, wide, plan, quietly)
    assert tuple(header["frame_hw"]) == (128, 256)
    lines = [record for record in records if record["stage"] == "frame"]
    size_hw_bytes = 16
    for line in lines:
        crossed = (line["h2d_bytes"], line["d2h_bytes"], line["waits"])
        expected = (128 * 128 * 3 + size_hw_bytes, 2 * 128 * 256 + 1, 1)
        assert crossed == ((0, 0, 0) if line["runner"] == "reference_eager" else expected)
    assert len(lines) == 2 * len(runners)
    assert all("waits" not in record for record in records if record["stage"] != "frame")
