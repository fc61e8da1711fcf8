"""Labels are of 8 bit up to 254 classes and of 16 bit beyond, whatever the bundle could."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from nerve_runtime import Labels, Segmenter, ignore_label, label_dtype
from nerve_runtime.backends.fake import FakeBackend, Faults
from nerve_runtime.bundle.manifest import load_manifest
from nerve_runtime.errors import BundleError, UsageError
from nerve_runtime.labels import cast_labels
from nerve_runtime.readout import enlarged, possible_winners
from nerve_runtime.result import FrameResult
from tests.data.clips import halves
from tests.data.fake_bundle import WORDS, make_fake_bundle
from tests.data.many_names import many_names

MANY = 1203
NAMES = many_names(WORDS, MANY)


@pytest.fixture(scope="module")
def wide_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fake_bundle(tmp_path_factory.mktemp("wide"), max_classes=MANY)


def opened(bundle: Path, classes: list[str], **options: Any) -> Segmenter:
    return Segmenter.open(bundle, classes, **{"backend": "fake", "cache_dir": None, **options})


def test_labels_have_8_bit_up_to_254_classes_and_16_beyond() -> None:
    assert [label_dtype(count) for count in (1, 254, 255, 65534)] == [np.uint8, np.uint8, np.uint16, np.uint16]
    assert [ignore_label(label_dtype(count)) for count in (254, 255)] == [255, 65535]
    with pytest.raises(UsageError, match="65535 classes are more than labels can number, expected at most 65534"):
        label_dtype(65535)
    with pytest.raises(UsageError, match="labels are int64, expected uint8, or uint16 beyond 254 classes"):
        ignore_label(np.dtype(np.int64))


def test_no_label_stays_no_label_when_labels_change_their_width() -> None:
    narrow: Labels = np.array([0, 7, 253, 255], np.uint8)
    wide: Labels = np.array([0, 7, 253, 65535], np.uint16)
    np.testing.assert_array_equal(cast_labels(wide, narrow.dtype), narrow, strict=True)
    np.testing.assert_array_equal(cast_labels(narrow, wide.dtype), wide, strict=True)
    assert cast_labels(narrow, narrow.dtype) is narrow


@pytest.mark.parametrize("count", [254, 255, MANY])
@pytest.mark.parametrize("invalid", [False, True])
def test_the_number_of_classes_decides_the_dtype_of_labels(wide_bundle: Path, count: int, invalid: bool) -> None:
    faults = Faults(nan_scores_at=frozenset({0} if invalid else ()))
    backend = FakeBackend(load_manifest(wide_bundle), faults)
    with opened(wide_bundle, NAMES[:count], backend=backend) as segmenter:
        result = segmenter.segment(halves((47, 65)))
    expected = np.uint8 if count == 254 else np.uint16
    assert result.labels.dtype == expected
    assert result.confidence.dtype == np.uint8
    assert result.ignore_label == (255 if count == 254 else 65535)
    assert result.valid is not invalid
    assert (result.labels == result.ignore_label).all() == invalid


@pytest.mark.parametrize("words", ["few", "many"])
def test_a_bundle_for_more_classes_gives_the_labels_of_one_for_254(bundle: Path, wide_bundle: Path, words: str) -> None:
    classes = NAMES[:5] if words == "few" else NAMES[:254]
    picture = np.random.default_rng(5).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    with opened(bundle, classes) as small, opened(wide_bundle, classes) as wide:
        np.testing.assert_array_equal(wide.segment(picture).labels, small.segment(picture).labels, strict=True)


def test_labels_beyond_the_first_256_are_found(wide_bundle: Path) -> None:
    """The classes in reverse: a pixel's label is counted from the other end."""
    picture = np.random.default_rng(6).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    with opened(wide_bundle, NAMES) as segmenter:
        straight = segmenter.segment(picture).labels
        segmenter.set_classes(NAMES[::-1])
        turned = segmenter.segment(picture).labels
    assert straight.max() > 255
    np.testing.assert_array_equal(straight.astype(int), MANY - 1 - turned.astype(int))


def test_labels_that_the_graph_gives_for_all_slots_are_cast_to_the_width_of_the_vocabulary(wide_bundle: Path) -> None:
    manifest = load_manifest(wide_bundle)
    few = NAMES[:5]
    backend = FakeBackend(manifest, class_slots=32)
    with opened(wide_bundle, few, backend=backend) as slots, opened(wide_bundle, few) as plain:
        np.testing.assert_array_equal(slots.segment(halves()).labels, plain.segment(halves()).labels, strict=True)


def test_coarser_labels_are_enlarged_without_losing_their_upper_byte() -> None:
    coarse: Labels = np.array([[3, 1202], [65535, 256]], np.uint16)
    np.testing.assert_array_equal(enlarged(coarse, (4, 4)), np.kron(coarse, np.ones((2, 2), np.uint16)), strict=True)


def test_rows_that_can_win_are_labels_of_the_vocabularys_width() -> None:
    scores = np.zeros((300, 24), np.float32)
    scores[:, :], scores[299] = 0.001, 0.7
    assert possible_winners(scores, (4, 6), "bilinear", keep_first=True).tolist() == [0, 299]
    assert possible_winners(scores, (4, 6), "bilinear", keep_first=True).dtype == np.uint16
    assert possible_winners(scores[:254], (4, 6), "bilinear", keep_first=True).dtype == np.uint8


def test_a_list_that_the_bundle_cannot_number_is_refused_with_the_command_that_builds_one(bundle: Path) -> None:
    expected = (
        r"255 classes are active, .* takes at most 254; name fewer, or build one .* nerve-build --max-classes 255"
    )
    with pytest.raises(UsageError, match=expected):
        opened(bundle, NAMES[:255])
    with pytest.raises(UsageError, match=r"70000 classes are active, .*; split the list into several runs"):
        opened(bundle, ["red"] * 70_000)


@pytest.mark.parametrize(
    ("max_classes", "dtype", "expected"), [(255, "uint8", "uint16"), (254, "uint16", "uint8"), (300, "int64", "uint16")]
)
def test_a_manifest_whose_labels_cannot_number_its_classes_is_refused(
    tmp_path: Path, max_classes: int, dtype: str, expected: str
) -> None:
    path = make_fake_bundle(tmp_path / "bundle", max_classes=max_classes) / "manifest.json"
    lines = json.loads(path.read_text(encoding="utf-8"))
    lines["stages"]["readout"]["spec"]["outputs"][0]["dtype"] = dtype
    path.write_text(json.dumps(lines), encoding="utf-8")
    message = f"'labels' of stage 'readout' is {dtype}, up to {max_classes} classes need {expected}"
    with pytest.raises(BundleError, match=message):
        load_manifest(path.parent)


def test_detections_name_classes_beyond_255(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = {}
    module = ModuleType("supervision")
    module.Detections = lambda **fields: found.update(fields)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "supervision", module)
    labels = np.full((4, 6), 65535, np.uint16)
    labels[:2, :3], labels[2:, 3:] = 255, 1202
    confidence = np.full((4, 6), 102, np.uint8)
    FrameResult(labels, confidence, tuple(NAMES), 0, None, {}, True, 0, True).to_detections()
    assert found["class_id"].tolist() == [255, 1202]
    assert found["data"]["class_name"].tolist() == [NAMES[255], NAMES[1202]]
    np.testing.assert_array_equal(found["mask"], [labels == 255, labels == 1202])
