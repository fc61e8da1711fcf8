"""The C++ library of a DeepStream application: it compiles cleanly, and does on plain memory what NumPy does."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from nerve_runtime.bundle.manifest import Manifest
from tests.unit.nerve_export.deepstream.conftest import bank
from tests.unit.nerve_export.deepstream.library import STAND_INS, Library

pytestmark = pytest.mark.onnx

CUSTOM_LIB_FAILED = 2
SEGMENTATION_META, FIRST_USER_META = 13, 4096
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror")


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_the_source_compiles_without_a_warning(application: Path, compiler: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"not installed: {compiler}")
    sources = sorted(application.glob("*.cc"))
    assert len(sources) == 2
    command: list[str | Path] = [compiler, "-std=c++17", "-fsyntax-only", *WARNINGS, f"-I{STAND_INS}", *sources]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("frames", [1, 3])
def test_constant_inputs_are_given_to_each_frame_of_a_batch(library: Library, manifest: Manifest, frames: int) -> None:
    words = bank(manifest)
    for name, values in (("text_embeddings", words.text_embeddings), ("class_rows", words.class_rows)):
        status, filled = library.fill(name, (frames, *values.shape), values.dtype)
        assert status == 0
        np.testing.assert_array_equal(filled, np.broadcast_to(values, filled.shape))
    status, mask = library.fill("class_mask", (frames, 3), np.bool_)
    assert status == 0
    assert mask.all()
    status, alpha = library.fill("alpha", (frames, 1), np.float32)
    np.testing.assert_array_equal(alpha, np.full((frames, 1), manifest.method.alpha, np.float32))


@pytest.mark.parametrize(
    ("name", "dims", "sentence"),
    [
        ("gamma", (1,), "input gamma has no file "),
        ("class_mask", (4,), "input class_mask takes 4 bytes, its file has 3; "),
    ],
)
def test_an_input_that_does_not_fit_is_named(
    library: Library, capfd: pytest.CaptureFixture[str], name: str, dims: tuple[int, ...], sentence: str
) -> None:
    status, _ = library.fill(name, dims, np.bool_)
    assert status == CUSTOM_LIB_FAILED
    assert capfd.readouterr().err.startswith(f"nerve: {sentence}")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_labels_become_a_class_map_of_each_frame(library: Library, dtype: type[np.unsignedinteger]) -> None:
    rng = np.random.default_rng(1)
    none = np.iinfo(dtype).max
    labels = rng.choice(np.array([0, 1, 2, 250, none], dtype), size=(2, 5, 7))
    confidence = rng.integers(0, 256, size=(2, 5, 7), dtype=np.uint8)
    before = library.attached() // 2
    assert library.finish(labels, confidence, 2) == 0
    for frame in range(2):
        found = library.read(before + frame, (5, 7))
        assert (found.classes, found.meta_types) == (3, (SEGMENTATION_META, FIRST_USER_META))
        expected = np.where(labels[frame] == none, -1, labels[frame].astype(np.int32))
        np.testing.assert_array_equal(found.class_map, expected)
        np.testing.assert_array_equal(found.confidence, confidence[frame])


def test_a_batch_that_is_not_full_is_read_from_its_front(library: Library) -> None:
    labels = np.arange(4 * 6, dtype=np.uint8).reshape(4, 2, 3)
    before = library.attached() // 2
    assert library.finish(labels, labels, 1) == 0
    assert library.attached() // 2 == before + 1
    np.testing.assert_array_equal(library.read(before, (2, 3)).class_map, labels[0])


@pytest.mark.parametrize(
    ("frames", "choices", "sentence"),
    [
        (1, {"on_gpu": True}, "the model gave no labels and confidence"),
        (1, {"gone": True}, "nvinferserver gave no list of frames with the labels"),
        (3, {}, "the model gave labels or confidence of fewer frames than it was given"),
    ],
)
def test_what_cannot_be_attached_is_refused(
    library: Library, capfd: pytest.CaptureFixture[str], frames: int, choices: dict[str, bool], sentence: str
) -> None:
    labels = np.zeros((2, 2, 3), np.uint8)
    before = library.attached()
    assert library.finish(labels, labels, frames, **choices) == CUSTOM_LIB_FAILED
    assert library.attached() == before
    assert capfd.readouterr().err == f"nerve: {sentence}\n"


def test_a_frame_without_room_for_metas_is_refused(library: Library, capfd: pytest.CaptureFixture[str]) -> None:
    labels = np.zeros((2, 3), np.uint8)
    library.limit_metas(0)
    try:
        assert library.finish(labels, labels, 1) == CUSTOM_LIB_FAILED
    finally:
        library.limit_metas(-1)
    assert capfd.readouterr().err == "nerve: the labels of a frame could not be attached to it\n"
