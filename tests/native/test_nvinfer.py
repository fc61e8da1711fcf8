"""TensorRT itself from C, on stand-ins: ONNX Runtime's labels, tensors that stay on the GPU, Python's refusals, faults."""

import ctypes
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nerve_bench.doubles.cuda_runtime import FakeCudart
from nerve_bench.doubles.engines import FAKE_CUDA, TENSORRT_VERSION
from nerve_bench.doubles.tensorrt import FakeTrt
from nerve_runtime import NerveError, ResourceError, Segmenter, Temporal
from nerve_runtime.backends.tensorrt.backend import TrtBackend
from nerve_runtime.bundle.ledger import Ledger
from nerve_runtime.bundle.manifest import Manifest, load_manifest
from nerve_runtime.frames import UInt8Array
from tests.data.tiny_bundle import batch_bundle_folder
from tests.native.binding import READOUTS, NativeSegmenter, open_library, params_for
from tests.native.building import ASAN, INCLUDE, STRICT, missing_for_build, run
from tests.native.parity_set import CLASSES, WAYS, case_steps, parity_frames
from tests.native.standin import CLASS_SLOTS, FAULTS, Standin, add_engines, build_against_standins

pytestmark = [pytest.mark.native, pytest.mark.slow]
TENSORRT_NATIVE = 3
STOPPED = "stage '{}' was told to stop"
ELSEWHERE = ", or trust whoever built it with trust_engines=True"
UNCHECKED = ", or run it as it is with allow_unchecked=True"
"""What Python offers besides; the C interface has no such options."""


@pytest.fixture(scope="session")
def standin_folder() -> Path:
    """The folder of libnerve.so, built against the stand-ins."""
    missing = missing_for_build()
    if missing is not None:
        pytest.skip(missing)
    return build_against_standins("release")


@pytest.fixture(scope="module")
def library(standin_folder: Path) -> ctypes.CDLL:
    """The C library with TensorRT, opened."""
    return open_library(standin_folder / "libnerve.so")


@pytest.fixture
def standin(
    library: ctypes.CDLL, standin_folder: Path, onnxruntime_library: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Standin]:
    """The stand-ins; checks that they were used as TensorRT has to be used, and that all was given back."""
    monkeypatch.setenv("STANDIN_ONNXRUNTIME", str(onnxruntime_library))
    standin = Standin(standin_folder / "standins")
    standin.become()
    before = standin.counts()
    yield standin
    standin.no_faults()
    after = standin.counts()
    assert after["misuses"] == before["misuses"], standin.misuse()
    for name in ("device_blocks", "pinned_blocks", "engines", "contexts", "streams"):
        assert after[name] == before[name], name


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """This user's list of engines, for the time of a test."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return Ledger()


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle without engines."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture
def compiled_bundle(bundle: Path, ledger: Ledger) -> Path:
    """The same with an approved engine for each stage."""
    add_engines(bundle, ledger)
    return bundle


@pytest.fixture
def opened(
    library: ctypes.CDLL,
    onnxruntime_library: Path,
    standin: Standin,
    compiled_bundle: Path,
    vocabularies: dict[str, Path],
) -> Callable[..., NativeSegmenter]:
    """Opens the bundle's engines with the vocabulary `few`."""

    def open_engines(temporal: Temporal | None = None, **fields: Any) -> NativeSegmenter:
        params = params_for(library, onnxruntime_library, temporal, provider=TENSORRT_NATIVE, **fields)
        native = NativeSegmenter.open(library, compiled_bundle, params)
        try:
            native.set_vocabulary(vocabularies["few"])
        except NerveError:
            native.close()
            raise
        return native

    return open_engines


def refusal(call: Callable[[], object]) -> tuple[int, str]:
    """Code and message of what a call raises."""
    with pytest.raises(NerveError) as caught:
        call()
    return caught.value.exit_code, str(caught.value)


@pytest.mark.parametrize("way", WAYS)
def test_labels_equal_those_of_onnxruntime_on_every_pixel(
    way: str,
    opened: Callable[..., NativeSegmenter],
    tiny_bundle: Path,
    vocabularies: dict[str, Path],
    frames: list[UInt8Array],
) -> None:
    with opened(WAYS[way]) as native:
        used = "few"
        for step in case_steps(tiny_bundle, WAYS[way], vocabularies, frames):
            if step.vocabulary != used:
                used = step.vocabulary
                native.set_vocabulary(vocabularies[used])
            result = native.segment(step.rgb, flow=step.flow, time_s=float(step.time_s))
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
        for step in case_steps(tiny_bundle, WAYS["follow"], vocabularies, frames):
            native.set_vocabulary(vocabularies[step.vocabulary])
            result = native.segment(step.rgb, flow=step.flow, time_s=float(step.time_s))
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


Change = Callable[[Path, Ledger, Standin], object]
REFUSED: dict[str, Change] = {
    "not built here": lambda bundle, ledger, standin: add_engines(bundle),
    "another built here": lambda bundle, ledger, standin: (add_engines(bundle, ledger), _touch_engines(bundle)),
    "no engines": lambda bundle, ledger, standin: None,
    "engines of another family": lambda bundle, ledger, standin: add_engines(bundle, ledger, rtx=True),
    "another version": lambda bundle, ledger, standin: (add_engines(bundle, ledger), standin.become("10.16.2.3")),
    "another gpu": lambda bundle, ledger, standin: (add_engines(bundle, ledger), standin.become(capability="120")),
    "another system": lambda bundle, ledger, standin: add_engines(bundle, ledger, os_arch="linux-riscv64"),
    "another graph": lambda bundle, ledger, standin: add_engines(bundle, ledger, onnx_sha256="0" * 64),
    "failed parity": lambda bundle, ledger, standin: add_engines(bundle, ledger, parity="failed"),
    "never compared": lambda bundle, ledger, standin: add_engines(bundle, ledger, parity="not run"),
    "a damaged ledger": lambda bundle, ledger, standin: (add_engines(bundle, ledger), ledger.path.write_text("{}")),
    "a ledger with more": lambda bundle, ledger, standin: (
        add_engines(bundle, ledger), ledger.path.write_text(ledger.path.read_text().replace("{", '{"more": 1,', 1)),
    ),
    "a ledger that is cut": lambda bundle, ledger, standin: (
        add_engines(bundle, ledger), ledger.path.write_text(ledger.path.read_text()[:-9]),
    ),
    "a ledger that is a folder": lambda bundle, ledger, standin: (add_engines(bundle), _folder(ledger.path)),
    "a ledger behind a file": lambda bundle, ledger, standin: (
        add_engines(bundle), ledger.path.parent.parent.write_text(""),
    ),
    "an engine that was changed": lambda bundle, ledger, standin: (
        add_engines(bundle, ledger), _spoil_file(bundle / _engine_path(bundle, "scores")),
    ),
    "an engine that is a link": lambda bundle, ledger, standin: (
        add_engines(bundle, ledger), _link(bundle / _engine_path(bundle, "scores")),
    ),
    "TensorRT of another major version": lambda bundle, ledger, standin: (add_engines(bundle, ledger), standin.become("8.6.1.6")),
}  # fmt: skip


def _engine_path(bundle: Path, stage: str) -> str:
    return next(record.path for record in load_manifest(bundle).engines if record.stage == stage)


def _touch_engines(bundle: Path) -> Manifest:
    """Other engines than those of the ledger."""
    return add_engines(bundle, spoil=dict.fromkeys(load_manifest(bundle).stages, b"another"))


def _spoil_file(path: Path) -> int:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    return path.write_bytes(content)


def _link(path: Path) -> Path:
    kept = path.rename(path.with_suffix(".kept"))
    path.symlink_to(kept)
    return kept


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.parametrize("change", REFUSED)
def test_an_engine_is_refused_in_pythons_words(
    change: str, library: ctypes.CDLL, onnxruntime_library: Path, standin: Standin, bundle: Path, ledger: Ledger
) -> None:
    REFUSED[change](bundle, ledger, standin)
    manifest = load_manifest(bundle)
    version = {"another version": "10.16.2.3", "TensorRT of another major version": "8.6.1.6"}.get(
        change, TENSORRT_VERSION
    )
    cudart = FakeCudart((12, 0)) if change == "another gpu" else FakeCudart()

    def of_python() -> None:
        trt = FakeTrt(manifest, cudart, version=version, rtx=False)
        with TrtBackend(bundle, manifest, library="tensorrt", trt=trt, cudart=cudart, ledger=ledger) as backend:
            backend.open_session("scores")

    def of_c() -> None:
        params = params_for(library, onnxruntime_library, provider=TENSORRT_NATIVE)
        NativeSegmenter.open(library, bundle, params).close()

    code, message = refusal(of_python)
    assert refusal(of_c) == (code, message.replace(ELSEWHERE, "").replace(UNCHECKED, ""))


def test_the_ledger_of_a_user_without_xdg_data_home_is_in_their_home(
    library: ctypes.CDLL,
    onnxruntime_library: Path,
    standin: Standin,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path))
    ledger = Ledger()
    assert ledger.path == tmp_path / ".local/share/nerve-deploy/engines.json"
    add_engines(bundle, ledger)
    NativeSegmenter.open(library, bundle, params_for(library, onnxruntime_library, provider=TENSORRT_NATIVE)).close()


ALIEN: dict[str, tuple[tuple[bytes, bytes], int, str]] = {
    "no header": ((b"standin engine", b"nothing of ours"), 4, "cannot load engines/tensorrt-sm89/{}: the plan has no header of this library; build it again with: nerve-build engines "),
    "other inputs": ((b"input frame", b"input image"), 3, "has inputs ['image'] and outputs ['head_affinity', 'local_weights']; it is not what its manifest says"),
    "another type": ((b"input frame 5", b"input frame 0"), 3, "has 'frame' as FLOAT (1, 128, 128, 3), not uint8 (1, 128, 128, 3); it is not what"),
    "another size": ((b"device 4 1 128", b"device 4 1 129"), 3, "has 'frame' as UINT8 (1, 129, 128, 3), not uint8 (1, 128, 128, 3); it is not what"),
    "an output on the host": ((b"local_weights 0 device", b"local_weights 0 host"), 3, "has 'local_weights' in the memory of the host; it is not what"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ALIEN)
def test_an_engine_that_is_not_what_its_manifest_says_is_refused(
    kind: str, library: ctypes.CDLL, onnxruntime_library: Path, standin: Standin, bundle: Path, ledger: Ledger
) -> None:
    (old, new), code, expected = ALIEN[kind]
    add_engines(bundle)
    content = (bundle / _engine_path(bundle, "attention")).read_bytes()
    add_engines(bundle, ledger, spoil={"attention": content.replace(old, new, 1)})
    params = params_for(library, onnxruntime_library, provider=TENSORRT_NATIVE)
    got, message = refusal(lambda: NativeSegmenter.open(library, bundle, params))
    assert got == code
    assert expected.format(Path(_engine_path(bundle, "attention")).name) in message


def test_an_engine_of_another_profile_than_the_manifest_lists_is_refused(
    library: ctypes.CDLL, onnxruntime_library: Path, standin: Standin, bundle: Path, ledger: Ledger
) -> None:
    add_engines(bundle, class_slots=16)
    content = (bundle / _engine_path(bundle, "mix")).read_bytes()
    add_engines(bundle, ledger, spoil={"mix": content})
    params = params_for(library, onnxruntime_library, provider=TENSORRT_NATIVE)
    code, message = refusal(lambda: NativeSegmenter.open(library, bundle, params))
    assert code == 3
    sizes = [f"[[{slots}, 1024], [{slots}, 1024], [{slots}, 1024]]" for slots in (16, CLASS_SLOTS)]
    assert (
        f"takes 'seed_scores' in {sizes[0]}, the manifest says {sizes[1]}; it is not what its manifest says" in message
    )


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
