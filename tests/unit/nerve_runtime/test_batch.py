"""Unrelated frames in one run: each is segmented by itself, and none touches another or the segmenter's video."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from nerve_runtime import EVERY_FRAME, Frame, FrameResult, ResourceError, Segmenter, Temporal, UsageError
from nerve_runtime.backends.base import DeviceTensor, item_of
from nerve_runtime.backends.fake import FakeBackend, Faults
from nerve_runtime.bundle.manifest import load_manifest
from nerve_runtime.frames import UInt8Array
from tests.data.fake_bundle import make_fake_bundle

CLASSES = "red; green; blue; sky"
SIZES_HW = ((32, 48), (40, 30), (7, 90), (64, 64), (33, 47), (32, 48), (20, 20))
Opened = Callable[..., tuple[Segmenter, FakeBackend]]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """Opens a segmenter on a fake bundle that takes so many frames in a run."""

    def open_segmenter(
        max_batch: int, faults: Faults | None = None, temporal: Temporal = EVERY_FRAME
    ) -> tuple[Segmenter, FakeBackend]:
        bundle = make_fake_bundle(tmp_path / f"bundle{max_batch}", max_batch=max_batch)
        backend = FakeBackend(load_manifest(bundle), faults)
        return Segmenter.open(bundle, CLASSES, backend=backend, cache_dir=None, temporal=temporal), backend

    return open_segmenter


def pictures(count: int = len(SIZES_HW)) -> list[UInt8Array]:
    random = np.random.default_rng(4)
    return [
        np.kron(
            random.integers(0, 256, (2, 2, 3), dtype=np.uint8), np.ones((-(-height // 2), -(-width // 2), 1), np.uint8)
        )[:height, :width]
        for height, width in SIZES_HW[:count]
    ]


def assert_same(found: list[FrameResult], expected: list[FrameResult]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.confidence, other.confidence)
        assert (one.valid, one.class_names) == (other.valid, other.class_names)


@pytest.mark.parametrize("max_batch", [1, 2, 3, 7, 32])
def test_frames_of_any_sizes_come_out_as_each_does_alone(max_batch: int, opened: Opened) -> None:
    segmenter, backend = opened(max_batch)
    with segmenter:
        together = segmenter.segment_batch(pictures())
        runs = dict(backend.runs)
        alone = [segmenter.segment(picture) for picture in pictures()]
    assert_same(together, alone)
    assert len({result.labels.tobytes() for result in together}) == len(together)
    assert [result.index for result in together] == list(range(len(SIZES_HW)))
    assert runs["scores"] == runs["attention"] == -(-len(SIZES_HW) // max_batch)
    assert runs["mix"] == runs["walk"] == runs["readout"] == len(SIZES_HW)


def test_a_bundle_for_several_frames_labels_a_video_as_a_bundle_for_one(opened: Opened) -> None:
    results = []
    for max_batch in (1, 4):
        segmenter, _ = opened(max_batch, temporal=Temporal(keyframe_every=3))
        with segmenter:
            results.append([segmenter.segment(picture) for picture in [*pictures(3), *pictures(5)]])
    assert_same(*results)


def test_numbers_and_times_of_frames_are_kept(opened: Opened) -> None:
    segmenter, _ = opened(2)
    frames = [Frame(picture, 40 + 7 * place, Fraction(place, 25)) for place, picture in enumerate(pictures(3))]
    with segmenter:
        results = segmenter.segment_batch(frames)
    assert [(result.index, result.time_s) for result in results] == [(frame.index, frame.time_s) for frame in frames]
    assert all(result.keyframe and result.affinity_age == 0 for result in results)


def test_bgr_pixels_come_out_as_their_rgb(opened: Opened) -> None:
    segmenter, _ = opened(4)
    with segmenter:
        rgb = segmenter.segment_batch(pictures(3))
        assert_same(segmenter.segment_batch([picture[..., ::-1] for picture in pictures(3)], bgr=True), rgb)


def test_no_frames_are_no_results(opened: Opened) -> None:
    segmenter, backend = opened(4)
    with segmenter:
        assert segmenter.segment_batch([]) == []
    assert backend.runs.get("scores") is None


@pytest.mark.parametrize("max_batch", [1, 4])
def test_a_frame_that_comes_out_not_finite_touches_no_other(max_batch: int, opened: Opened) -> None:
    expected = opened(2)[0].segment_batch(pictures(6))
    segmenter, _ = opened(max_batch, Faults(nan_scores_at=frozenset({1, 4})))
    with segmenter:
        results = segmenter.segment_batch(pictures(6))
        assert segmenter.invalid_frames == 2
        assert segmenter.ready
    assert [result.valid for result in results] == [True, False, True, True, False, True]
    sound = [place for place, result in enumerate(results) if result.valid]
    assert_same([results[place] for place in sound], [expected[place] for place in sound])
    assert (results[1].labels == results[1].ignore_label).all()
    assert not results[1].confidence.any()


def test_the_video_of_the_segmenter_stays_as_it_is(opened: Opened) -> None:
    temporal, sequence = Temporal(keyframe_every=4, change=0, cut=0), [pictures(1)[0] for _ in range(6)]
    segmenter, _ = opened(3, temporal=temporal)
    with segmenter:
        undisturbed = [segmenter.segment(picture) for picture in sequence]
        segmenter.reset()
        found = []
        for picture in sequence:
            found.append(segmenter.segment(picture))
            segmenter.segment_batch(pictures(4))
    assert_same(found, undisturbed)
    assert [result.affinity_age for result in found] == [result.affinity_age for result in undisturbed]
    assert max(result.affinity_age for result in found) > 0


def test_new_classes_hold_for_the_next_frames(opened: Opened) -> None:
    segmenter, _ = opened(4)
    with segmenter:
        segmenter.segment_batch(pictures(4))
        segmenter.set_classes("grass; road")
        together = segmenter.segment_batch(pictures(4))
        assert_same(together, [segmenter.segment(picture) for picture in pictures(4)])
    assert together[0].class_names == ("grass", "road")


def test_the_time_of_a_shared_run_is_split_among_its_frames(opened: Opened) -> None:
    segmenter, _ = opened(4, Faults(seconds_per_run=0.02))
    with segmenter:
        results = segmenter.segment_batch(pictures(4))
    shared = [result.timings_ms["attention"] for result in results]
    assert len(set(shared)) == 1
    assert 4 * shared[0] >= 20
    assert all(result.timings_ms["mix"] >= 20 for result in results)
    assert all(result.timings_ms["total"] >= 4 * 20 / 4 for result in results)


def test_memory_that_ran_out_names_the_frames(opened: Opened) -> None:
    segmenter, _ = opened(3, Faults(errors_at={("attention", 1): MemoryError()}))
    with segmenter, pytest.raises(ResourceError, match="frames 3 to 5 of 7 ran out of memory together"):
        segmenter.segment_batch(pictures())


def test_a_frame_that_is_none_is_named_before_anything_runs(opened: Opened) -> None:
    segmenter, backend = opened(4)
    with segmenter, pytest.raises(UsageError, match=r"frame 2 is float64 \(4, 4, 3\)"):
        segmenter.segment_batch([*pictures(2), np.zeros((4, 4, 3))])  # type: ignore[list-item]  # what is tested
    assert backend.runs.get("attention") is None
    with pytest.raises(UsageError, match="this segmenter was closed"):
        segmenter.segment_batch(pictures(1))


def test_a_device_tensor_without_items_says_what_to_do() -> None:
    tensor = DeviceTensor(np.dtype(np.float32), (2, 3))
    with pytest.raises(UsageError, match=r"DeviceTensor has no method item, .* --max-batch 1"):
        item_of(tensor, 0)
