"""`nerve-build deepstream`: the folder that it writes, and what it refuses."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from typer.testing import CliRunner

from nerve_bench.world.scenes import make_scene
from nerve_export.cli.build import app
from nerve_export.deepstream.application import constant_inputs, write_application
from nerve_export.deepstream.graph import FrameGraph, frame_graph
from nerve_export.deepstream.vocabulary import read_vocabulary
from nerve_runtime.bundle.manifest import Manifest, manifest_bytes
from nerve_runtime.bundle.spec import TensorSpec
from nerve_runtime.errors import BundleError, NerveError, ResourceError, UsageError
from nerve_runtime.vocabulary.text_bank import text_sha256
from nerve_runtime.vocabulary.vocabulary_file import vocabulary_bytes
from tests.unit.nerve_export.deepstream.conftest import NAMES, bank
from tests.unit.nerve_export.deepstream.library import Library

pytestmark = pytest.mark.onnx

# Of the plugin's manual, section "Gst-nvinferserver configuration file specifications".
DOCUMENTED = """
infer_config unique_id gpu_ids max_batch_size backend triton model_name version model_repo root strict_model_config grpc
url enable_cuda_buffer_sharing output_mem_type preprocess network_format tensor_order tensor_name maintain_aspect_ratio
frame_scaling_hw frame_scaling_filter normalize scale_factor postprocess labelfile_path other extra
copy_input_to_host_buffers output_buffer_pool_size custom_process_funcion custom_lib path input_control process_mode
interval output_control output_tensor_meta
"""
SIZES = {"c": 3, "k": 2, "r": 4}


def _run_graph(path: Path, inputs: dict[str, Any]) -> list[Any]:
    import onnxruntime

    return list(onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, inputs))


def test_the_application_gives_the_labels_of_the_bundles_own_graph(
    bundle: Path, application: Path, manifest: Manifest, library: Library
) -> None:
    graph = frame_graph(manifest, SIZES)
    frame = make_scene(2_000_003, size_px=manifest.geometry.working_hw[0], close_up=False).rgb[np.newaxis]
    filled = {}
    for tensor in graph.inputs[1:]:
        status, filled[tensor.name] = library.fill(tensor.name, graph.dims(tensor), np.dtype(tensor.dtype))
        assert status == 0
    model = application / "model_repository" / "nerve_frame" / "1" / "model.onnx"
    labels, confidence = _run_graph(model, {"frame": frame, **filled})
    method = manifest.method
    words = bank(manifest)
    numbers = ("tau", "alpha", "beta", "head_temperature", "threshold")
    own_labels, own_confidence = _run_graph(
        bundle / "frame.onnx",
        {
            "frame": frame,
            "text_embeddings": words.text_embeddings,
            "class_rows": words.class_rows,
            "class_mask": words.class_mask,
            **{name: np.array(getattr(method, name), np.float32) for name in numbers},
        },
    )
    assert len(np.unique(own_labels)) > 1
    before = library.attached() // 2
    assert library.finish(labels, confidence, 1) == 0
    found = library.read(before, manifest.geometry.working_hw)
    np.testing.assert_array_equal(found.class_map, own_labels)
    np.testing.assert_array_equal(found.confidence, own_confidence)


def test_the_folder_holds_all_that_the_device_needs(application: Path, library: Library) -> None:
    names = sorted(path.relative_to(application).as_posix() for path in application.rglob("*") if path.is_file())
    assert names == sorted(
        [
            "Makefile", "README.md", "config_infer_nerve.txt", "labels.txt", "libnerve_deepstream.so", "nerve_deepstream.cc",
            "nerve_meta.h", "nerve_tensors.cc", "nerve_tensors.h", "segment.sh", "model_repository/nerve_frame/config.pbtxt",
            "model_repository/nerve_frame/1/model.onnx", "inputs/alpha.bin", "inputs/beta.bin", "inputs/class_mask.bin",
            "inputs/class_rows.bin", "inputs/head_temperature.bin", "inputs/tau.bin", "inputs/text_embeddings.bin",
            "inputs/threshold.bin", ".nerve-deepstream",
        ]
    )  # fmt: skip
    assert (application / "labels.txt").read_text().splitlines() == list(NAMES)
    assert "**Untested on hardware.**" in (application / "README.md").read_text()


def test_the_configuration_has_documented_fields_only(application: Path) -> None:
    text = re.sub(r"#.*", "", (application / "config_infer_nerve.txt").read_text())
    assert text.count("{") == text.count("}") > 5
    assert set(re.findall(r"(\w+)\s*(?:\{|:)", text)) - set(DOCUMENTED.split()) == set()
    assert 'tensor_name: "frame"' in text


def test_the_script_is_one_that_a_shell_reads(application: Path) -> None:
    script = application / "segment.sh"
    assert script.stat().st_mode & 0o111
    subprocess.run(["sh", "-n", script], check=True)
    ended = subprocess.run([script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr.split(" ")[0]) == (2, "usage:")


def test_a_server_takes_the_place_of_the_models_own_folder(bundle: Path, vocabulary: Path, tmp_path: Path) -> None:
    out = write_application(bundle, vocabulary, tmp_path / "app", url="gpu-box:8001", force=False)
    text = (out / "config_infer_nerve.txt").read_text()
    assert 'grpc { url: "gpu-box:8001" enable_cuda_buffer_sharing: false }' in text
    assert "model_repo" not in text


def _batched(manifest: Manifest) -> FrameGraph:
    graph = frame_graph(manifest, SIZES)

    def with_batch(tensor: TensorSpec) -> TensorSpec:
        axes = tensor.axes[1:] if tensor.name == "frame" else tensor.axes
        return tensor.model_copy(update={"axes": ("b", *axes)})

    inputs, outputs = (tuple(map(with_batch, group)) for group in (graph.inputs, graph.outputs))
    return replace(graph, inputs=inputs, outputs=outputs, max_batch=4)


@pytest.mark.parametrize("is_batched", [False, True])
def test_triton_reads_the_configuration_of_the_model(manifest: Manifest, is_batched: bool) -> None:
    protocol = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="not installed: tritonclient[grpc]")
    text_format = pytest.importorskip("google.protobuf.text_format", reason="not installed: protobuf")
    graph = _batched(manifest) if is_batched else frame_graph(manifest, SIZES)
    config = text_format.Parse(graph.config(), protocol.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == (
        "nerve_frame",
        "onnxruntime",
        4 if is_batched else 0,
    )
    inputs = {tensor.name: tensor for tensor in config.input}
    height, width = manifest.geometry.working_hw
    assert list(inputs["frame"].dims) == [*([] if is_batched else [1]), height, width, 3]
    assert list(inputs["class_rows"].dims) == [3, 2]
    assert list(inputs["tau"].dims) == [1]
    # A number of each frame is a scalar for the model; without batches Triton has no scalars.
    assert inputs["tau"].HasField("reshape") == is_batched
    assert [list(tensor.dims) for tensor in config.output] == [[height, width]] * 2


def test_without_a_background_nothing_falls_below_the_threshold(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / "words.safetensors"
    path.write_bytes(vocabulary_bytes(bank(manifest, has_background=False), text_sha256(manifest)))
    assert constant_inputs(manifest, read_vocabulary(path, manifest))["threshold"] == 0


def test_an_application_is_replaced_on_request_only(bundle: Path, vocabulary: Path, tmp_path: Path) -> None:
    out = write_application(bundle, vocabulary, tmp_path / "app", url=None, force=False)
    (out / "left.txt").touch()
    with pytest.raises(UsageError, match="is there already; replace it with --force, or choose another --out"):
        write_application(bundle, vocabulary, out, url=None, force=False)
    write_application(bundle, vocabulary, out, url=None, force=True)
    assert not (out / "left.txt").exists()
    assert _names(tmp_path) == ["app"]


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize("name", ["precious.txt", "config_infer_nerve.txt"])
def test_a_folder_of_something_else_is_left_alone(bundle: Path, vocabulary: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "app"
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(
        BundleError, match="exists and is no application that nerve-build deepstream wrote; choose another"
    ):
        write_application(bundle, vocabulary, out, url=None, force=True)
    assert (_names(tmp_path), _names(out)) == (["app"], [name])


def test_an_empty_folder_is_filled(bundle: Path, vocabulary: Path, tmp_path: Path) -> None:
    write_application(bundle, vocabulary, tmp_path, url=None, force=False)
    assert (tmp_path / "Makefile").is_file()


def test_an_application_that_a_killed_builder_moved_aside_is_put_back(
    bundle: Path, vocabulary: Path, tmp_path: Path
) -> None:
    out = write_application(bundle, vocabulary, tmp_path / "app", url=None, force=False)
    (out / "mine.txt").write_text("kept")
    out.rename(tmp_path / ".app.old.1.tmp")
    (tmp_path / ".app.1.tmp").mkdir()
    with pytest.raises(UsageError, match="is there already"):
        write_application(bundle, vocabulary, out, url=None, force=False)
    assert (out / "mine.txt").read_text() == "kept"
    assert _names(tmp_path) == ["app"]


def test_two_builders_of_one_application_do_not_meet(bundle: Path, vocabulary: Path, tmp_path: Path) -> None:
    out = write_application(bundle, vocabulary, tmp_path / "app", url=None, force=False)
    (out / "mine.txt").write_text("kept")
    with (
        FileLock(tmp_path / ".app.lock"),
        pytest.raises(ResourceError, match=r"another nerve-build is writing .*app; wait for it"),
    ):
        write_application(bundle, vocabulary, out, url=None, force=True)
    assert (out / "mine.txt").read_text() == "kept"
    write_application(bundle, vocabulary, out, url=None, force=True)


def test_a_link_is_kept_and_what_it_leads_to_is_replaced(bundle: Path, vocabulary: Path, tmp_path: Path) -> None:
    write_application(bundle, vocabulary, tmp_path / "real", url=None, force=False)
    (tmp_path / "app").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "left.txt").touch()
    write_application(bundle, vocabulary, tmp_path / "app", url=None, force=True)
    assert (tmp_path / "app").is_symlink()
    assert not (tmp_path / "real" / "left.txt").exists()


def test_a_damaged_bundle_leaves_nothing_behind(bundle: Path, vocabulary: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "bundle"
    shutil.copytree(bundle, damaged)
    with (damaged / "frame.onnx").open("r+b") as stream:
        stream.write(b"X")
    with pytest.raises(BundleError, match=r"frame\.onnx: sha256"):
        write_application(damaged, vocabulary, tmp_path / "app", url=None, force=False)
    assert _names(tmp_path) == ["bundle"]


def test_the_bundle_itself_is_no_place_for_an_application(bundle: Path, vocabulary: Path) -> None:
    with pytest.raises(UsageError, match="lies within the bundle, which holds nothing but its own files"):
        write_application(bundle, vocabulary, bundle / "app", url=None, force=False)


@pytest.mark.parametrize("inside", ["bundle", "vocabulary"])
def test_what_an_application_is_made_of_is_not_deleted_with_the_one_that_is_replaced(
    bundle: Path, vocabulary: Path, tmp_path: Path, inside: str
) -> None:
    out = write_application(bundle, vocabulary, tmp_path / "app", url=None, force=False)
    given = {"bundle": bundle, "vocabulary": vocabulary}
    copied = shutil.copytree if inside == "bundle" else shutil.copyfile
    given[inside] = Path(copied(given[inside], out / "mine"))
    with pytest.raises(UsageError, match=r"mine lies within .*app, which would be replaced"):
        write_application(**given, out=out, url=None, force=True)
    assert (out / "mine").exists()


def test_a_folder_that_cannot_be_made_is_told_in_a_sentence(bundle: Path, vocabulary: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ResourceError, match=r"cannot write .*file/app"):
        write_application(bundle, vocabulary, tmp_path / "file" / "app", url=None, force=False)


def test_a_bundle_without_the_graph_is_refused(
    bundle: Path, manifest: Manifest, vocabulary: Path, tmp_path: Path
) -> None:
    stages = {name: record for name, record in manifest.stages.items() if name != "frame"}
    (tmp_path / "manifest.json").write_bytes(manifest_bytes(manifest.model_copy(update={"stages": stages})))
    with pytest.raises(BundleError, match="has no graph 'frame', which an application runs"):
        write_application(tmp_path, vocabulary, tmp_path / "app", url=None, force=False)


def test_folders_above_are_made(bundle: Path, vocabulary: Path, tmp_path: Path) -> None:
    assert (write_application(bundle, vocabulary, tmp_path / "a" / "b", url=None, force=False) / "Makefile").is_file()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda content: content[:-4], "was changed or cut"),
        (lambda content: content.replace(b"nerve-vocabulary", b"nerve-vocabulorY"), "was changed or cut"),
        (lambda _: b"", "is no file of nerve-vocab"),
    ],
)
def test_a_damaged_vocabulary_is_refused(
    manifest: Manifest, vocabulary: Path, tmp_path: Path, damage: Any, sentence: str
) -> None:
    path = tmp_path / "words.safetensors"
    path.write_bytes(damage(vocabulary.read_bytes()))
    with pytest.raises(UsageError, match=sentence):
        read_vocabulary(path, manifest)


def test_a_vocabulary_of_another_bundle_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / "words.safetensors"
    path.write_bytes(vocabulary_bytes(bank(manifest), "0" * 64))
    with pytest.raises(UsageError, match="was made with the text graph of another bundle; write it with nerve-vocab"):
        read_vocabulary(path, manifest)


@pytest.mark.parametrize(
    "changes",
    [
        {"text_embeddings": lambda embeddings: np.where(embeddings > 1e9, embeddings, np.nan).astype(np.float32)},
        {"text_embeddings": lambda embeddings: np.ascontiguousarray(embeddings[:, 1:])},
        {"text_embeddings": lambda embeddings: embeddings[:3]},
        {"class_rows": lambda rows: rows - 1},
        {"class_rows": lambda rows: rows[:2]},
    ],
    ids=["not finite", "too narrow", "a row that is not there", "a row below 0", "a name without rows"],
)
def test_a_vocabulary_that_the_graph_cannot_read_is_refused(
    manifest: Manifest, tmp_path: Path, changes: dict[str, Any]
) -> None:
    words = bank(manifest)
    changed = {name: change(getattr(words, name)) for name, change in changes.items()}
    path = tmp_path / "words.safetensors"
    path.write_bytes(vocabulary_bytes(replace(words, **changed), text_sha256(manifest)))
    with pytest.raises(UsageError, match=r"expected finite embeddings \(r, \d+\) and a row of them for each name"):
        read_vocabulary(path, manifest)


def test_more_classes_than_the_bundle_takes_are_refused(manifest: Manifest, vocabulary: Path) -> None:
    geometry = manifest.geometry.model_copy(update={"max_classes": 2})
    with pytest.raises(UsageError, match="has 3 classes, the bundle takes up to 2"):
        read_vocabulary(vocabulary, manifest.model_copy(update={"geometry": geometry}))


def test_a_missing_vocabulary_is_named(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(NerveError, match=r"vocabulary .*none is no file of at most"):
        read_vocabulary(tmp_path / "none", manifest)


def test_the_command_prints_the_folder(bundle: Path, vocabulary: Path, tmp_path: Path) -> None:
    out = tmp_path / "app"
    ended = CliRunner().invoke(app, ["deepstream", str(bundle), "--vocabulary", str(vocabulary), "--out", str(out)])
    assert (ended.exit_code, ended.stdout) == (0, f"{out}\n")
