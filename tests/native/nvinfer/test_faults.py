"""Faults of CUDA and TensorRT under the C library: an error of its kind, nothing kept, the next frame works."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nerve_runtime import ResourceError
from nerve_runtime.bundle.ledger import Ledger
from nerve_runtime.frames import UInt8Array
from tests.native.binding import NativeSegmenter
from tests.native.building import ASAN, INCLUDE, STRICT, missing_for_build, run
from tests.native.standin import (
    FAULTS,
    Standin,
    build_against_standins,
    refusal,
)

pytestmark = [pytest.mark.native, pytest.mark.slow]

FAULTS_OF_A_FRAME = {
    "copy": (4, "TensorRT cannot use a GPU: cudaMemcpyAsync says cudaErrorInvalidValue (invalid argument); check the driver"),
    "enqueue": (3, "failed at its run: a kernel could not be launched; build the engine again, or report it"),
    "enqueue memory": (6, "an allocation failed: out of memory; end other programs on the GPU, use smaller frames"),
    "kernel": (4, "TensorRT cannot use a GPU: cudaStreamSynchronize says cudaErrorLaunchFailure (unspecified launch failure);"),
    "address": (3, "failed at address of '"),
}  # fmt: skip
CHANCES_OF_A_FRAME = {"copy": 4, "address": 27}
COLD_ALLOCATIONS = {"device": 18, "pinned": 13}
"""From opening the bundle to the labels of a first frame."""


@pytest.mark.parametrize("kind", FAULTS_OF_A_FRAME)
def test_a_fault_is_an_error_of_its_kind_and_the_next_frame_works(
    kind: str, opened: Callable[..., NativeSegmenter], standin: Standin, frames: list[UInt8Array]
) -> None:
    code, text = FAULTS_OF_A_FRAME[kind]
    with opened() as native:
        expected = native.segment(frames[0]).labels
        for chance in range(CHANCES_OF_A_FRAME.get(kind, 5)):
            standin.fail(kind, chance)
            got, message = refusal(lambda: native.segment(frames[0]))
            assert (got, text in message) == (code, True), message
            np.testing.assert_array_equal(native.segment(frames[0]).labels, expected)
        standin.fail(kind, chance + 1)
        native.segment(frames[0])


@pytest.mark.parametrize("kind", ["device", "pinned"])
def test_memory_that_runs_out_anywhere_is_a_resource_error_and_the_next_frame_works(
    kind: str, opened: Callable[..., NativeSegmenter], standin: Standin, frames: list[UInt8Array]
) -> None:
    def open_and_segment(passed: int) -> str:
        standin.fail(kind, passed)
        try:
            with opened() as native:
                try:
                    native.segment(frames[0])
                except ResourceError as error:
                    np.testing.assert_array_equal(native.segment(frames[0]).labels, expected)
                    return str(error)
        except ResourceError as error:
            return str(error)
        return ""

    with opened() as native:
        expected = native.segment(frames[0]).labels
    messages = [open_and_segment(passed) for passed in range(COLD_ALLOCATIONS[kind] + 1)]
    function = {"device": "cudaMalloc", "pinned": "cudaMallocHost"}[kind]
    text = (
        f"the GPU has no room left: {function} says cudaErrorMemoryAllocation (out of memory); end other programs on the "
        "GPU, use smaller frames, or build a bundle of a smaller --size"
    )
    assert messages == [text] * COLD_ALLOCATIONS[kind] + [""]


@pytest.mark.parametrize(
    ("kind", "text"), [("infer", "shapes: it misses []: it gave no reason"), ("address", "address of ")]
)
def test_a_fault_at_a_new_size_is_a_bundle_error_and_the_size_works_next_time(
    kind: str, text: str, opened: Callable[..., NativeSegmenter], standin: Standin, frames: list[UInt8Array]
) -> None:
    smaller = np.ascontiguousarray(frames[0][:100])
    with opened() as native:
        expected = native.segment(smaller).labels
        native.segment(frames[0])
        standin.fail(kind, {"infer": 0, "address": 23}[kind])
        code, message = refusal(lambda: native.segment(smaller))
        assert (code, f"stage 'readout_guided' failed at {text}" in message) == (3, True), message
        np.testing.assert_array_equal(native.segment(smaller).labels, expected)


LOADING = {
    "load": (4, "cannot load engines/tensorrt-sm89/scores-", ": the plan is damaged; build it again with: nerve-build engines "),
    "load memory": (6, "cannot load engines/tensorrt-sm89/scores-", ": an allocation failed: out of memory; end other programs"),
    "context": (6, "cannot prepare engines/tensorrt-sm89/scores-", ": an allocation failed: out of memory; end other programs"),
    "runtime": (4, "TensorRT 10.16.1.11 cannot start: it gave no reason", "built with the headers of this version"),
    "stream": (4, "TensorRT cannot use a GPU: cudaStreamCreateWithFlags says cudaErrorInvalidValue", "check the driver"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LOADING)
def test_what_cannot_be_loaded_is_an_error_of_its_kind_and_opening_again_works(
    kind: str, opened: Callable[..., NativeSegmenter], standin: Standin
) -> None:
    code, first, second = LOADING[kind]
    standin.fail(kind)
    got, message = refusal(opened)
    assert (got, first in message, second in message) == (code, True, True), message
    opened().close()


def test_a_gpu_that_is_not_there_is_named(opened: Callable[..., NativeSegmenter]) -> None:
    code, message = refusal(lambda: opened(device=3))
    assert code == 4
    assert message.startswith(
        "TensorRT cannot use a GPU: cudaSetDevice says cudaErrorInvalidDevice (invalid device ordinal);"
    )


@pytest.fixture(scope="module")
def fault_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nvinfer_faults.cc and all that it uses of ours with the address sanitizer."""
    missing = missing_for_build()
    if missing is not None:
        pytest.skip(missing)
    folder = build_against_standins("asan", *ASAN)
    program = tmp_path_factory.mktemp("faults") / "nvinfer_faults"
    source, standins = Path(__file__).with_name("nvinfer_faults.cc"), folder / "standins"
    run("g++", "-std=c++17", "-O1", *STRICT, *ASAN, f"-I{INCLUDE}", source, folder / "libnerve.so", standins / "libcudart.so",
        f"-Wl,-rpath,{folder}:{standins}", "-pthread", "-o", program)  # fmt: skip
    return program


OPENED_STAGES = 8
"""Of between=follow, the read-out included."""


def test_no_fault_leaves_memory_or_reads_beyond_it(
    fault_program: Path, onnxruntime_library: Path, compiled_bundle: Path, vocabularies: dict[str, Path], ledger: Ledger
) -> None:
    env = {"STANDIN_ONNXRUNTIME": str(onnxruntime_library)}
    output = run(fault_program, compiled_bundle, vocabularies["few"], env=env)
    chances = {line.rpartition(" ")[0]: int(line.rpartition(" ")[2]) for line in output.splitlines()}
    assert set(chances) == set(FAULTS)
    assert min(chances.values()) > 0
    assert chances["load"] == chances["load memory"] == chances["context"] == OPENED_STAGES


def test_the_stand_in_notices_an_address_that_is_not_held(standin_folder: Path, standin: Standin) -> None:
    before = standin.counts()["misuses"]
    cuda = ctypes.CDLL(str(standin_folder / "standins" / "libcudart.so"))
    address = ctypes.c_void_p()
    assert cuda.cudaMalloc(ctypes.byref(address), ctypes.c_size_t(8)) == 0
    assert cuda.cudaFree(address) == 0
    assert cuda.cudaFree(address) != 0
    assert standin.counts()["misuses"] == before + 1
    assert standin.misuse() == "memory is freed that is not held"
    counts = standin.counts
    standin.counts = lambda: {**counts(), "misuses": before}  # type: ignore[method-assign]  # this one was wanted
