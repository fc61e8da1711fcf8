"""TensorRT itself from C, on stand-ins: ONNX Runtime's labels, and tensors that stay on the GPU."""

import ctypes
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from nerve_bench.doubles.engines import FAKE_CUDA, TENSORRT_VERSION
from nerve_runtime import NerveError, Segmenter, Temporal
from nerve_runtime.bundle.ledger import Ledger
from nerve_runtime.frames import UInt8Array
from tests.data.tiny_bundle import batch_bundle_folder
from tests.native.binding import READOUTS, NativeSegmenter, params_for
from tests.native.parity_set import CLASSES, WAYS, case_steps, native_steps, parity_frames
from tests.native.standin import (
    TENSORRT_NATIVE,
    Standin,
    add_engines,
    refusal,
)

pytestmark = [pytest.mark.native, pytest.mark.slow]
STOPPED = "stage '{}' was told to stop"


@pytest.mark.parametrize("way", WAYS)
def test_labels_equal_those_of_onnxruntime_on_every_pixel(
    way: str,
    opened: Callable[..., NativeSegmenter],
    tiny_bundle: Path,
    vocabularies: dict[str, Path],
    frames: list[UInt8Array],
) -> None:
    with opened(WAYS[way]) as native:
        for step, result in native_steps(
            native, case_steps(tiny_bundle, WAYS[way], vocabularies, frames), vocabularies
        ):
            np.testing.assert_array_equal(result.labels, step.result.labels)
            # Sums over 32 class slots round otherwise than sums over the classes that can win.
            np.testing.assert_allclose(result.confidence.astype(int), step.result.confidence, rtol=0, atol=1)
            assert (result.keyframe, result.affinity_age) == (step.result.keyframe, step.result.affinity_age)


def test_engines_for_several_frames_give_the_labels_of_one(
    library: ctypes.CDLL, onnxruntime_library: Path, standin: Standin, ledger: Ledger, tiny_bundle: Path, tmp_path: Path,
    vocabularies: dict[str, Path], frames: list[UInt8Array],
) -> None:  # fmt: skip
    bundle = Path(shutil.copytree(batch_bundle_folder(), tmp_path / "batch"))
    add_engines(bundle, ledger)
    params = params_for(library, onnxruntime_library, WAYS["follow"], provider=TENSORRT_NATIVE)
    with NativeSegmenter.open(library, bundle, params) as native:
        steps = case_steps(tiny_bundle, WAYS["follow"], vocabularies, frames)
        for step, result in native_steps(native, steps, vocabularies):
            np.testing.assert_array_equal(result.labels, step.result.labels)


@pytest.mark.parametrize("readout", ["bilinear", "guided"])
def test_classes_given_as_words_go_through_the_text_engine(
    readout: str, opened: Callable[..., NativeSegmenter], tiny_bundle: Path, frames: list[UInt8Array]
) -> None:
    with (
        Segmenter.open(tiny_bundle, CLASSES["many"], backend="ort", readout=readout, cache_dir=None) as segmenter,  # type: ignore[arg-type]
        opened(readout=READOUTS.index(readout)) as native,
    ):
        native.set_classes(CLASSES["many"])
        np.testing.assert_array_equal(native.segment(frames[0]).labels, segmenter.segment(frames[0]).labels)


def test_the_description_names_library_version_and_gpu(opened: Callable[..., NativeSegmenter]) -> None:
    with opened() as native:
        assert native.description == f"tensorrt: TensorRT {TENSORRT_VERSION}, sm89"


def test_a_frame_larger_than_the_engines_read_out_gets_the_labels_of_pythons_engines(
    opened: Callable[..., NativeSegmenter], tiny_bundle: Path, vocabularies: dict[str, Path]
) -> None:
    rgb = np.ascontiguousarray(np.resize(parity_frames()[0], (700, 2100, 3)))
    with (
        Segmenter.open(tiny_bundle, vocabularies["few"], backend=FAKE_CUDA, cache_dir=None) as segmenter,
        opened() as native,
    ):
        np.testing.assert_array_equal(native.segment(rgb).labels, segmenter.segment(rgb).labels)


UPLOADS = {"cold": [128 * 128 * 3], "follow": [128 * 128 * 3, 1024 * 8, 1024 * 4, 4 * 1024 * 8, 4 * 1024 * 4]}


@pytest.mark.parametrize("way", UPLOADS)
def test_only_the_frame_goes_up_and_labels_come_down(
    way: str, opened: Callable[..., NativeSegmenter], standin: Standin, frames: list[UInt8Array]
) -> None:
    temporal = Temporal.plain(1) if way == "cold" else Temporal(keyframe_every=9, change=0.0, cut=0.0)
    height, width = frames[0].shape[:2]
    with opened(temporal) as native:
        flow = np.zeros((native.info().motion_height, native.info().motion_width, 2), dtype=np.float32)
        for rgb in frames[:4]:
            native.segment(rgb, flow=flow)
        before = standin.counts()
        native.segment(frames[4], flow=flow)
        done = {name: count - before[name] for name, count in standin.counts().items()}
    assert (done["uploads"], done["upload_bytes"]) == (len(UPLOADS[way]), sum(UPLOADS[way]))
    assert (done["downloads"], done["download_bytes"]) == (3, 2 * height * width + 1)
    assert done["waits"] == 1
    assert done["device_allocations"] == done["pinned_allocations"] == 0, "memory comes from the pool"
    assert done["enqueues"] == {"cold": 5, "follow": 6}[way]


def test_frames_of_ever_other_sizes_do_not_fill_the_memory(
    opened: Callable[..., NativeSegmenter], standin: Standin
) -> None:
    with opened() as native:
        blocks = []
        for side in range(1, 200):
            native.segment(np.zeros((900 + side, 1800, 3), dtype=np.uint8))
            blocks.append(standin.counts()["device_blocks"])
    assert max(blocks) < 2 * 199
    assert max(blocks[100:]) <= max(blocks[:100])


def test_more_classes_than_slots_are_refused_and_the_old_ones_stay(
    library: ctypes.CDLL, onnxruntime_library: Path, standin: Standin, bundle: Path, ledger: Ledger,
    vocabularies: dict[str, Path], frames: list[UInt8Array],
) -> None:  # fmt: skip
    add_engines(bundle, ledger, class_slots=6)
    params = params_for(library, onnxruntime_library, provider=TENSORRT_NATIVE)
    with NativeSegmenter.open(library, bundle, params) as native:
        native.set_vocabulary(vocabularies["few"])
        before = native.segment(frames[0]).labels
        with pytest.raises(NerveError, match=r"^9 classes do not fit the 6 slots of this engine; name fewer classes$"):
            native.set_vocabulary(vocabularies["many"])
        np.testing.assert_array_equal(native.segment(frames[0]).labels, before)


@pytest.mark.parametrize("slots", [0, 70_000])
def test_class_slots_that_no_labels_can_number_are_refused(
    slots: int, library: ctypes.CDLL, onnxruntime_library: Path, standin: Standin, bundle: Path, ledger: Ledger
) -> None:
    add_engines(bundle, ledger, class_slots=slots)
    params = params_for(library, onnxruntime_library, provider=TENSORRT_NATIVE)
    code, message = refusal(lambda: NativeSegmenter.open(library, bundle, params))
    assert (code, f" takes 'class_mask' up to {slots}, expected 1 to 65534; build it again" in message) == (3, True), (
        message
    )


def test_more_synonyms_than_the_engine_takes_are_refused_with_its_range(
    opened: Callable[..., NativeSegmenter], frames: list[UInt8Array]
) -> None:
    with opened() as native:
        native.set_classes("apple, aeroplane, airplane, asphalt, automobile, ball, banana, beach, bicycle; grass")
        code, message = refusal(lambda: native.segment(frames[0]))
        native.set_classes("apple; grass")
        native.segment(frames[0])
    expected = (
        "stage 'scores' input 'class_rows' has sizes [32, 9], this engine takes [32, 1] to [32, 8]; use fewer words or"
    )
    assert (code, message[: len(expected)]) == (2, expected)


def test_two_videos_in_two_threads_get_the_labels_of_one(
    opened: Callable[..., NativeSegmenter], frames: list[UInt8Array]
) -> None:
    with opened(Temporal.plain(3)) as native:
        expected = [native.segment(rgb).labels for rgb in frames[:8]]
        native.reset()
        with native.new_video() as other, ThreadPoolExecutor(2) as pool:
            runs = [
                pool.submit(lambda video: [video.segment(rgb).labels for rgb in frames[:8]], each)
                for each in (native, other)
            ]
            for run in runs:
                np.testing.assert_array_equal(run.result(), expected)


def test_what_was_stopped_runs_no_more(
    opened: Callable[..., NativeSegmenter], library: ctypes.CDLL, frames: list[UInt8Array]
) -> None:
    with opened() as native:
        native.segment(frames[0])
        library.nerve_stop(native.handle)
        assert refusal(lambda: native.segment(frames[0])) == (3, STOPPED.format("attention"))
