"""A model repository says what the manifest says, is written whole, and replaces nothing but one of its kind."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from nerve_export.cli.build import app
from nerve_export.triton.repository import MARK, write_repository
from nerve_export.triton.settings import Settings
from nerve_runtime.bundle.manifest import file_sha256, load_manifest
from nerve_runtime.errors import BundleError, CompatibilityError, ResourceError, UsageError
from tests.data.fake_bundle import STAGES, make_fake_bundle

SCALARS = ("tau", "alpha", "beta", "head_temperature", "threshold")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_fake_bundle(tmp_path / "bundle")


def config_of(folder: Path, model: str) -> Any:
    """The config.pbtxt of a model, parsed by the protobuf of Triton."""
    definitions = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="tritonclient is not installed")
    from google.protobuf import text_format  # type: ignore[import-untyped]  # comes with tritonclient

    text = (folder / model / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, definitions.ModelConfig())


def test_every_stage_and_nerve_are_models_that_triton_can_read(bundle: Path, tmp_path: Path) -> None:
    written = write_repository(bundle, tmp_path / "models", Settings())
    assert written.models == (*STAGES, "nerve")
    for model in written.models:
        assert config_of(written.path, model).name == model
    assert {path.name for path in written.path.iterdir()} == {*written.models, "README.md", MARK}


def test_without_a_batch_axis_frame_has_a_queue_and_no_batches(bundle: Path, tmp_path: Path) -> None:
    write_repository(bundle, tmp_path / "models", Settings(max_queue=5, queue_timeout_ms=70))
    config = config_of(tmp_path / "models", "frame")
    assert (config.platform, config.max_batch_size) == ("onnxruntime_onnx", 0)
    assert [list(tensor.dims) for tensor in config.input][:3] == [[1, 32, 48, 3], [-1, 8], [-1, -1]]
    scalars = [tensor for tensor in config.input if tensor.name in SCALARS]
    assert [(list(tensor.dims), tensor.HasField("reshape")) for tensor in scalars] == [([1], False)] * 5
    policy = config.dynamic_batching.default_queue_policy
    assert (policy.max_queue_size, policy.default_timeout_microseconds, policy.timeout_action) == (5, 70_000, 0)
    assert list(config.dynamic_batching.preferred_batch_size) == []
    assert [list(warm_up.inputs) != [] for warm_up in config.model_warmup] == [True]
    assert "--max-batch N" in (tmp_path / "models" / "frame" / "config.pbtxt").read_text()
    assert not config_of(tmp_path / "models", "walk").HasField("dynamic_batching")


def test_with_a_batch_axis_requests_are_batched(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path / "bundle", max_batch=4)
    write_repository(bundle, tmp_path / "models", Settings(queue_delay_us=700))
    for model in ("frame", "scores", "attention"):
        config = config_of(tmp_path / "models", model)
        assert config.max_batch_size == 4
        assert list(config.dynamic_batching.preferred_batch_size) == [2, 4]
        assert config.dynamic_batching.max_queue_delay_microseconds == 700
        assert config.dynamic_batching.HasField("default_queue_policy") == (model == "frame")
        assert sorted(warm_up.batch_size for warm_up in config.model_warmup) == [1, 4]
    config = config_of(tmp_path / "models", "frame")
    dims = {tensor.name: list(tensor.dims) for tensor in (*config.input, *config.output)}
    assert dims["frame"] == [32, 48, 3]
    assert dims["class_rows"] == [-1, -1]
    assert dims["tau"] == [1]
    assert {tensor.name for tensor in config.input if tensor.HasField("reshape")} == set(SCALARS)
    assert config_of(tmp_path / "models", "mix").max_batch_size == 0


def test_instances_and_kind_are_those_asked_for(bundle: Path, tmp_path: Path) -> None:
    write_repository(bundle, tmp_path / "models", Settings(kind="gpu", instances=3))
    group = config_of(tmp_path / "models", "walk").instance_group[0]
    assert (group.count, group.KIND_GPU) == (3, group.kind)
    nerve = config_of(tmp_path / "models", "nerve")
    assert nerve.parameters["stages_on_gpu"].string_value == "true"
    assert nerve.instance_group[0].kind == nerve.instance_group[0].KIND_CPU


def test_with_a_batch_axis_tensors_come_back_from_the_gpu_where_it_is_taken_off(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path / "bundle", max_batch=4)
    write_repository(bundle, tmp_path / "models", Settings(kind="gpu"))
    assert config_of(tmp_path / "models", "nerve").parameters["stages_on_gpu"].string_value == "false"


def test_nerve_has_places_for_twice_the_sequences_and_every_control(bundle: Path, tmp_path: Path) -> None:
    write_repository(bundle, tmp_path / "models", Settings(sequences=5, processes=2, idle_s=2.5))
    config = config_of(tmp_path / "models", "nerve")
    assert (config.backend, config.max_batch_size) == ("python", 6)
    assert config.instance_group[0].count == 2
    assert config.parameters["most_sequences"].string_value == "3"
    assert config.sequence_batching.HasField("direct")
    assert config.sequence_batching.max_sequence_idle_microseconds == 2_500_000
    assert [control.name for control in config.sequence_batching.control_input] == ["START", "END", "READY", "CORRID"]
    assert all(tensor.optional and tensor.allow_ragged_batch for tensor in config.input)
    assert [tensor.name for tensor in config.output][:3] == ["labels", "confidence", "class_names"]
    assert config.output[0].data_type == config.output[1].data_type


def test_wide_labels_are_16_bit(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path / "bundle", max_classes=300)
    write_repository(bundle, tmp_path / "models", Settings())
    config = config_of(tmp_path / "models", "nerve")
    assert config.output[0].data_type == config.output[1].data_type + 1  # TYPE_UINT16 follows TYPE_UINT8


def test_nerve_has_manifest_and_tokenizer_of_its_own_beside_it(bundle: Path, tmp_path: Path) -> None:
    write_repository(bundle, tmp_path / "models", Settings())
    folder = tmp_path / "models" / "nerve" / "1"
    assert load_manifest(folder) == load_manifest(bundle)
    assert file_sha256(folder / "tokenizer.json") == file_sha256(bundle / "tokenizer.json")
    assert (folder / "tokenizer.json").stat().st_nlink == 1
    assert "TritonPythonModel" in (folder / "model.py").read_text()


def with_shared_data(bundle: Path) -> None:
    """Let two graphs of a bundle share a file of 1000 bytes."""
    (bundle / "shared.data").write_bytes(b"x" * 1000)
    manifest = json.loads((bundle / "manifest.json").read_text())
    for stage in ("scores", "frame"):
        manifest["stages"][stage]["external_data"] = ["shared.data"]
    manifest["files"]["shared.data"] = {"bytes": 1000, "sha256": file_sha256(bundle / "shared.data")}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_shared_data_lies_beside_each_graph_and_once_on_the_disk(bundle: Path, tmp_path: Path) -> None:
    before = write_repository(bundle, tmp_path / "before", Settings()).bytes
    with_shared_data(bundle)
    written = write_repository(bundle, tmp_path / "models", Settings())
    copies = [written.path / stage / "1" / "shared.data" for stage in ("scores", "frame")]
    assert copies[0].samefile(copies[1])
    assert not copies[0].samefile(bundle / "shared.data")
    manifests = [
        (folder / "nerve" / "1" / "manifest.json").stat().st_size for folder in (written.path, tmp_path / "before")
    ]
    assert written.bytes - before - (manifests[0] - manifests[1]) == 1000


def test_without_hard_links_the_data_is_copied(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_shared_data(bundle)

    def refuse(*_: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    write_repository(bundle, tmp_path / "models", Settings())
    assert (tmp_path / "models" / "frame" / "1" / "shared.data").read_bytes() == b"x" * 1000


def test_a_damaged_graph_leaves_nothing_behind(bundle: Path, tmp_path: Path) -> None:
    (bundle / "walk.onnx").write_bytes(b"other bytes of walk.")
    with pytest.raises(BundleError, match=r"walk\.onnx"):
        write_repository(bundle, tmp_path / "out" / "models", Settings())
    assert [path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".lock"] == []


def test_only_a_repository_of_ours_is_replaced_and_only_by_force(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "models"
    write_repository(bundle, out, Settings())
    (out / "of an older one").touch()
    with pytest.raises(UsageError, match="--force"):
        write_repository(bundle, out, Settings())
    write_repository(bundle, out, Settings(), force=True)
    assert not (out / "of an older one").exists()
    (out / MARK).unlink()
    with pytest.raises(BundleError, match="no repository that nerve-build triton wrote"):
        write_repository(bundle, out, Settings(), force=True)
    with pytest.raises(UsageError, match="within the bundle"):
        write_repository(bundle, bundle / "models", Settings())
    assert not [path for path in bundle.iterdir() if path.suffix == ".lock"]


def test_a_bundle_within_the_repository_is_not_deleted_with_it(bundle: Path, tmp_path: Path) -> None:
    out = write_repository(bundle, tmp_path / "models", Settings()).path
    inside = shutil.copytree(bundle, out / "bundle")
    with pytest.raises(UsageError, match=r"bundle lies within .*models, which would be replaced"):
        write_repository(inside, out, Settings(), force=True)
    assert (inside / "manifest.json").is_file()


def test_two_builders_of_one_repository_do_not_meet(bundle: Path, tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / ".models.lock"),
        pytest.raises(ResourceError, match=r"another nerve-build is writing .*models; wait for it"),
    ):
        write_repository(bundle, tmp_path / "models", Settings())


def test_a_place_where_nothing_can_be_made_is_not_called_busy(bundle: Path) -> None:
    with pytest.raises(ResourceError, match=r"cannot write beside /proc/x: .*No such file or directory"):
        write_repository(bundle, Path("/proc/x"), Settings())


def test_the_greatest_numbers_are_written_as_triton_reads_them(bundle: Path, tmp_path: Path) -> None:
    most = 2**31 - 1
    settings = Settings(None, "cpu", most, most, most, most, most // 2, 1, 999_999.0)
    write_repository(bundle, tmp_path / "models", settings)
    assert config_of(tmp_path / "models", "frame").dynamic_batching.default_queue_policy.max_queue_size == most
    assert config_of(tmp_path / "models", "nerve").max_batch_size == most - 1


def test_a_link_to_a_repository_is_kept(bundle: Path, tmp_path: Path) -> None:
    write_repository(bundle, tmp_path / "real", Settings())
    (tmp_path / "models").symlink_to(tmp_path / "real")
    write_repository(bundle, tmp_path / "models", Settings(), force=True)
    assert (tmp_path / "models").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")) == []


def test_a_repository_that_a_killed_builder_moved_aside_is_put_back(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "models"
    write_repository(bundle, out, Settings())
    (out / "mine.txt").write_text("kept")
    out.rename(tmp_path / ".models.old.1.tmp")
    with pytest.raises(UsageError, match="is there already"):
        write_repository(bundle, out, Settings())
    assert (out / "mine.txt").read_text() == "kept"


def test_a_full_disk_is_one_sentence_and_the_old_one_stays(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "models"
    write_repository(bundle, out, Settings())

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(ResourceError, match="No space left on device"):
        write_repository(bundle, out, Settings(), force=True)
    assert (out / "frame" / "1" / "model.onnx").is_file()


def engine_lines(stage: str, version: str) -> dict[str, Any]:
    profile = {"scores": {"class_mask": [[32]] * 3}, "readout": {"size_hw": [[1, 1], [480, 640], [2048, 2048]]}}
    return {
        "stage": stage, "target": "tensorrt-sm89", "path": f"engines/{stage}.engine", "key": "0" * 64,
        "onnx_sha256": "0" * 64, "backend_version": version, "gpu": "sm89", "os_arch": "linux-x86_64",
        "precision": "fp32", "profile": profile.get(stage, {}), "builder_options": {},
    }  # fmt: skip


def with_engines(bundle: Path, stages: list[str], version: str = "tensorrt 10.5.0") -> None:
    """List an engine for each of the stages."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "engines").mkdir(exist_ok=True)
    manifest["engines"] = [engine_lines(stage, version) for stage in stages]
    for stage in stages:
        path = bundle / "engines" / f"{stage}.engine"
        path.write_bytes(f"engine of {stage}".encode())
        manifest["files"][f"engines/{stage}.engine"] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_engines_are_plans_and_their_limits_are_nerves(bundle: Path, tmp_path: Path) -> None:
    with_engines(bundle, list(STAGES))
    write_repository(bundle, tmp_path / "models", Settings("tensorrt-sm89", "gpu"))
    config = config_of(tmp_path / "models", "walk")
    assert (config.platform, config.default_model_filename) == ("tensorrt_plan", "model.plan")
    assert (tmp_path / "models" / "walk" / "1" / "model.plan").read_bytes() == b"engine of walk"
    nerve = config_of(tmp_path / "models", "nerve")
    assert (nerve.parameters["class_slots"].string_value, nerve.parameters["readout_limit_px"].string_value) == (
        "32",
        "2048",
    )
    assert "tensorrt 10.5.0" in (tmp_path / "models" / "README.md").read_text()


@pytest.mark.parametrize(
    ("stages", "version", "sentence"),
    [
        ([], "", "has no engines for target 'tensorrt-sm89', it has none"),
        (["walk"], "tensorrt 10.5.0", "no engine of text, scores"),
        (list(STAGES), "tensorrt-rtx 1.7", "Triton runs those of TensorRT only"),
    ],
)
def test_engines_that_triton_cannot_serve_are_refused(
    bundle: Path, tmp_path: Path, stages: list[str], version: str, sentence: str
) -> None:
    if stages:
        with_engines(bundle, stages, version)
    with pytest.raises(CompatibilityError, match=sentence):
        write_repository(bundle, tmp_path / "models", Settings("tensorrt-sm89", "gpu"))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"kind": "npu"}, "kind is 'npu'"),
        ({"instances": 0}, "instances is 0"),
        ({"max_queue": 0}, "max-queue is 0"),
        ({"max_queue": 2**31}, "max-queue is 2147483648, expected at most 2147483647"),
        ({"queue_timeout_ms": 2**31}, "queue-timeout-ms is 2147483648, expected at most 2147483647"),
        ({"sequences": 2**30}, "sequences is 1073741824, expected at most 1073741823"),
        ({"idle_s": 0.5}, "idle-s is 0.5"),
        ({"target": "tensorrt-sm89"}, "--kind gpu"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Settings(**wrong)


def test_the_command_prints_one_line(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "models"
    ended = CliRunner().invoke(app, ["triton", str(bundle), "--out", str(out), "--json"])
    assert ended.exit_code == 0, ended.output
    line = json.loads(ended.stdout)
    assert (line["path"], line["models"][-1]) == (str(out), "nerve")
    ended = CliRunner().invoke(app, ["triton", str(bundle), "--out", str(out), "--force"])
    assert ended.stdout == f"{out}  16 models, {line['bytes'] / 1e6:.2f} MB\n"
