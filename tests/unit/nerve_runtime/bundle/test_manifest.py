import json
import os
from pathlib import Path
from typing import Any

import pytest

from nerve_runtime.backends.fake import FakeBackend
from nerve_runtime.backends.ort import OrtBackend
from nerve_runtime.bundle.manifest import MANIFEST_LIMIT_BYTES, load_manifest, verify_file
from nerve_runtime.errors import BundleError
from tests.data.fake_bundle import STAGES, make_fake_bundle


@pytest.fixture
def own_bundle(tmp_path: Path) -> Path:
    return make_fake_bundle(tmp_path / "bundle")


def rewrite(bundle: Path, **changes: Any) -> None:
    path = bundle / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


@pytest.mark.parametrize("sixteenths", range(16))
def test_a_file_cut_anywhere_is_refused_by_its_size(own_bundle: Path, sixteenths: int) -> None:
    graph = own_bundle / "walk.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(whole[: len(whole) * sixteenths // 16])
    with pytest.raises(BundleError, match=rf"walk\.onnx: size \d+ bytes != manifest {len(whole)}"):
        verify_file(own_bundle, load_manifest(own_bundle), "walk.onnx")


def test_every_flipped_bit_is_caught(own_bundle: Path) -> None:
    manifest = load_manifest(own_bundle)
    graph = own_bundle / "walk.onnx"
    whole = graph.read_bytes()
    caught = 0
    for position in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[position // 8] ^= 1 << position % 8
        graph.write_bytes(bytes(changed))
        with pytest.raises(BundleError, match=r"sha256 .* != manifest .*the file was changed"):
            verify_file(own_bundle, manifest, "walk.onnx")
        caught += 1
    assert caught == 8 * len(whole)


@pytest.mark.onnx
def test_a_cut_graph_never_reaches_onnxruntime(own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.delattr(onnxruntime, "InferenceSession")
    (own_bundle / "walk.onnx").write_bytes(b"cut")
    with OrtBackend(own_bundle, load_manifest(own_bundle)) as backend, pytest.raises(BundleError, match="size 3 bytes"):
        backend.open_session("walk")


@pytest.mark.parametrize("content", [b"", b"\x00\xff" * 50, b"plain text", b"{}", b'{"format_version": 2}'])
def test_a_manifest_of_nonsense_is_refused(own_bundle: Path, content: bytes) -> None:
    (own_bundle / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json is not a valid manifest: .*rebuild the bundle"):
        load_manifest(own_bundle)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is not a bundle: it has no manifest.json; make one with"):
        load_manifest(tmp_path)


def test_a_huge_manifest_is_not_read(own_bundle: Path) -> None:
    with (own_bundle / "manifest.json").open("r+b") as stream:
        stream.truncate(MANIFEST_LIMIT_BYTES + 1)
    with pytest.raises(BundleError, match=f"expected at most {MANIFEST_LIMIT_BYTES}"):
        load_manifest(own_bundle)


@pytest.mark.parametrize("path", ["../walk.onnx", "/walk.onnx", "a/../walk.onnx", "C:/walk.onnx", "a\\walk.onnx"])
def test_a_path_out_of_the_bundle_is_refused(own_bundle: Path, path: str) -> None:
    lines = json.loads((own_bundle / "manifest.json").read_text(encoding="utf-8"))
    lines["stages"]["walk"]["onnx"] = path
    rewrite(own_bundle, stages=lines["stages"])
    with pytest.raises(BundleError, match="must be relative, with forward slashes, and stay inside the bundle"):
        load_manifest(own_bundle)


def test_a_manifest_without_a_stage_names_it(own_bundle: Path) -> None:
    lines = json.loads((own_bundle / "manifest.json").read_text(encoding="utf-8"))
    del lines["stages"]["mix"]
    rewrite(own_bundle, stages=lines["stages"])
    with pytest.raises(BundleError, match=r"stages \['mix'\] are missing"):
        load_manifest(own_bundle)


def test_a_file_that_is_named_must_be_listed(own_bundle: Path) -> None:
    rewrite(own_bundle, files={})
    with pytest.raises(BundleError, match=r"are named but not listed under 'files'"):
        load_manifest(own_bundle)


def test_no_path_is_a_file_and_a_folder(own_bundle: Path) -> None:
    files = json.loads((own_bundle / "manifest.json").read_text(encoding="utf-8"))["files"]
    rewrite(own_bundle, files=files | {"text.onnx/more/weights": next(iter(files.values()))})
    with pytest.raises(BundleError, match=r"paths \['text\.onnx'\] are files and also folders of other files"):
        load_manifest(own_bundle)


def test_the_default_template_set_must_exist(own_bundle: Path) -> None:
    lines = json.loads((own_bundle / "manifest.json").read_text(encoding="utf-8"))
    rewrite(own_bundle, vocabulary={**lines["vocabulary"], "default_template_set": "none"})
    with pytest.raises(BundleError, match=r"default_template_set 'none' is not in template_sets"):
        load_manifest(own_bundle)


def test_links_and_missing_files_are_refused(own_bundle: Path, tmp_path: Path) -> None:
    manifest = load_manifest(own_bundle)
    graph = own_bundle / "walk.onnx"
    graph.rename(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="missing or no plain file"):
        verify_file(own_bundle, manifest, "walk.onnx")
    graph.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="is a symbolic link; a bundle holds real files only"):
        verify_file(own_bundle, manifest, "walk.onnx")
    graph.unlink()
    os.link(tmp_path / "elsewhere", graph)
    with pytest.raises(BundleError, match="hard link to a file elsewhere"):
        verify_file(own_bundle, manifest, "walk.onnx")


def test_the_fake_back_end_refuses_a_stage_that_is_not_there(own_bundle: Path) -> None:
    lines = json.loads((own_bundle / "manifest.json").read_text(encoding="utf-8"))
    del lines["stages"]["frame"]
    rewrite(own_bundle, stages=lines["stages"])
    with pytest.raises(BundleError, match="the bundle has no stage 'frame'"):
        FakeBackend(load_manifest(own_bundle)).open_session("frame")


@pytest.mark.parametrize(
    ("changed", "tensor"),
    [
        ({"working_hw": [64, 32]}, "frame"),
        ({"grid_hw": [1, 1]}, "head_affinity"),
        ({"pooled_keys": 3}, "head_affinity"),
        ({"heads": 99}, "head_affinity"),
        ({"text_width": 7}, "text_embeddings"),
    ],
)
def test_a_geometry_that_contradicts_the_axes_of_a_stage_is_refused(
    own_bundle: Path, changed: dict[str, Any], tensor: str
) -> None:
    geometry = json.loads((own_bundle / "manifest.json").read_text(encoding="utf-8"))["geometry"]
    rewrite(own_bundle, geometry={**geometry, **changed}, manifest_sha256=None)
    with pytest.raises(BundleError, match=rf"tensor '{tensor}' of stage '\w+' has axes .*, geometry says \("):
        load_manifest(own_bundle)


def test_an_axis_that_the_geometry_fixes_may_not_be_a_letter(own_bundle: Path) -> None:
    stages = json.loads((own_bundle / "manifest.json").read_text(encoding="utf-8"))["stages"]
    stages["walk"]["spec"]["outputs"][0]["axes"][1] = "p"
    rewrite(own_bundle, stages=stages, manifest_sha256=None)
    with pytest.raises(BundleError, match="tensor 'label_scores' of stage 'walk' has axes"):
        load_manifest(own_bundle)


@pytest.mark.parametrize("constant", ["steps", "warm_steps"])
@pytest.mark.parametrize("value", [None, "many", "20", True, 0, -3, 2.5, 1001, []])
def test_a_baked_constant_that_the_runtime_reads_is_missing_or_garbled(
    own_bundle: Path, constant: str, value: Any
) -> None:
    method = json.loads((own_bundle / "manifest.json").read_text(encoding="utf-8"))["method"]
    baked = {name: other for name, other in method["baked"].items() if name != constant}
    rewrite(own_bundle, method={**method, "baked": baked if value is None else {**baked, constant: value}})
    with pytest.raises(BundleError, match=rf"is not a valid manifest: method\.baked\.{constant}: .*rebuild the bundle"):
        load_manifest(own_bundle)


def test_baked_constants_for_the_record_may_have_any_name_but_only_plain_values(own_bundle: Path) -> None:
    method = json.loads((own_bundle / "manifest.json").read_text(encoding="utf-8"))["method"]
    more = {"layers": ["mid"], "sigma": 0.5, "size_hw": [64, 64], "note": "new in a later version"}
    rewrite(own_bundle, method={**method, "baked": {**method["baked"], **more}})
    assert load_manifest(own_bundle).method.baked.model_dump() == {**method["baked"], **more}
    rewrite(own_bundle, method={**method, "baked": {**method["baked"], "note": {"a": 1}}})
    with pytest.raises(BundleError, match=r"method\.baked\.note"):
        load_manifest(own_bundle)


def test_a_bundle_without_max_batch_takes_one_frame_in_a_run(own_bundle: Path) -> None:
    geometry = load_manifest(own_bundle).geometry
    assert geometry.max_batch == 1
    assert not any(geometry.batches(stage) for stage in STAGES)


def test_only_the_graphs_that_share_a_run_have_the_axis_of_several_frames(tmp_path: Path) -> None:
    manifest = load_manifest(make_fake_bundle(tmp_path / "bundle", max_batch=4))
    assert {stage for stage in manifest.stages if manifest.geometry.batches(stage)} == {"scores", "attention", "frame"}
    for stage, record in manifest.stages.items():
        first = [tensor.axes[:1] for tensor in (*record.spec.inputs, *record.spec.outputs)]
        assert all((axes == ("b",)) == manifest.geometry.batches(stage) for axes in first)


@pytest.mark.parametrize(("bundle_batch", "said", "tensor"), [(1, 4, "begin"), (4, 1, "do not begin")])
def test_a_max_batch_that_contradicts_the_axes_is_refused(
    tmp_path: Path, bundle_batch: int, said: int, tensor: str
) -> None:
    bundle = make_fake_bundle(tmp_path / "bundle", max_batch=bundle_batch)
    geometry = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["geometry"]
    rewrite(bundle, geometry={**geometry, "max_batch": said})
    with pytest.raises(
        BundleError, match=f"of stage 'attention' has axes .*, with max_batch {said} they {tensor} with 'b'"
    ):
        load_manifest(bundle)


def test_a_geometry_that_contradicts_the_axes_of_a_batched_stage_is_refused(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path / "bundle", max_batch=4)
    geometry = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["geometry"]
    rewrite(bundle, geometry={**geometry, "text_width": 7})
    with pytest.raises(BundleError, match=r"stage 'frame' has axes \('b', 'r', 8\), geometry says \(any, any, 7\)"):
        load_manifest(bundle)
