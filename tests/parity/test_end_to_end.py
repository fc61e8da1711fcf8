"""Frames in, labels out: the runtime on the bundle against the reference, pixel by pixel."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nerve_bench.measure.accuracy import World
from nerve_bench.world import CLASS_NAMES, SEEDS, make_scene, moving_scene
from nerve_ref.motion import Motion
from nerve_ref.pipeline import segment
from nerve_ref.templates import TEMPLATE_SETS
from nerve_ref.text import TextBank, parse_classes, text_bank
from nerve_ref.video import VideoReference
from nerve_runtime import Labels, Segmenter
from nerve_runtime.backends import BackendOptions, open_backend
from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.frames import resize_frame
from nerve_runtime.segmenter import Constants
from nerve_runtime.temporal import Temporal

pytestmark = pytest.mark.onnx

LEAST_AGREEMENT = 0.995
CLIP_SEED = SEEDS["clips"][0]
Frames = list[NDArray[np.uint8]]
LabelMaps = Sequence[Labels]


@pytest.fixture(scope="module")
def clip() -> Frames:
    return [frame.rgb for frame in moving_scene(CLIP_SEED, 12, size_px=128, cuts=1)]


def bank_of(world: World, classes: str, background: str = "") -> TextBank:
    templates = TEMPLATE_SETS[world.params.template_set]
    return text_bank(world.models.clip, world.models.tokenizer, parse_classes(classes, background), templates)


def opened(bundle: Path, classes: str | list[str], every: int = 1, **options: Any) -> Segmenter:
    settings: dict[str, Any] = {"backend": "ort", "cache_dir": None, "temporal": Temporal.plain(every)}
    return Segmenter.open(bundle, classes, backend_options=BackendOptions(threads=1), **{**settings, **options})


def agreements(found: LabelMaps, expected: LabelMaps) -> list[float]:
    return [float((one == other).mean()) for one, other in zip(found, expected, strict=True)]


def reference_labels(video: VideoReference, frames: Frames) -> Frames:
    return [video.step(torch.from_numpy(frame)).labels.numpy() for frame in frames]


def test_still_scenes_get_the_references_labels(world: World, bundle: Path) -> None:
    scenes = [make_scene(seed, size_px=128).rgb for seed in SEEDS["test"][:3]]
    expected = [segment(world.models, torch.from_numpy(rgb), world.bank, world.params).labels.numpy() for rgb in scenes]
    with opened(bundle, list(CLASS_NAMES)) as segmenter:
        found = [segmenter.segment(rgb).labels for rgb in scenes]
    assert min(agreements(found, expected)) >= LEAST_AGREEMENT
    assert all(len(np.unique(labels)) > 1 for labels in expected), "or agreement would mean little"


@pytest.mark.parametrize("keyframe_every", [1, 4])
def test_a_clip_gets_the_references_labels_cold_and_warm(
    keyframe_every: int, world: World, bundle: Path, clip: Frames
) -> None:
    expected = reference_labels(VideoReference(world.models, world.bank, world.params, keyframe_every), clip)
    with opened(bundle, list(CLASS_NAMES), keyframe_every) as segmenter:
        results = [segmenter.segment(frame) for frame in clip]
    assert [result.keyframe for result in results] == [index % keyframe_every == 0 for index in range(len(clip))]
    assert min(agreements([result.labels for result in results], expected)) >= LEAST_AGREEMENT


def in_torch(tensor: Any) -> torch.Tensor:
    """What ONNX Runtime holds in host memory."""
    return torch.from_numpy(tensor.host_view)


def test_a_clip_that_is_followed_gets_the_references_labels(world: World, bundle: Path) -> None:
    """The reference gets the motion that the runtime measured; all that follows from it is computed twice."""
    frames = [frame.rgb for frame in moving_scene(CLIP_SEED, 16, size_px=128, cuts=1)]
    temporal = Temporal(keyframe_every=6, smoothing=0.5)
    video = VideoReference(world.models, world.bank, world.params, 100, smoothing=temporal.smoothing)
    found, expected, kinds = [], [], []
    with opened(bundle, list(CLASS_NAMES), temporal=temporal) as segmenter:
        runtime = segmenter.new_video()
        for rgb in frames:
            encoded = runtime.encode(rgb)
            motion = encoded.motion
            measured = None if motion is None else Motion(**{name: in_torch(part) for name, part in motion.items()})
            found.append(runtime.decode(encoded).labels)
            expected.append(
                video.step(torch.from_numpy(rgb), measured, keyframe=encoded.decision != "between").labels.numpy()
            )
            kinds.append(encoded.decision)
    assert min(agreements(found, expected)) >= LEAST_AGREEMENT
    assert [index for index, kind in enumerate(kinds) if kind == "cut"] == [0, 8]
    assert kinds.count("keyframe") == 2
    assert np.mean([(one != found[0]).mean() for one in found[1:8]]) > 0.01, "or standing still would pass"


@pytest.mark.slow
@pytest.mark.parametrize("keyframe_every", [1, 8])
def test_a_hundred_frames_get_the_references_labels(keyframe_every: int, world: World, bundle: Path) -> None:
    frames = [frame.rgb for frame in moving_scene(CLIP_SEED, 100, size_px=128)]
    expected = reference_labels(VideoReference(world.models, world.bank, world.params, keyframe_every), frames)
    with opened(bundle, list(CLASS_NAMES), keyframe_every) as segmenter:
        found = [segmenter.segment(frame).labels for frame in frames]
    assert np.mean(agreements(found, expected)) >= LEAST_AGREEMENT


def test_a_change_of_classes_needs_no_new_attention_and_equals_the_references_change(
    world: World, bundle: Path, clip: Frames
) -> None:
    before, after = "grass; water; ladybug, strawberry", "road; snow; sky; zebra; banana"
    video = VideoReference(world.models, bank_of(world, before), world.params, keyframe_every=12)
    with opened(bundle, before, every=12) as segmenter:
        first = segmenter.segment(clip[0]), video.step(torch.from_numpy(clip[0]))
        segmenter.set_classes(after)
        video.set_bank(bank_of(world, after))
        others = [(segmenter.segment(frame), video.step(torch.from_numpy(frame))) for frame in clip[1:4]]
    pairs = [first, *others]
    assert min(float((mine.labels == theirs.labels.numpy()).mean()) for mine, theirs in pairs) >= LEAST_AGREEMENT
    assert [mine.keyframe for mine, _ in pairs] == [True, False, False, False]
    assert ["attention" in mine.timings_ms for mine, _ in pairs] == [True, False, False, False]
    assert others[0][0].class_names == ("road", "snow", "sky", "zebra", "banana")


def test_a_change_of_classes_equals_a_fresh_start_on_the_next_keyframe(bundle: Path, clip: Frames) -> None:
    with opened(bundle, "grass; water; zebra") as changed, opened(bundle, "road; banana") as fresh:
        changed.segment(clip[0])
        changed.set_classes("road; banana")
        np.testing.assert_array_equal(changed.segment(clip[1]).labels, fresh.segment(clip[1]).labels)


@pytest.mark.parametrize("size_hw", [(90, 151), (128, 128), (300, 200), (37, 33)])
def test_a_frame_of_another_size_is_stretched_and_its_labels_have_its_own_size(
    size_hw: tuple[int, int], world: World, bundle: Path
) -> None:
    scene = make_scene(SEEDS["test"][1], size_px=320).rgb[: size_hw[0], : size_hw[1]]
    working = resize_frame(scene, world.params.size_hw)
    expected = segment(world.models, torch.from_numpy(working), world.bank, world.params, size_hw)
    with opened(bundle, list(CLASS_NAMES)) as segmenter:
        result = segmenter.segment(scene)
    assert result.labels.shape == result.confidence.shape == size_hw
    assert float((result.labels == expected.labels.numpy()).mean()) >= LEAST_AGREEMENT
    levels = np.abs(result.confidence.astype(int) - expected.confidence.numpy())
    assert float((levels <= 1).mean()) >= LEAST_AGREEMENT


@pytest.mark.parametrize("threshold", [None, 0.6])
def test_background_words_and_the_threshold_do_what_they_do_in_the_reference(
    threshold: float | None, world: World, bundle: Path, clip: Frames
) -> None:
    params = world.params if threshold is None else replace(world.params, threshold=threshold)
    bank = bank_of(world, "zebra; broccoli, banana; car", "grass, water, road")
    expected = segment(world.models, torch.from_numpy(clip[0]), bank, params)
    options: dict[str, Any] = {"background": ["grass", "water", "road"], "constants": Constants(threshold=threshold)}
    with opened(bundle, "zebra; broccoli, banana; car", **options) as segmenter:
        result = segmenter.segment(clip[0])
    assert result.class_names == bank.class_names
    assert result.class_names[0] == "background"
    assert float((result.labels == expected.labels.numpy()).mean()) >= LEAST_AGREEMENT


def test_bgr_pixels_are_told_from_rgb(bundle: Path, clip: Frames) -> None:
    with opened(bundle, list(CLASS_NAMES)) as segmenter:
        expected = segmenter.segment(clip[0]).labels
        swapped = np.ascontiguousarray(clip[0][..., ::-1])
        np.testing.assert_array_equal(segmenter.segment(swapped, bgr=True).labels, expected)
        assert (segmenter.segment(swapped).labels != expected).any()


def test_the_single_graph_equals_the_chain_at_working_size(
    world: World, bundle: Path, manifest: Manifest, clip: Frames
) -> None:
    bank = world.bank
    inputs = {
        "frame": clip[0][None],
        "text_embeddings": bank.embeddings.numpy(),
        "class_rows": bank.class_rows.numpy(),
        "class_mask": bank.class_mask.numpy(),
        "threshold": np.zeros((), np.float32),
        **{
            name: np.array(getattr(world.params, name), np.float32)
            for name in ("tau", "alpha", "beta", "head_temperature")
        },
    }
    with open_backend("ort", bundle, manifest, BackendOptions(threads=1)) as backend:
        whole = backend.open_session("frame").run(inputs)
    with opened(bundle, list(CLASS_NAMES)) as segmenter:
        chained = segmenter.segment(clip[0])
    assert float((whole["labels"] == chained.labels).mean()) >= 0.999
    assert np.abs(whole["confidence"].astype(int) - chained.confidence).max() <= 1
