import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nerve_runtime import Segmenter, Temporal
from nerve_runtime.backends.fake import FakeBackend, Faults
from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.errors import BundleError, ResourceError
from nerve_runtime.frames import Frame
from nerve_runtime.graphs import Graphs
from nerve_runtime.video import Video
from tests.data.clips import halves
from tests.data.fake_bundle import make_fake_bundle

CLASSES = ("red", "grass", "sky")
KEYFRAME = {"attention", "mix", "walk"}


def opened(bundle: Path, **options: Any) -> Segmenter:
    return Segmenter.open(bundle, **{"classes": CLASSES, "backend": "fake", "cache_dir": None, **options})


def noise(seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def frame(index: int, rgb: np.ndarray[Any, np.dtype[np.uint8]] | None = None, time_s: float | None = None) -> Frame:
    return Frame(halves() if rgb is None else rgb, index, Fraction(time_s if time_s is not None else index / 25))


def test_frames_between_keyframes_follow_the_picture(bundle: Path) -> None:
    with opened(bundle, temporal=Temporal(4)) as segmenter:
        results = [segmenter.segment(frame(index)) for index in range(6)]
    assert [result.keyframe for result in results] == [True, False, False, False, True, False]
    assert [result.affinity_age for result in results] == [0, 1, 2, 3, 0, 1]
    assert set(results[0].timings_ms) >= KEYFRAME
    assert not set(results[1].timings_ms) & KEYFRAME
    assert set(results[1].timings_ms) >= {"motion", "local", "scores", "carry", "walk_carried", "readout"}


@pytest.mark.parametrize(("between", "stages"), [("warm", {"walk_warm"}), ("exact", {"walk_exact"}), ("hold", set())])
def test_each_way_between_keyframes_runs_its_own_stages(bundle: Path, between: Any, stages: set[str]) -> None:
    with opened(bundle, temporal=Temporal(4, between=between, smoothing=0, change=0, cut=0)) as segmenter:
        segmenter.segment(frame(0))
        ran = set(segmenter.segment(frame(1)).timings_ms)
    assert ran - {"resize", "scores", "readout", "total"} == stages


def test_held_labels_stay_those_of_the_keyframe(bundle: Path) -> None:
    with opened(bundle, temporal=Temporal(4, between="hold", change=0, cut=0)) as segmenter:
        first, second = segmenter.segment(frame(0)), segmenter.segment(frame(1, noise(0)))
    np.testing.assert_array_equal(first.labels, second.labels)


def test_a_cut_forgets_and_a_changed_picture_is_a_keyframe(bundle: Path) -> None:
    with opened(bundle, temporal=Temporal(100)) as segmenter, opened(bundle) as alone:
        segmenter.segment(frame(0, noise(0)))
        assert not segmenter.segment(frame(1, noise(0))).keyframe
        after_cut = segmenter.segment(frame(2, noise(1)))
        expected = alone.segment(noise(1))
    assert after_cut.keyframe
    np.testing.assert_array_equal(after_cut.labels, expected.labels)  # smoothing would have kept something
    assert "carry" not in after_cut.timings_ms


def test_attention_is_renewed_after_so_many_seconds_too(bundle: Path) -> None:
    with opened(bundle, temporal=Temporal(100, longest_s=1.0)) as segmenter:
        ages = [segmenter.segment(frame(index, time_s=0.4 * index)).affinity_age for index in range(6)]
    assert ages == [0, 1, 2, 0, 1, 2]


def test_scores_are_carried_where_clip_does_not_run(bundle: Path) -> None:
    with opened(bundle, temporal=Temporal(8, scores_every=3)) as segmenter:
        ran = ["scores" in segmenter.segment(frame(index)).timings_ms for index in range(9)]
    assert ran == [True, False, False, True, False, False, True, False, True]


def seed_scores(video: Video) -> NDArray[np.float32]:
    """G of the latest frame; the numpy stand-in keeps arrays."""
    assert video._state is not None
    return np.array(video._state.seed_scores)


def test_smoothing_keeps_a_share_of_the_scores_before(bundle: Path) -> None:
    """One token at rest: after a sudden change of the scores it moves by the share that is not kept."""
    with opened(bundle, temporal=Temporal(8, smoothing=0.75, change=0, cut=0)) as segmenter:
        video = segmenter.new_video()
        video.segment(frame(0))
        before = seed_scores(video)
        video.segment(frame(1, halves()[::-1].copy()))
        encoded = video.encode(frame(2))
        assert encoded.motion is not None
        kept = seed_scores(video)
        video.decode(encoded)
        fresh = before  # the fake back end gives the same scores for the same picture
        weights, tokens = (np.asarray(encoded.motion[f"previous_{name}"]) for name in ("weights", "tokens"))
        carried = (kept[:, tokens] * (0.75 * weights)).sum(1)
        expected = (1 - 0.75 * weights.sum(0)) * fresh + carried
        np.testing.assert_allclose(seed_scores(video), expected, atol=1e-6)


def test_other_classes_between_keyframes_need_no_new_attention(bundle: Path) -> None:
    with opened(bundle, temporal=Temporal(8)) as segmenter:
        segmenter.segment(frame(0))
        segmenter.set_classes(["zebra", "road"])
        result = segmenter.segment(frame(1))
    assert result.class_names == ("zebra", "road")
    assert not result.keyframe
    assert "mix" in result.timings_ms
    assert "attention" not in result.timings_ms


def test_videos_of_one_segmenter_do_not_mix(bundle: Path) -> None:
    with opened(bundle, temporal=Temporal(4)) as segmenter, opened(bundle, temporal=Temporal(4)) as alone:
        one, two = segmenter.new_video(), segmenter.new_video()
        found, expected = [], []
        for index in range(6):
            found.append(one.segment(frame(index, np.roll(halves(), index, axis=1))))
            two.segment(frame(index, noise(index)))
            expected.append(alone.segment(frame(index, np.roll(halves(), index, axis=1))))
    for own, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(own.labels, other.labels)
        assert own.keyframe == other.keyframe


def test_encoding_ahead_gives_what_one_after_the_other_gives(bundle: Path) -> None:
    """All frames are encoded before any is decoded: no state of one half leaks into the other."""
    frames = [frame(index, np.roll(halves(), 2 * index, axis=1)) for index in range(9)]
    with opened(bundle, temporal=Temporal(4)) as segmenter:
        in_turn = [segmenter.segment(one) for one in frames]
        video = segmenter.new_video()
        ahead = [video.decode(encoded) for encoded in [video.encode(one) for one in frames]]
    for first, second in zip(in_turn, ahead, strict=True):
        np.testing.assert_array_equal(first.labels, second.labels)
        assert (first.keyframe, first.affinity_age) == (second.keyframe, second.affinity_age)


def test_a_frame_whose_keyframe_was_lost_is_decoded_all_the_same(bundle: Path, manifest: Manifest) -> None:
    """Frame 1 was encoded before decoding frame 0 failed: it has no keyframe to go on from."""
    backend = FakeBackend(manifest, Faults(errors_at={("walk", 0): MemoryError()}))
    with opened(bundle, backend=backend, temporal=Temporal(8)) as segmenter, opened(bundle) as alone:
        video = segmenter.new_video()
        first, second = video.encode(frame(0)), video.encode(frame(1))
        with pytest.raises(ResourceError, match="frame 0 of 64 x 48 pixels ran out of memory"):
            video.decode(first)
        result = video.decode(second)
        expected = alone.segment(frame(1))
        third = video.segment(frame(2))
    assert result.keyframe
    np.testing.assert_array_equal(result.labels, expected.labels)
    assert third.keyframe


def test_scores_that_are_not_finite_make_the_next_frame_a_keyframe(bundle: Path, manifest: Manifest) -> None:
    backend = FakeBackend(manifest, Faults(nan_scores_at=frozenset({1})))
    with opened(bundle, backend=backend, temporal=Temporal(8)) as segmenter:
        results = [segmenter.segment(frame(index)) for index in range(3)]
    assert [result.valid for result in results] == [True, False, True]
    assert [result.keyframe for result in results] == [True, False, True]


def test_encoding_and_decoding_may_run_in_two_threads(bundle: Path) -> None:
    with opened(bundle, temporal=Temporal(4)) as segmenter:
        video, encoded = segmenter.new_video(), [segmenter.new_video().encode(frame(0))]
        encoded[0] = video.encode(frame(0))
        for index in range(1, 12):
            ahead: list[Any] = []
            other = threading.Thread(target=lambda index=index, ahead=ahead: ahead.append(video.encode(frame(index))))
            other.start()
            result = video.decode(encoded[-1])
            other.join()
            encoded.append(ahead[0])
            assert result.index == index - 1
            assert result.affinity_age == (index - 1) % 4


def test_a_bundle_without_the_graphs_says_what_to_do(bundle: Path, manifest: Manifest) -> None:
    lacking = manifest.model_copy(
        update={"stages": {name: stage for name, stage in manifest.stages.items() if name != "walk_carried"}}
    )
    with pytest.raises(BundleError, match="no graph walk_carried, which between='follow' needs; build it again"):
        Graphs(lacking, FakeBackend(lacking), Temporal(), "bilinear")


def test_a_bundle_that_cannot_compare_colours_carries_the_near_affinity_of_the_keyframe(
    tmp_path: Path, manifest: Manifest
) -> None:
    stages = {name: stage for name, stage in manifest.stages.items() if name != "local"}
    keys = FakeBackend(manifest.model_copy(update={"stages": stages}))
    bundle = make_fake_bundle(tmp_path, stages={name: stage.model_dump(mode="json") for name, stage in stages.items()})
    with opened(bundle, backend=keys, temporal=Temporal(4)) as segmenter:
        results = [segmenter.segment(frame(index)) for index in range(3)]
    assert [result.keyframe for result in results] == [True, False, False]
    assert set(results[1].timings_ms) >= {"local_carried", "walk_carried"}
    neither = manifest.model_copy(update={"stages": {name: stages[name] for name in stages if name != "local_carried"}})
    with pytest.raises(BundleError, match="no graph local or local_carried, which between='follow' needs; build it"):
        Graphs(neither, FakeBackend(neither), Temporal(), "bilinear")


def test_a_bundle_whose_read_out_does_not_say_whether_scores_are_finite_is_refused(manifest: Manifest) -> None:
    readout = manifest.stages["readout"]
    former = readout.model_copy(update={"spec": readout.spec.model_copy(update={"outputs": readout.spec.outputs[:2]})})
    manifest = manifest.model_copy(update={"stages": {**manifest.stages, "readout": former}})
    with pytest.raises(BundleError, match="graph readout has no output 'finite'; build it again with this version"):
        Graphs(manifest, FakeBackend(manifest), Temporal(), "bilinear")
