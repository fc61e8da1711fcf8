import inspect
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nerve_runtime import backends
from nerve_runtime.backends import BackendOptions, Session, base, open_backend, register_backend
from nerve_runtime.backends.fake import FakeBackend, Faults
from nerve_runtime.backends.ort import OrtBackend
from nerve_runtime.bundle.manifest import FileRecord, Manifest, StageRecord, file_sha256, load_manifest
from nerve_runtime.bundle.spec import Array, StageSpec, TensorSpec
from nerve_runtime.errors import BundleError, CompatibilityError, ResourceError, UsageError
from nerve_runtime.segmenter import Segmenter
from tests.data.fake_bundle import HEADS, POOLED_KEYS, TEXT_WIDTH, TOKENS, WORKING_HW, make_fake_bundle


def run(manifest: Manifest, stage: Any, **tensors: Array) -> dict[str, Array]:
    with FakeBackend(manifest) as backend:
        return backend.open_session(stage).run(tensors)


def words(classes: int) -> dict[str, Array]:
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((classes, TEXT_WIDTH)).astype(np.float32)
    return {
        "text_embeddings": rows / np.linalg.norm(rows, axis=1, keepdims=True),
        "class_rows": np.arange(classes)[:, None],
        "class_mask": np.ones(classes, dtype=np.bool_),
    }


def scalar(value: float) -> Array:
    return np.array(value, dtype=np.float32)


@pytest.fixture
def frame() -> Array:
    return np.random.default_rng(4).integers(0, 256, (1, *WORKING_HW, 3), dtype=np.uint8)


def test_the_fakes_numbers_obey_the_laws(manifest: Manifest, frame: Array) -> None:
    seeds = run(manifest, "scores", frame=frame, tau=scalar(20), **words(4))["seed_scores"]
    np.testing.assert_allclose(seeds.sum(axis=0), 1, rtol=1e-5)
    looked = run(manifest, "attention", frame=frame)
    np.testing.assert_allclose(looked["head_affinity"].sum(axis=2), 1, rtol=1e-5)
    np.testing.assert_allclose(looked["local_weights"].sum(axis=0), 1, rtol=1e-5)
    mixed = run(manifest, "mix", head_affinity=looked["head_affinity"], seed_scores=seeds, head_temperature=scalar(1))
    np.testing.assert_allclose(mixed["affinity"].sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(mixed["head_weights"].sum(), 1, rtol=1e-5)
    assert ((mixed["head_entropies"] >= 0) & (mixed["head_entropies"] <= 1)).all()
    common = {"affinity": mixed["affinity"], "local_weights": looked["local_weights"], "beta": scalar(0.5)}
    walked = run(manifest, "walk", seed_scores=seeds, alpha=scalar(0.8), **common)["label_scores"]
    np.testing.assert_allclose(walked.sum(axis=0), 1, rtol=1e-4)
    still = run(manifest, "walk", seed_scores=seeds, alpha=scalar(0), **common)["label_scores"]
    np.testing.assert_allclose(still, seeds)
    constant = np.full_like(seeds, 0.25)
    same = run(manifest, "walk", seed_scores=constant, alpha=scalar(0.8), **common)["label_scores"]
    np.testing.assert_allclose(same, 0.25, rtol=1e-4)


def test_a_masked_class_gets_exactly_nothing(manifest: Manifest, frame: Array) -> None:
    masked = words(4) | {"class_mask": np.array([True, False, True, True])}
    seeds = run(manifest, "scores", frame=frame, tau=scalar(20), **masked)["seed_scores"]
    assert (seeds[1] == 0).all()
    np.testing.assert_allclose(seeds.sum(axis=0), 1, rtol=1e-5)


def test_the_single_graph_of_the_fake_is_its_stages_in_a_row(manifest: Manifest, frame: Array) -> None:
    scalars = {name: scalar(0.5) for name in ("tau", "alpha", "beta", "head_temperature")}
    outputs = run(manifest, "frame", frame=frame, **words(3), **scalars, threshold=scalar(0))
    assert outputs["labels"].shape == WORKING_HW
    assert set(np.unique(outputs["labels"])) <= {0, 1, 2}


def test_a_wrong_tensor_is_named_with_what_was_expected(manifest: Manifest, frame: Array) -> None:
    with pytest.raises(
        UsageError, match=r"stage 'attention' input 'frame' is float32 .*, expected uint8 \(1, 32, 48, 3\)"
    ):
        run(manifest, "attention", frame=frame.astype(np.float32))
    with pytest.raises(UsageError, match=r"got tensors \['picture'\], expected \['frame'\]"):
        run(manifest, "attention", picture=frame)


def test_a_letter_may_not_take_two_sizes(manifest: Manifest, frame: Array) -> None:
    short = words(4) | {"class_mask": np.ones(3, dtype=np.bool_)}
    with pytest.raises(UsageError, match=r"'class_mask' is bool \(3,\), expected bool \(c\), axis c being 4"):
        run(manifest, "scores", frame=frame, tau=scalar(20), **short)


class OddSession(Session):
    def compute(self, tensors: Any, sizes: Any, host: Any) -> dict[str, Array]:
        return {"head_affinity": np.zeros((HEADS, TOKENS, POOLED_KEYS), dtype=np.float32)}


def test_an_output_that_breaks_the_manifest_is_the_bundles_fault(manifest: Manifest, frame: Array) -> None:
    with pytest.raises(BundleError, match=r"the graph is not what its manifest says, rebuild the bundle"):
        OddSession("attention", manifest.stages["attention"].spec).run({"frame": frame})


def test_a_fake_that_is_told_to_stop_ends_the_run_in_flight(manifest: Manifest, frame: Array) -> None:
    backend = FakeBackend(manifest, Faults(seconds_per_run=30))
    session = backend.open_session("attention")
    threading.Timer(0.05, backend.stop).start()
    started = time.monotonic()
    with pytest.raises(BundleError, match="was told to stop"):
        session.run({"frame": frame})
    assert time.monotonic() - started < 5


def test_a_back_end_is_opened_by_name_or_refused(bundle: Path, manifest: Manifest) -> None:
    assert open_backend("fake", bundle, manifest).describe().startswith("fake: ")
    with pytest.raises(UsageError, match="backend is 'onnx', expected one of auto, ort, tensorrt, rtx, fake"):
        open_backend("onnx", bundle, manifest)
    with pytest.raises(UsageError, match="providers is 'gpu', expected cpu or cuda"):
        BackendOptions(providers="gpu")  # type: ignore[arg-type]  # as a user would
    with pytest.raises(UsageError, match="threads is -1, expected 0"):
        BackendOptions(threads=-1)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(backends, "_FACTORIES", dict(backends._FACTORIES))


@pytest.mark.usefixtures("registry")
def test_the_example_of_a_back_end_runs_as_it_stands(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = inspect.cleandoc(base.__doc__ or "").partition("ONNX Runtime:\n\n")[2].partition("\n\n`Segmenter")[0]
    exec(textwrap.dedent(example.replace('open_backend("ort"', 'open_backend("fake"')), {})
    with Segmenter.open(bundle, ["red", "sky"], backend="printing", cache_dir=None) as segmenter:
        segmenter.segment(np.zeros((20, 30, 3), dtype=np.uint8))
        assert segmenter.backend == "printing: fake: numpy stand-in for tests, its labels mean nothing"
    shown = capsys.readouterr().out
    assert f"scores {{'frame': (1, {WORKING_HW[0]}, {WORKING_HW[1]}, 3)" in shown
    assert [line.partition(" ")[0] for line in shown.splitlines()] == [
        "text",
        "attention",
        "scores",
        "mix",
        "walk",
        "readout",
    ]


@pytest.mark.usefixtures("registry")
def test_a_back_end_of_your_own_gets_the_options_and_is_named_in_messages(bundle: Path, manifest: Manifest) -> None:
    opened = []

    def mine(folder: Path, manifest: Manifest, options: BackendOptions) -> FakeBackend:
        opened.append((folder, options.threads))
        return FakeBackend(manifest)

    register_backend("mine", mine)
    open_backend("mine", bundle, manifest, BackendOptions(threads=3))
    assert opened == [(bundle, 3)]
    with pytest.raises(UsageError, match=r"backend is 'yours', expected one of auto, ort, .*mine"):
        open_backend("yours", bundle, manifest)


@pytest.mark.parametrize("taken", ["ort", "auto", "fake"])
def test_a_name_that_is_taken_is_not_registered_again(taken: str) -> None:
    with pytest.raises(UsageError, match=f"a back end '{taken}' is registered already; choose another name"):
        register_backend(taken, lambda bundle, manifest, options: FakeBackend(manifest))


def test_options_beside_an_opened_back_end_are_refused(bundle: Path, manifest: Manifest) -> None:
    with pytest.raises(UsageError, match="backend_options are for a back end opened by name"):
        Segmenter.open(bundle, ["a", "b"], backend=FakeBackend(manifest), backend_options=BackendOptions(threads=2))


def test_a_missing_library_is_named_with_how_to_install_it(
    bundle: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CompatibilityError, match=r'onnxruntime cannot be imported .*pip install "nerve-deploy\[ort\]"'):
        open_backend("ort", bundle, manifest)


# ONNX Runtime, with graphs made by hand: `text` doubles its input, `readout` makes planes of a size it is told.


def save_graph(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], opset: int = 20) -> None:
    import onnx

    graph = onnx.helper.make_graph(nodes, "by_hand", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    model.ir_version = 10
    onnx.save(model, str(path))


def doubling(path: Path, axes: tuple[Any, ...] = ("n", 3), **options: Any) -> None:
    import onnx

    node = onnx.helper.make_node("Mul", ["x", "factor"], ["y"])
    kind = onnx.TensorProto.FLOAT
    values = {name: onnx.helper.make_tensor_value_info(name, kind, axes) for name in ("x", "y")}
    factor = onnx.helper.make_tensor_value_info("factor", kind, [])
    save_graph(path, [node], [values["x"], factor], [values["y"]], **options)


def planes(path: Path) -> None:
    import onnx

    fill = onnx.helper.make_node("ConstantOfShape", ["size_hw"], ["plane"])
    size = onnx.helper.make_tensor_value_info("size_hw", onnx.TensorProto.INT64, [2])
    plane = onnx.helper.make_tensor_value_info("plane", onnx.TensorProto.FLOAT, ["H", "W"])
    save_graph(path, [fill], [size], [plane])


def tensor(name: str, *axes: Any, dtype: Any = "float32") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, axes=axes)


DOUBLING = StageSpec(inputs=(tensor("x", "n", 3), tensor("factor")), outputs=(tensor("y", "n", 3),))
PLANES = StageSpec(inputs=(tensor("size_hw", 2, dtype="int64"),), outputs=(tensor("plane", "H", "W"),))


def manifest_of(bundle: Path, stage: Any, spec: StageSpec, **record: Any) -> Manifest:
    """The bundle's manifest with one stage that says `spec`, and the files as they are now."""
    manifest = load_manifest(bundle)
    stages = {**manifest.stages, stage: StageRecord(onnx=f"{stage}.onnx", spec=spec, gmac=0, **record)}
    files = {
        path.name: FileRecord(bytes=path.stat().st_size, sha256=file_sha256(path))
        for path in bundle.iterdir()
        if path.name != "manifest.json"
    }
    return manifest.model_copy(update={"stages": stages, "files": files})


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
