"""NVIDIA's own compiler accepts every graph, for two generations of GPUs, on a machine without one."""

import shutil
from pathlib import Path

import pytest
from onnx import helper

from nerve_export.engines.build import build_engines
from nerve_export.engines.compile import CLASS_SLOTS, PROFILE, compile_engine
from nerve_runtime.bundle.ledger import Ledger
from nerve_runtime.bundle.manifest import FileRecord, Manifest, file_sha256, load_manifest
from nerve_runtime.bundle.spec import BATCHED_STAGES, READOUT_STAGES, StageName
from nerve_runtime.errors import CompatibilityError, ResourceError
from tests.data.tiny_bundle import MAX_BATCH, batch_bundle_folder
from tests.parity.damage import before_output, damaged_bundle
from tests.parity.test_graphs import STAGES

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install 'nerve-deploy[rtx]'")
pytestmark = pytest.mark.onnx

LEAST_PLAN_BYTES = 100_000
"""The smallest engine, of the read-out, has 720 kB."""


LONG = ("attention", "frame")  # five to ten seconds each


@pytest.mark.parametrize("target", ["rtx-sm86", "rtx-sm89"])
@pytest.mark.parametrize("stage", [pytest.param(stage, marks=[pytest.mark.slow] * (stage in LONG)) for stage in STAGES])
def test_every_stage_parses_and_compiles(stage: StageName, target: str, bundle: Path, manifest: Manifest) -> None:
    record = manifest.stages[stage]
    engine = compile_engine(bundle / record.onnx, record.spec, target)
    assert len(engine.plan) > LEAST_PLAN_BYTES
    assert engine.target == target
    assert engine.backend_version.startswith("tensorrt-rtx ")
    free = {tensor.name for tensor in record.spec.inputs if any(isinstance(axis, str) for axis in tensor.axes)}
    assert set(engine.profile) == free | ({"size_hw"} if stage in READOUT_STAGES.values() else set())


@pytest.mark.slow
@pytest.mark.parametrize("stage", sorted(BATCHED_STAGES))
def test_a_stage_for_several_frames_compiles_for_one_to_the_most(stage: StageName) -> None:
    folder = batch_bundle_folder()
    record = load_manifest(folder).stages[stage]
    engine = compile_engine(folder / record.onnx, record.spec, "rtx-sm89", max_batch=MAX_BATCH)
    assert len(engine.plan) > LEAST_PLAN_BYTES
    assert set(engine.profile) == {tensor.name for tensor in record.spec.inputs}
    for sizes in engine.profile.values():
        assert [each[0] for each in sizes] == [1, MAX_BATCH, MAX_BATCH]


def test_the_profile_fixes_the_class_slots_and_ranges_over_the_rest(bundle: Path, manifest: Manifest) -> None:
    record, sizes = manifest.stages["scores"], manifest.geometry
    profile = compile_engine(bundle / record.onnx, record.spec, "rtx-sm89").profile
    assert profile["class_mask"] == [[CLASS_SLOTS]] * 3
    assert profile["text_embeddings"] == [[rows, sizes.text_width] for rows in PROFILE["r"]]
    readout = manifest.stages["readout"]
    profile = compile_engine(bundle / readout.onnx, readout.spec, "rtx-sm89").profile
    assert profile["size_hw"] == [list(pair) for pair in zip(PROFILE["H"], PROFILE["W"], strict=True)]


def test_a_graph_that_the_parser_refuses_is_named_with_its_node(
    bundle: Path, manifest: Manifest, tmp_path: Path
) -> None:
    edit = before_output("label_scores", helper.make_node("Det", ["sound"], ["label_scores"], name="culprit"))
    broken = damaged_bundle(bundle, manifest, tmp_path / "broken", "walk_warm", edit)
    record = broken.stages["walk_warm"]
    with pytest.raises(CompatibilityError, match=r"cannot parse walk_warm\.onnx: .*culprit"):
        compile_engine(tmp_path / "broken" / record.onnx, record.spec, "rtx-sm89")


def test_a_profile_that_does_not_fit_gets_no_engine_and_a_reason(
    bundle: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROFILE, "H", (16, 720, 4320))
    monkeypatch.setitem(PROFILE, "W", (16, 1280, 7680))
    record = manifest.stages["readout"]
    with pytest.raises(ResourceError, match=r"no engine for readout\.onnx with a workspace of 1\.0 GiB: .*OutOfMemory"):
        compile_engine(bundle / record.onnx, record.spec, "rtx-sm89")


def test_the_builder_tells_its_progress_from_nothing_to_all(bundle: Path, manifest: Manifest) -> None:
    record, shares = manifest.stages["walk_warm"], []
    compile_engine(bundle / record.onnx, record.spec, "rtx-sm89", progress=lambda _, share: shares.append(share))
    assert shares == sorted(shares)
    assert shares[0] == 0.0
    assert shares[-1] == 1.0
    assert len(shares) > 10


def test_an_engine_is_compiled_in_a_process_of_its_own_and_is_a_hit_afterwards(
    bundle: Path, manifest: Manifest, tmp_path: Path
) -> None:
    stage, ledger = manifest.stages["mix"], Ledger(tmp_path / "engines.json")
    shutil.copyfile(bundle / stage.onnx, tmp_path / stage.onnx)
    (record,), (fact,) = build_engines(tmp_path, manifest, ["rtx-sm120"], ["mix"], ledger=ledger)
    assert not fact.hit
    assert 100 < fact.peak_rss_mb < 2000
    assert ledger.knows(file_sha256(tmp_path / fact.path))
    entry = FileRecord(bytes=fact.bytes, sha256=file_sha256(tmp_path / fact.path))
    listed = manifest.model_copy(update={"engines": (record,), "files": {**manifest.files, fact.path: entry}})
    again, (hit,) = build_engines(tmp_path, listed, ["rtx-sm120"], ["mix"], ledger=ledger)
    assert hit.hit
    assert again == [record]
