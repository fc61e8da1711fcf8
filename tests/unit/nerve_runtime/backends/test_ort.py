from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nerve_runtime.backends import BackendOptions, open_backend
from nerve_runtime.backends.ort import OrtBackend
from nerve_runtime.bundle.manifest import Manifest, load_manifest
from nerve_runtime.bundle.spec import StageSpec
from nerve_runtime.errors import BundleError, CompatibilityError, ResourceError, UsageError
from tests.data.fake_bundle import make_fake_bundle
from tests.data.hand_made_graphs import DOUBLING, PLANES, doubling, manifest_of, planes, scalar, tensor


@pytest.fixture
def own_bundle(tmp_path: Path) -> Path:
    return make_fake_bundle(tmp_path / "bundle")


@pytest.mark.onnx
def test_a_graph_runs_on_arrays_of_any_number_of_rows(own_bundle: Path) -> None:
    doubling(own_bundle / "text.onnx")
    manifest = manifest_of(own_bundle, "text", DOUBLING)
    with open_backend("auto", own_bundle, manifest, BackendOptions(threads=1)) as backend:
        assert backend.describe().startswith("auto chose ort: onnxruntime ")
        assert backend.describe().endswith("CPUExecutionProvider, threads 1")
        session = backend.open_session("text")
        first = session.run({"x": np.ones((2, 3), dtype=np.float32), "factor": scalar(2)})["y"]
        strided = np.arange(30, dtype=np.float32).reshape(5, 6)[:, ::2]
        second = session.run({"x": strided, "factor": scalar(3)})["y"]
    np.testing.assert_array_equal(first, np.full((2, 3), 2))  # not overwritten by the second run
    np.testing.assert_array_equal(second, 3 * strided)
    with pytest.raises(UsageError, match="this back end was closed"):
        backend.open_session("text")


@pytest.mark.onnx
def test_an_output_whose_size_follows_from_values_is_given_too(own_bundle: Path) -> None:
    planes(own_bundle / "readout.onnx")
    with OrtBackend(own_bundle, manifest_of(own_bundle, "readout", PLANES)) as backend:
        session = backend.open_session("readout")
        assert session.run({"size_hw": np.array([4, 7])})["plane"].shape == (4, 7)


@pytest.mark.onnx
def test_a_graph_with_other_tensors_than_its_manifest_is_refused(own_bundle: Path) -> None:
    doubling(own_bundle / "text.onnx")
    other = StageSpec(inputs=(tensor("x", "n", 3),), outputs=(tensor("z", "n", 3),))
    with pytest.raises(
        BundleError, match=r"has inputs \['factor', 'x'\] and outputs \['y'\], the manifest says \['x'\]"
    ):
        OrtBackend(own_bundle, manifest_of(own_bundle, "text", other)).open_session("text")


@pytest.mark.onnx
def test_a_graph_that_gives_another_shape_than_its_manifest_fails_by_name(own_bundle: Path) -> None:
    doubling(own_bundle / "text.onnx", ("n", "d"))
    wrong = StageSpec(inputs=DOUBLING.inputs, outputs=(tensor("y", "n", 5),))
    session = OrtBackend(own_bundle, manifest_of(own_bundle, "text", wrong)).open_session("text")
    with pytest.raises(BundleError, match="stage 'text' failed: "):
        session.run({"x": np.ones((2, 3), dtype=np.float32), "factor": scalar(1)})


@pytest.mark.onnx
@pytest.mark.parametrize("content", [b"", b"\x00\xff\x12" * 40, b"plain text, no graph"])
def test_bytes_that_are_no_graph_are_refused_even_with_the_right_hash(own_bundle: Path, content: bytes) -> None:
    (own_bundle / "text.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"text\.onnx is not a whole ONNX graph"):
        OrtBackend(own_bundle, manifest_of(own_bundle, "text", DOUBLING)).open_session("text")


@pytest.mark.onnx
@pytest.mark.parametrize(
    ("said", "kind", "expected"),
    [
        ("opset 23 is under development", CompatibilityError, "update onnxruntime, or build the bundle with --opset"),
        ("the shape is odd", BundleError, r"text\.onnx is not a graph that onnxruntime can open: the shape is odd"),
    ],
)
def test_what_onnxruntime_refuses_is_a_matter_of_versions_or_of_the_bundle(
    own_bundle: Path, monkeypatch: pytest.MonkeyPatch, said: str, kind: type[Exception], expected: str
) -> None:
    import onnxruntime

    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError(said)

    doubling(own_bundle / "text.onnx")
    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(kind, match=expected):
        OrtBackend(own_bundle, manifest_of(own_bundle, "text", DOUBLING)).open_session("text")


@pytest.mark.onnx
def test_external_data_are_verified_before_the_graph_is_opened(own_bundle: Path) -> None:
    doubling(own_bundle / "text.onnx")
    (own_bundle / "text.data").write_bytes(b"weights")
    manifest = manifest_of(own_bundle, "text", DOUBLING, external_data=("text.data",))
    OrtBackend(own_bundle, manifest).open_session("text")
    (own_bundle / "text.data").write_bytes(b"Weights")
    with pytest.raises(BundleError, match=r"text\.data: sha256 .* the file was changed"):
        OrtBackend(own_bundle, manifest).open_session("text")


@pytest.mark.onnx
def test_a_bundle_in_a_folder_whose_name_the_locale_cannot_decode_is_opened(tmp_path: Path) -> None:
    make_fake_bundle(tmp_path / "bundle").rename(tmp_path / "bö")
    folder = tmp_path / "b\udcc3\udcb6"  # the same name as Python gives it where the locale is ASCII
    doubling(folder / "text.onnx")
    with OrtBackend(folder, manifest_of(folder, "text", DOUBLING)) as backend:
        assert backend.open_session("text").stage == "text"


@pytest.mark.onnx
def test_a_bundle_in_a_folder_whose_name_is_not_utf_8_is_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = make_fake_bundle(tmp_path / "bundle").rename(tmp_path / "b\udcff")
    doubling(folder / "text.onnx")
    with pytest.raises(UsageError, match=r"opens files by names in UTF-8 only.*rename or move the bundle"):
        OrtBackend(folder, manifest_of(folder, "text", DOUBLING)).open_session("text")


@pytest.mark.onnx
def test_a_missing_stage_is_named(own_bundle: Path) -> None:
    manifest = load_manifest(own_bundle)
    without = manifest.model_copy(update={"stages": {"text": manifest.stages["text"]}})
    with pytest.raises(BundleError, match="the bundle has no stage 'frame', only text"):
        OrtBackend(own_bundle, without).open_session("frame")


@pytest.mark.onnx
def test_a_run_after_a_stop_ends_with_an_error(own_bundle: Path) -> None:
    doubling(own_bundle / "text.onnx")
    backend = OrtBackend(own_bundle, manifest_of(own_bundle, "text", DOUBLING))
    session = backend.open_session("text")
    backend.stop()
    with pytest.raises(BundleError, match="terminate"):
        session.run({"x": np.ones((2, 3), dtype=np.float32), "factor": scalar(1)})


@pytest.mark.onnx
def test_cuda_is_refused_where_onnxruntime_has_none(bundle: Path, manifest: Manifest) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA: the refusal cannot be seen here")
    with pytest.raises(CompatibilityError, match=r"has no CUDAExecutionProvider, only .*CPUExecutionProvider"):
        open_backend("ort", bundle, manifest, BackendOptions(providers="cuda"))


class FallenBack:
    """What the library makes of a GPU that is not there: a session on the processor."""

    def __init__(self, path: str, options: Any, providers: list[str], enable_fallback: int) -> None:
        return

    def disable_fallback(self) -> None:
        return

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


@pytest.mark.onnx
def test_a_silent_move_to_the_processor_is_an_error(own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    doubling(own_bundle / "text.onnx")
    manifest = manifest_of(own_bundle, "text", DOUBLING)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", FallenBack)
    with pytest.raises(CompatibilityError, match="would run on CPUExecutionProvider, not on CUDAExecutionProvider"):
        open_backend("ort", own_bundle, manifest, BackendOptions(providers="cuda")).open_session("text")


@pytest.mark.onnx
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("Failed to allocate memory for buffer")])
def test_memory_that_runs_out_is_said_to_be_so(
    own_bundle: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    import onnxruntime

    def refuse(*arguments: object, **options: object) -> None:
        raise error

    doubling(own_bundle / "text.onnx")
    session = OrtBackend(own_bundle, manifest_of(own_bundle, "text", DOUBLING)).open_session("text")
    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", refuse)
    with pytest.raises(ResourceError, match=r"stage 'text' ran out of memory: .*use smaller frames or fewer classes"):
        session.run({"x": np.ones((2, 3), dtype=np.float32), "factor": scalar(1)})
    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(ResourceError, match=r"not enough memory to open text\.onnx"):
        OrtBackend(own_bundle, manifest_of(own_bundle, "text", DOUBLING)).open_session("text")
