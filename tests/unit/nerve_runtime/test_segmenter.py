import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nerve_runtime import readout
from nerve_runtime import segmenter as segmenter_module
from nerve_runtime.backends.fake import FakeBackend, Faults
from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.errors import BundleError, ResourceError, UsageError
from nerve_runtime.frames import Frame
from nerve_runtime.readout import readout_size_hw
from nerve_runtime.segmenter import Constants, Segmenter
from nerve_runtime.temporal import Temporal
from nerve_runtime.vocabulary.class_list import ClassList
from nerve_runtime.vocabulary.text_bank import build_text_bank, text_sha256
from nerve_runtime.vocabulary.text_encoder import TextEncoder, default_cache_dir
from nerve_stream.sources.opening import open_frames
from nerve_stream.vocabulary_file import save_vocabulary
from tests.data.clips import halves, write_clip
from tests.data.fake_bundle import TEXT_WIDTH

COLD = ["resize", "attention", "scores", "mix", "walk", "readout", "total"]
WARM = ["resize", "scores", "walk_warm", "readout", "total"]
REMIX = ["resize", "scores", "mix", "walk", "readout", "total"]
CLASSES = ("red", "grass", "sky")


def opened(bundle: Path, **options: Any) -> Segmenter:
    return Segmenter.open(bundle, **{"classes": CLASSES, "backend": "fake", "cache_dir": None, **options})


def test_a_frame_gives_labels_in_its_own_size(bundle: Path) -> None:
    with opened(bundle) as segmenter:
        result = segmenter.segment(halves((47, 65)))
    assert result.labels.shape == result.confidence.shape == (47, 65)
    assert result.labels.dtype == result.confidence.dtype == np.uint8
    assert result.labels.max() < 3
    assert result.class_names == CLASSES
    assert result.valid
    assert result.time_s is None
    assert list(result.timings_ms) == COLD


def test_frames_keep_their_number_and_time(bundle: Path) -> None:
    with opened(bundle) as segmenter:
        result = segmenter.segment(Frame(halves(), 7, Fraction(7, 30)))
        bare = segmenter.segment(halves())
    assert (result.index, result.time_s) == (7, Fraction(7, 30))
    assert (bare.index, bare.time_s) == (1, None)


def test_bgr_pixels_give_what_rgb_pixels_give(bundle: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    with opened(bundle) as segmenter:
        straight = segmenter.segment(rgb)
        turned = segmenter.segment(np.ascontiguousarray(rgb[..., ::-1]), bgr=True)
        wrong = segmenter.segment(np.ascontiguousarray(rgb[..., ::-1]))
    np.testing.assert_array_equal(straight.labels, turned.labels)
    np.testing.assert_array_equal(straight.confidence, turned.confidence)
    assert (straight.confidence != wrong.confidence).any()


def test_permuting_the_classes_permutes_the_labels(bundle: Path) -> None:
    with opened(bundle) as segmenter:
        before = segmenter.segment(halves()).labels
        segmenter.set_classes(["sky", "red", "grass"])
        after = segmenter.segment(halves()).labels
    np.testing.assert_array_equal(np.array([1, 2, 0])[before], after)


def test_each_frame_is_cold_by_default(bundle: Path) -> None:
    with opened(bundle) as segmenter:
        assert [segmenter.segment(halves()).keyframe for _ in range(3)] == [True, True, True]


def test_frames_between_keyframes_run_the_warm_walk(bundle: Path) -> None:
    with opened(bundle, temporal=Temporal.plain(3)) as segmenter:
        stages = [list(segmenter.segment(halves()).timings_ms) for _ in range(4)]
    assert stages == [COLD, WARM, WARM, COLD]


def test_on_a_still_picture_the_warm_walk_agrees_with_the_cold_one(bundle: Path) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    with opened(bundle, temporal=Temporal.plain(9)) as segmenter:
        results = [segmenter.segment(picture) for _ in range(5)]
    np.testing.assert_array_equal(results[0].labels, results[4].labels)


def test_a_change_of_classes_keeps_the_attention(bundle: Path, manifest: Manifest) -> None:
    backend = FakeBackend(manifest)
    with opened(bundle, backend=backend, temporal=Temporal.plain(8)) as segmenter:
        segmenter.segment(halves())
        segmenter.set_classes("zebra; road; grass, sky", ["tennis"])
        changed = segmenter.segment(halves())
        after = segmenter.segment(halves())
    assert list(changed.timings_ms) == REMIX
    assert not changed.keyframe
    assert changed.class_names == ("background", "zebra", "road", "grass")
    assert list(after.timings_ms) == WARM
    assert backend.runs["attention"] == 1


def test_changed_classes_give_what_a_fresh_segmenter_gives(bundle: Path) -> None:
    with opened(bundle, temporal=Temporal.plain(8)) as segmenter, opened(bundle, classes=["zebra", "ball"]) as fresh:
        segmenter.segment(halves())
        segmenter.set_classes(["zebra", "ball"])
        changed, expected = segmenter.segment(halves()), fresh.segment(halves())
    np.testing.assert_array_equal(changed.labels, expected.labels)
    np.testing.assert_array_equal(changed.confidence, expected.confidence)


def test_a_refused_class_list_leaves_the_old_one_in_use(bundle: Path) -> None:
    with opened(bundle) as segmenter:
        with pytest.raises(UsageError, match="has no rival"):
            segmenter.set_classes(["zebra"])
        assert segmenter.segment(halves()).class_names == CLASSES


def test_another_frame_size_or_a_reset_starts_cold(bundle: Path) -> None:
    with opened(bundle, temporal=Temporal.plain(8)) as segmenter:
        segmenter.segment(halves())
        assert segmenter.segment(halves((50, 64))).keyframe
        assert not segmenter.segment(halves((50, 64))).keyframe
        segmenter.reset()
        assert segmenter.segment(halves((50, 64))).keyframe


def test_a_frame_of_nan_is_flagged_and_the_run_goes_on(bundle: Path, manifest: Manifest) -> None:
    backend = FakeBackend(manifest, Faults(nan_scores_at=frozenset({1})))
    with opened(bundle, backend=backend, temporal=Temporal.plain(8)) as segmenter:
        results = [segmenter.segment(halves()) for _ in range(3)]
        assert segmenter.invalid_frames == 1
    assert [result.valid for result in results] == [True, False, True]
    assert (results[1].labels == 255).all()
    assert (results[1].confidence == 0).all()
    assert results[2].keyframe


def test_a_frame_that_runs_out_of_memory_fails_alone(bundle: Path, manifest: Manifest) -> None:
    backend = FakeBackend(manifest, Faults(errors_at={("walk_warm", 0): MemoryError()}))
    with opened(bundle, backend=backend, temporal=Temporal.plain(8)) as segmenter:
        segmenter.segment(halves())
        with pytest.raises(ResourceError, match=r"frame 1 of 64 x 48 pixels ran out of memory; use smaller frames"):
            segmenter.segment(halves())
        assert segmenter.segment(halves()).keyframe


def test_any_other_error_passes_through_and_forgets_the_keyframe(bundle: Path, manifest: Manifest) -> None:
    backend = FakeBackend(manifest, Faults(errors_at={("readout", 1): OSError("odd")}))
    with opened(bundle, backend=backend, temporal=Temporal.plain(8)) as segmenter:
        segmenter.segment(halves())
        with pytest.raises(OSError, match="odd"):
            segmenter.segment(halves())
        assert segmenter.segment(halves()).keyframe


@pytest.mark.parametrize(
    ("pixels", "got"),
    [
        (np.zeros((4, 4), dtype=np.uint8), r"uint8 \(4, 4\)"),
        (np.zeros((4, 4, 4), dtype=np.uint8), r"uint8 \(4, 4, 4\)"),
        (np.zeros((4, 4, 3), dtype=np.float32), r"float32 \(4, 4, 3\)"),
        (np.zeros((0, 4, 3), dtype=np.uint8), r"uint8 \(0, 4, 3\)"),
        ([[0]], "a list"),
    ],
)
def test_pixels_of_another_kind_are_refused(bundle: Path, pixels: Any, got: str) -> None:
    with opened(bundle) as segmenter, pytest.raises(UsageError, match=f"frame 0 is {got}, expected .*uint8"):
        segmenter.segment(pixels)


def test_a_threshold_gives_unsure_pixels_to_the_background(bundle: Path) -> None:
    with opened(bundle, background=["tennis"], constants=Constants(threshold=1.0)) as segmenter:
        assert (segmenter.segment(halves()).labels == 0).all()
    with pytest.raises(UsageError, match="a threshold gives pixels to the background; name background words"):
        opened(bundle, constants=Constants(threshold=0.5))


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [("alpha", 1.0, "0 to below 1"), ("beta", -0.1, "0 to 1"), ("tau", 0.0, "above 0"), ("threshold", 2.0, "0 to 1"),
     ("head_temperature", float("nan"), "above 0")],
)  # fmt: skip
def test_a_constant_out_of_its_range_is_refused(bundle: Path, name: str, value: float, wanted: str) -> None:
    with pytest.raises(UsageError, match=f"{name} is {value}, expected {wanted}"):
        opened(bundle, background=["tennis"], constants=Constants(**{name: value}))


def test_without_a_walk_the_labels_are_those_of_the_seeds(bundle: Path) -> None:
    picture = np.random.default_rng(2).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    with opened(bundle, constants=Constants(alpha=0.0)) as still, opened(bundle, constants=Constants(alpha=0.9)) as far:
        assert (still.segment(picture).confidence != far.segment(picture).confidence).any()


def test_unused_slots_of_an_engine_change_nothing(bundle: Path, manifest: Manifest) -> None:
    with opened(bundle) as exact, opened(bundle, backend=FakeBackend(manifest, class_slots=32)) as padded:
        first, second = exact.segment(halves()), padded.segment(halves())
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_allclose(first.confidence, second.confidence.astype(int), atol=1)


def test_a_read_out_too_large_is_done_smaller_and_enlarged(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert readout_size_hw(254, (1, 1)) == (1, 1)
    monkeypatch.setattr(readout, "READOUT_ELEMENTS_LIMIT", 3 * 48 * 64 // 4)
    assert readout_size_hw(3, (48, 64)) == (24, 32)
    with opened(bundle) as segmenter:
        labels = segmenter.segment(halves()).labels
    assert labels.shape == (48, 64)
    np.testing.assert_array_equal(labels[::2, ::2], labels[1::2, 1::2])


def test_a_stream_is_a_plain_loop_and_closes_its_source(bundle: Path, tmp_path: Path) -> None:
    source = open_frames(write_clip(tmp_path / "clip.mp4", 3))
    with opened(bundle) as segmenter:
        assert [result.index for result in segmenter.stream(source)] == [0, 1, 2]
        assert [result.index for result in segmenter.stream([Frame(halves(), 5, Fraction(0))])] == [5]
    with pytest.raises(UsageError, match="was read or closed already"):
        iter(source)


def test_use_after_close_is_refused_and_closing_twice_is_fine(bundle: Path) -> None:
    segmenter = opened(bundle)
    segmenter.close()
    segmenter.close()
    with pytest.raises(UsageError, match="this segmenter was closed; open it again"):
        segmenter.segment(halves())
    with pytest.raises(UsageError, match="was closed"):
        segmenter.set_classes(CLASSES)


def test_classes_may_come_from_a_list_a_text_a_class_list_or_a_file(
    bundle: Path, manifest: Manifest, tmp_path: Path
) -> None:
    listed = ClassList.of(CLASSES)
    embeddings = np.eye(3, TEXT_WIDTH, dtype=np.float32)
    bank = build_text_bank(listed, ["{}"], lambda prompts: embeddings, "", None)
    save_vocabulary(tmp_path / "names.safetensors", bank, text_sha256(manifest))
    for classes in ("red; grass; sky", list(CLASSES), listed, tmp_path / "names.safetensors"):
        backend = FakeBackend(manifest)
        with opened(bundle, classes=classes, backend=backend) as segmenter:
            assert segmenter.class_names == CLASSES
            assert segmenter.segment(halves()).valid
        assert backend.runs.get("text", 0) == (0 if isinstance(classes, Path) else 1)
    for fixed in (listed, tmp_path / "names.safetensors"):
        with pytest.raises(UsageError, match="background words are part of a"):
            opened(bundle, classes=fixed, background=["tennis"])


def test_more_classes_than_the_bundle_takes_are_refused(bundle: Path, manifest: Manifest) -> None:
    small = manifest.model_copy(update={"geometry": manifest.geometry.model_copy(update={"max_classes": 2})})
    encoder = TextEncoder(bundle, small, FakeBackend(small))
    with pytest.raises(UsageError, match=r"3 classes are active, .*takes at most 2; name fewer, or build one for more"):
        encoder.text_bank(CLASSES)


def test_ten_thousand_classes_are_refused_within_two_seconds(bundle: Path) -> None:
    started_s = time.process_time()
    with pytest.raises(UsageError, match="10000 classes are active"):
        opened(bundle, classes=["red"] * 10_000)
    assert time.process_time() - started_s < 2


def test_a_damaged_tokenizer_stops_the_opening_and_closes_the_back_end(
    bundle: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = manifest.files["tokenizer.json"].model_copy(update={"sha256": "0" * 64})
    broken = manifest.model_copy(update={"files": {**manifest.files, "tokenizer.json": record}})
    closed = []
    backend = FakeBackend(broken)
    monkeypatch.setattr(backend, "close", lambda: closed.append(True))
    monkeypatch.setattr(segmenter_module, "load_manifest", lambda folder: broken)
    with pytest.raises(BundleError, match=r"tokenizer\.json: sha256 .* the file was changed"):
        opened(bundle, backend=backend)
    assert closed == [True]


def test_the_default_cache_is_in_the_users_folder_and_is_used(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with opened(bundle, cache_dir="default"):
        cache = default_cache_dir()
        assert cache is not None
        assert len(list(cache.iterdir())) == 1
    assert "fake" in opened(bundle).backend


@pytest.mark.parametrize(
    "classes",
    [
        (name for name in ("zebra", "sky")),
        np.array(["zebra", "sky"]),
        ("zebra", "sky"),
        dict.fromkeys(("zebra", "sky")).keys(),
    ],
    ids=["generator", "array", "tuple", "keys"],
)
def test_any_iterable_of_strings_names_classes(classes: Any, bundle: Path) -> None:
    with opened(bundle) as segmenter:
        segmenter.set_classes(classes, background=np.array(["grass"]))
        assert segmenter.class_names == ("background", "zebra", "sky")
        assert all(type(name) is str for name in segmenter.class_names)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({0: "zebra", 1: "sky"}, "the class list is of type dict, expected an iterable of strings"),
        ({"zebra", "sky"}, "the class list is of type set, expected an iterable of strings in the order of the labels"),
        (7, "the class list is of type int, expected"),
        (b"zebra; sky", "the class list is of type bytes, expected"),
        ([1, 2], "entry 1 of the class list is 1 of type int, expected"),
        (["zebra", None], "entry 2 of the class list is None of type NoneType, expected"),
        (np.array([["zebra", "sky"]]), "entry 1 of the class list is .* of type ndarray, expected"),
    ],
)
def test_what_is_no_class_list_is_refused_by_its_type(classes: Any, message: str, bundle: Path) -> None:
    with opened(bundle) as segmenter:
        with pytest.raises(UsageError, match=message):
            segmenter.set_classes(classes)
        assert segmenter.class_names == CLASSES


def test_a_background_of_another_type_is_refused(bundle: Path) -> None:
    with (
        opened(bundle) as segmenter,
        pytest.raises(UsageError, match="the background is of type int"),
    ):
        segmenter.set_classes(["red"], background=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pixels", "remedy"),
    [
        (np.zeros((4, 5, 3)), r"float64 \(4, 5, 3\), expected uint8 .*; 0 to 1 becomes uint8 by \(frame \* 255\)"),
        (np.zeros((2, 4, 5, 3), np.uint8), "give the frames of a batch one by one"),
        (np.zeros((4, 5, 4), np.uint8), r"leave out alpha: frame\[\.\.\., :3\]"),
        (np.zeros((4, 5), np.uint8), "cv2.COLOR_GRAY2RGB"),
        (np.zeros((4, 5, 1), np.uint8), "cv2.COLOR_GRAY2RGB"),
        (np.zeros((3, 4, 5), np.uint8), "move the channels last"),
        (np.zeros((4, 5, 3), np.int32), r"astype\(numpy.uint8\)"),
        (np.zeros((0, 5, 3), np.uint8), "it has no pixels"),
        ([[1, 2, 3]], "is a list, expected a NumPy array"),
    ],
)
def test_pixels_that_are_no_frame_are_refused_with_what_makes_one(pixels: Any, remedy: str, bundle: Path) -> None:
    with opened(bundle) as segmenter, pytest.raises(UsageError, match=remedy):
        segmenter.segment(pixels)
