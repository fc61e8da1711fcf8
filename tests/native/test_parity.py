"""C and C++ give the labels that Python gives, on every pixel, in every way of going on from frame to frame."""

import ctypes
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from nerve_runtime import Constants, Readout, Segmenter, Temporal
from nerve_runtime.backends import BackendOptions
from nerve_runtime.frames import UInt8Array
from tests.data.tiny_bundle import batch_bundle_folder
from tests.native.binding import READOUTS, NativeSegmenter, open_library, params_for
from tests.native.building import ASAN, INCLUDE, STRICT, run
from tests.native.parity_set import (
    BACKGROUND,
    CHANGE_AT,
    CLASSES,
    WAYS,
    case_steps,
    native_steps,
    parity_frames,
    write_parity_set,
)

pytestmark = pytest.mark.native


@pytest.fixture(scope="module")
def library(native_library: Path) -> ctypes.CDLL:
    """The C library, opened."""
    return open_library(native_library)


@pytest.mark.parametrize("way", WAYS)
def test_labels_and_confidence_equal_pythons_on_every_pixel(
    way: str, library: ctypes.CDLL, onnxruntime_library: Path, tiny_bundle: Path, vocabularies: dict[str, Path],
    frames: list[UInt8Array],
) -> None:  # fmt: skip
    params = params_for(library, onnxruntime_library, WAYS[way], threads=1)
    keyframes = []
    with NativeSegmenter.open(library, tiny_bundle, params) as native:
        for step, result in native_steps(
            native, case_steps(tiny_bundle, WAYS[way], vocabularies, frames), vocabularies
        ):
            np.testing.assert_array_equal(result.labels, step.result.labels)
            np.testing.assert_array_equal(result.confidence, step.result.confidence)
            assert (result.keyframe, result.affinity_age) == (step.result.keyframe, step.result.affinity_age)
            assert native.class_names == step.result.class_names
            keyframes.append(result.keyframe)
    assert all(keyframes) == (way == "cold")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["cold", "follow", "exact"])
def test_a_bundle_for_several_frames_gives_pythons_labels_too(
    way: str, library: ctypes.CDLL, onnxruntime_library: Path, tiny_bundle: Path, vocabularies: dict[str, Path],
    frames: list[UInt8Array],
) -> None:  # fmt: skip
    """Frame by frame; Python's labels are those of the bundle for one frame."""
    params = params_for(library, onnxruntime_library, WAYS[way], threads=1)
    with NativeSegmenter.open(library, batch_bundle_folder(), params) as native:
        for step, result in native_steps(
            native, case_steps(tiny_bundle, WAYS[way], vocabularies, frames), vocabularies
        ):
            np.testing.assert_array_equal(result.labels, step.result.labels)


def test_the_frames_of_the_set_need_every_decision(tiny_bundle: Path, vocabularies: dict[str, Path]) -> None:
    steps = list(case_steps(tiny_bundle, WAYS["follow"], vocabularies, parity_frames()))
    ages = [step.result.affinity_age for step in steps]
    assert max(ages) == 5
    assert ages[CHANGE_AT] > 0, "the classes have to change between two keyframes"
    assert 0 in ages[1:6], "a cut has to come before its time"


@pytest.mark.parametrize("readout", get_args(Readout))
@pytest.mark.parametrize("name", CLASSES)
def test_classes_given_as_words_give_pythons_labels(
    readout: Readout,
    name: str,
    library: ctypes.CDLL,
    onnxruntime_library: Path,
    tiny_bundle: Path,
    frames: list[UInt8Array],
) -> None:
    constants = Constants(alpha=0.9, threshold=0.3 if BACKGROUND[name] else None)
    params = params_for(
        library, onnxruntime_library, constants=constants, threads=1, readout=READOUTS.index(readout)
    )  # fmt: skip
    with (
        Segmenter.open(
            tiny_bundle, CLASSES[name], background=BACKGROUND[name] or (), backend="ort", constants=constants,
            backend_options=BackendOptions(threads=1), readout=readout, cache_dir=None,
        ) as segmenter,
        NativeSegmenter.open(library, tiny_bundle, params) as native,
    ):  # fmt: skip
        native.set_classes(CLASSES[name], BACKGROUND[name] or None)
        for rgb in frames[-3:-1]:
            expected = segmenter.segment(rgb[..., ::-1], bgr=True)
            result = native.segment(rgb[..., ::-1].copy(), bgr=True)
            np.testing.assert_array_equal(result.labels, expected.labels)
            np.testing.assert_array_equal(result.confidence, expected.confidence)
        assert native.class_names == segmenter.class_names


def test_pixels_with_gaps_between_rows_are_read_as_they_lie(
    library: ctypes.CDLL,
    onnxruntime_library: Path,
    tiny_bundle: Path,
    vocabularies: dict[str, Path],
    frames: list[UInt8Array],
) -> None:
    with NativeSegmenter.open(library, tiny_bundle, params_for(library, onnxruntime_library)) as native:
        native.set_vocabulary(vocabularies["few"])
        view = frames[0][20:150, 31:140]
        with_gaps, without = native.segment(view), native.segment(np.ascontiguousarray(view))
        upside_down = native.segment(np.flipud(np.flipud(view).copy()))
    np.testing.assert_array_equal(with_gaps.labels, without.labels)
    np.testing.assert_array_equal(with_gaps.labels, upside_down.labels)


def test_a_second_video_has_frames_of_its_own(
    library: ctypes.CDLL,
    onnxruntime_library: Path,
    tiny_bundle: Path,
    vocabularies: dict[str, Path],
    frames: list[UInt8Array],
) -> None:
    params = params_for(library, onnxruntime_library, Temporal.plain(9))
    with NativeSegmenter.open(library, tiny_bundle, params) as native:
        native.set_vocabulary(vocabularies["few"])
        alone = [native.segment(rgb).labels for rgb in frames[:4]]
        native.reset()
        other = native.new_video()
        with other:
            mixed = []
            for number, rgb in enumerate(frames[:4]):
                mixed.append(native.segment(rgb).labels)
                assert other.segment(frames[-1 - number]).keyframe == (number in (0, 2))  # two of each size
    np.testing.assert_array_equal(mixed, alone)


def test_a_video_outlives_the_segmenter_that_it_came_from(
    library: ctypes.CDLL,
    onnxruntime_library: Path,
    tiny_bundle: Path,
    vocabularies: dict[str, Path],
    frames: list[UInt8Array],
) -> None:
    native = NativeSegmenter.open(library, tiny_bundle, params_for(library, onnxruntime_library))
    native.set_vocabulary(vocabularies["few"])
    expected = native.segment(frames[0]).labels
    with native.new_video() as video:
        native.close()
        np.testing.assert_array_equal(video.segment(frames[0]).labels, expected)


def test_the_grey_picture_is_the_one_that_python_measures_motion_on(
    library: ctypes.CDLL, onnxruntime_library: Path, tiny_bundle: Path, frames: list[UInt8Array]
) -> None:
    from nerve_runtime.frames import resize_frame
    from nerve_runtime.motion import grey_picture

    with NativeSegmenter.open(library, tiny_bundle, params_for(library, onnxruntime_library)) as native:
        np.testing.assert_array_equal(native.grey(frames[0]), grey_picture(resize_frame(frames[0], (128, 128))))
        info = native.info()
    assert (info.working_height, info.motion_width, info.max_classes, info.random_weights) == (128, 128, 254, 0)


def parity_program(folder: Path, library: Path, *flags: str) -> Path:
    """parity.cc, linked with a library."""
    source = Path(__file__).with_name("parity.cc")
    run("g++", "-std=c++17", "-O1", *STRICT, *flags, f"-I{INCLUDE}", source, "-DNERVE_WITHOUT_OPENCV", library,
        f"-Wl,-rpath,{library.parent}", "-o", folder / "parity")  # fmt: skip
    return folder / "parity"


@pytest.mark.slow
def test_a_cpp_program_gets_the_labels_of_the_set(
    native_library: Path, onnxruntime_library: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    cases = write_parity_set(tiny_bundle, tmp_path / "set")
    program = parity_program(tmp_path, native_library)
    output = run(program, onnxruntime_library, tiny_bundle, cases)
    assert output.splitlines()[-1] == f"{len(WAYS)} cases, {len(WAYS) * len(parity_frames())} frames, all labels equal"
    labels = next((tmp_path / "set").glob("warm-*.pgm"))
    labels.write_bytes(labels.read_bytes()[:-1] + b"\x07")  # a label that is not there
    assert labels.name in run(program, onnxruntime_library, tiny_bundle, cases, code=1)


@pytest.mark.slow
def test_the_set_is_labelled_without_a_leak_under_the_sanitizers(
    asan_library: Path, onnxruntime_library: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    cases = write_parity_set(tiny_bundle, tmp_path / "set")
    program = parity_program(tmp_path, asan_library, *ASAN)
    output = run(program, onnxruntime_library, tiny_bundle, cases, env={"ASAN_OPTIONS": "detect_leaks=1"})
    assert output.splitlines()[-1].endswith("frames, all labels equal")
