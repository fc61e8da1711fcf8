"""Graphs that give what nobody asked for, files made to take memory, and callbacks that call back."""

import ctypes
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nerve_runtime import BundleError, CompatibilityError, UsageError
from nerve_runtime.vocabulary.vocabulary_file import VOCABULARY_SHA256
from tests.data.fake_bundle import STAGES, write_manifest
from tests.native.binding import NativeSegmenter, PictureOfC, ResultOfC, Warning_, open_library, params_for
from tests.native.building import run
from tests.native.small_bundle import BODIES, READ_OUT, graph_bytes, make_small_bundle

pytestmark = pytest.mark.native
CLASSES = "red; sky; green"
FRAME = np.full((20, 30, 3), 90, dtype=np.uint8)


@pytest.fixture(scope="module")
def library(native_library: Path) -> ctypes.CDLL:
    """The C library, opened."""
    return open_library(native_library)


@pytest.fixture
def opened(library: ctypes.CDLL, onnxruntime_library: Path, tmp_path: Path) -> Iterator[NativeSegmenter]:
    """A segmenter of a sound small bundle."""
    bundle = make_small_bundle(tmp_path / "bundle")
    with NativeSegmenter.open(library, bundle, params_for(library, onnxruntime_library)) as native:
        yield native


def label(library: ctypes.CDLL, onnxruntime: Path, bundle: Path) -> None:
    """Open a bundle, set classes, label a frame by the bilinear read-out."""
    with NativeSegmenter.open(library, bundle, params_for(library, onnxruntime, readout=1)) as native:
        native.set_classes(CLASSES)
        native.segment(FRAME)


LOST = READ_OUT.replace("labels", "lost")
ODD_BODIES: dict[str, dict[Any, str]] = {
    "no rows of labels": {
        "readout": LOST + "nothing = Constant<value_ints=[0]>() labels = Slice(lost, nothing, nothing)",
    },
    "labels twice as high": {"readout": LOST + "labels = Concat<axis=0>(lost, lost)"},
    "more rows of scores than classes": {"walk": "label_scores = Concat<axis=0>(seed_scores, seed_scores)"},
    "embeddings of fewer words": {"text": "values = Cast<to=1>(token_ids) all = MatMul(values, words) one = Constant<value_ints=[0]>() text_embeddings = Gather(all, one)"},
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_BODIES)
def test_what_a_graph_gives_is_compared_with_what_was_asked_for(
    name: str, library: ctypes.CDLL, onnxruntime_library: Path, tmp_path: Path
) -> None:
    bundle = make_small_bundle(tmp_path / "bundle", ODD_BODIES[name])
    with pytest.raises(BundleError, match="rebuild the bundle"):
        label(library, onnxruntime_library, bundle)


def change_spec(stage: str, side: str, place: int, line: str, value: object) -> Callable[[dict[str, Any]], None]:
    """A change of one line of a tensor in the manifest."""

    def change(lines: dict[str, Any]) -> None:
        lines["stages"][stage]["spec"][side][place][line] = value

    return change


@pytest.mark.parametrize(
    ("stage", "place", "line", "value", "cast"),
    [
        ("walk", 0, "dtype", "uint8", "label_scores"),
        ("text", 0, "dtype", "uint8", "text_embeddings"),
        ("readout", 1, "dtype", "int64", "confidence"),
        ("readout", 2, "dtype", "float32", "finite"),
    ],
)
def test_a_type_that_manifest_and_graph_agree_on_is_refused_where_the_runtime_needs_another(
    stage: Any,
    place: int,
    line: str,
    value: str,
    cast: str,
    library: ctypes.CDLL,
    onnxruntime_library: Path,
    tmp_path: Path,
) -> None:
    bundle = make_small_bundle(tmp_path / "bundle")
    numbers = {"uint8": 2, "int64": 7, "float32": 1}
    spec = STAGES[stage].model_copy(deep=True)
    outputs = list(spec.outputs)
    outputs[place] = outputs[place].model_copy(update={line: value})
    body = BODIES[stage].replace(f"{cast} =", "before =", 1) + f" {cast} = Cast<to={numbers[value]}>(before)"
    changed = spec.model_copy(update={"outputs": tuple(outputs)})
    (bundle / f"{stage}.onnx").write_bytes(graph_bytes(stage, changed, body))
    write_manifest(bundle)
    path = bundle / "manifest.json"
    lines = json.loads(path.read_text())
    change_spec(stage, "outputs", place, line, value)(lines)
    path.write_text(json.dumps(lines))
    with pytest.raises(BundleError, match="expected"):
        label(library, onnxruntime_library, bundle)


def test_an_output_of_another_name_is_a_fault_of_the_bundle(
    library: ctypes.CDLL, onnxruntime_library: Path, tmp_path: Path
) -> None:
    bundle = make_small_bundle(tmp_path / "bundle")
    spec = STAGES["walk"]
    named = spec.model_copy(update={"outputs": (spec.outputs[0].model_copy(update={"name": "scores"}),)})
    (bundle / "walk.onnx").write_bytes(graph_bytes("walk", named, "scores = Mul(seed_scores, alpha)"))
    write_manifest(bundle)
    path = bundle / "manifest.json"
    lines = json.loads(path.read_text())
    change_spec("walk", "outputs", 0, "name", "scores")(lines)
    path.write_text(json.dumps(lines))
    with pytest.raises(BundleError, match="no tensor 'label_scores'"):
        label(library, onnxruntime_library, bundle)


def test_a_file_of_millions_of_values_is_refused_before_it_takes_memory(
    opened: NativeSegmenter, tmp_path: Path
) -> None:
    header = b'{"__metadata__":{"sha256":"' + b"0" * 64 + b'"},"a":[' + b"0," * 3_000_000 + b"0]}"
    path = tmp_path / "large.safetensors"
    path.write_bytes(VOCABULARY_SHA256.filled_in(len(header).to_bytes(8, "little") + header))
    with pytest.raises(UsageError, match="is no valid safetensors file"):
        opened.set_vocabulary(path)


def test_who_is_warned_may_set_classes(library: ctypes.CDLL, onnxruntime_library: Path, tmp_path: Path) -> None:
    bundle = make_small_bundle(tmp_path / "bundle")
    heard: list[str] = []

    def on_warning(user: Any, message: bytes) -> None:
        heard.append(message.decode())
        native.set_classes("red; sky")

    params = params_for(library, onnxruntime_library, on_warning=Warning_(on_warning))
    with NativeSegmenter.open(library, bundle, params) as native:
        native.set_classes("zebra; " + "red " * 40 + "; sky")
        assert native.segment(FRAME).valid
    assert heard[0].endswith("tokens and is cut; shorten it")


@pytest.mark.parametrize("stride", [0, 89, -89])
def test_a_stride_that_cannot_be_is_refused(stride: int, opened: NativeSegmenter, library: ctypes.CDLL) -> None:
    opened.set_classes(CLASSES)
    labels = np.zeros((20, 30), dtype=np.uint8)
    frame = PictureOfC(ctypes.sizeof(PictureOfC), FRAME.ctypes.data, 20, 30, stride, 0, float("nan"), None)
    result = ResultOfC(ctypes.sizeof(ResultOfC), labels.ctypes.data, labels.nbytes, None)
    code = library.nerve_segment(opened.handle, ctypes.byref(frame), ctypes.byref(result))
    assert code == 2
    assert b"frame.stride is" in library.nerve_last_error()


def test_what_is_left_out_is_named(opened: NativeSegmenter, library: ctypes.CDLL) -> None:
    assert library.nerve_segment(opened.handle, None, None) == 2
    assert library.nerve_last_error() == b"frame is NULL, expected a pointer"
    assert library.nerve_set_classes(opened.handle, None, None) == 2
    assert library.nerve_get_info(None, None) == 2
    library.nerve_close(None)
    with pytest.raises(UsageError, match="no classes are set"):
        opened.segment(FRAME)


def test_labels_without_room_are_refused(opened: NativeSegmenter, library: ctypes.CDLL) -> None:
    opened.set_classes(CLASSES)
    labels = np.zeros(599, dtype=np.uint8)
    frame = PictureOfC(ctypes.sizeof(PictureOfC), FRAME.ctypes.data, 20, 30, 90, 0, float("nan"), None)
    result = ResultOfC(ctypes.sizeof(ResultOfC), labels.ctypes.data, labels.nbytes, None)
    assert library.nerve_segment(opened.handle, ctypes.byref(frame), ctypes.byref(result)) == 2
    assert b"has room for 599 bytes, the labels of this frame take 600" in library.nerve_last_error()


def test_a_frame_that_needs_a_flow_and_has_none_says_so(
    library: ctypes.CDLL, onnxruntime_library: Path, tmp_path: Path
) -> None:
    bundle = make_small_bundle(tmp_path / "bundle")
    params = params_for(library, onnxruntime_library)
    library.nerve_params_video(ctypes.byref(params))
    with NativeSegmenter.open(library, bundle, params) as native:
        native.set_classes(CLASSES)
        native.segment(FRAME)
        with pytest.raises(UsageError, match="the frame has no flow"):
            native.segment(FRAME)
        assert native.segment(FRAME).keyframe


@pytest.mark.parametrize(
    ("name", "sentence"), [("libm.so.6", "is not ONNX Runtime"), ("no-such.so", "cannot be loaded")]
)
def test_a_library_that_is_not_onnx_runtime_is_refused(
    name: str, sentence: str, library: ctypes.CDLL, tmp_path: Path
) -> None:
    params = params_for(library, Path(name))
    with pytest.raises(Exception, match=sentence) as raised:
        NativeSegmenter.open(library, make_small_bundle(tmp_path / "bundle"), params)
    assert raised.value.exit_code == 4  # type: ignore[attr-defined]


def test_row_13_an_onnx_runtime_that_is_too_old_is_refused(
    library: ctypes.CDLL, onnxruntime_library: Path, tmp_path: Path
) -> None:
    source = tmp_path / "old.c"
    source.write_text(
        "static const void *api(unsigned version) { return version > 20 ? (void *)0 : (void *)1; }\n"
        'static const char *version(void) { return "1.20.1"; }\n'
        "static const struct { const void *(*api)(unsigned); const char *(*version)(void); } BASE = {api, version};\n"
        "const void *OrtGetApiBase(void) { return &BASE; }\n"
    )
    run("gcc", "-shared", "-fPIC", source, "-o", tmp_path / "libold.so")
    with pytest.raises(CompatibilityError, match=r"onnxruntime 1\.20\.1 is older than the API"):
        NativeSegmenter.open(
            library, make_small_bundle(tmp_path / "bundle"), params_for(library, tmp_path / "libold.so")
        )
