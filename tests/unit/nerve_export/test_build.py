"""From a plan to an installed bundle, with stub graphs where the real ones take a minute."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nerve_export import build as build_module
from nerve_export import cli
from nerve_export.build import Artefact, build, build_steps
from nerve_export.engine import Engine
from nerve_export.parity import ParityReport, Tap
from nerve_export.plan import BuildPlan, make_plan, plan_key
from nerve_export.stages import TABLE, Sizes
from nerve_runtime.errors import NumericError
from nerve_runtime.manifest import StageRecord, file_sha256, load_manifest, verify_file
from nerve_runtime.spec import StageName

GOOD = Tap("walk", "label_scores", 0, 1.0, 1e-7, None, passed=True)
BAD = Tap("attention", "head_affinity", 2, 0.5, 0.9, None, passed=False)
Reports = Callable[..., None]


def stub_graphs(
    folder: Path, plan: BuildPlan, models: Any, sizes: Sizes, progress: Callable[[str], None]
) -> tuple[dict[StageName, StageRecord], list[Artefact]]:
    """Dummy bytes for every stage of the table, with its true doors."""
    stages, artefacts = {}, []
    for name, row in TABLE.items():
        progress(f"exporting {name}")
        path = folder / f"{name}.onnx"
        path.write_bytes(f"graph of {name}".encode())
        stages[name] = StageRecord(onnx=path.name, spec=row.spec(sizes), gmac=0.5)
        artefacts.append(Artefact(name, "onnx", "ort", path.name, path.stat().st_size, 0.1, 100.0, 0.5))
    return stages, artefacts


@pytest.fixture
def plan(tmp_path: Path) -> BuildPlan:
    return make_plan("tiny", opset=23, size_hw=None, steps=None, max_classes=254, out=tmp_path / "tiny")


@pytest.fixture(autouse=True)
def report(monkeypatch: pytest.MonkeyPatch) -> Reports:
    """Stub graphs, and a parity that says what a test wants; all is well unless told otherwise."""
    monkeypatch.setattr(build_module, "_export_all", stub_graphs)

    def use(*taps: Tap) -> None:
        monkeypatch.setattr(build_module, "check_parity", lambda *_: ParityReport("stub", taps))

    use(GOOD)
    return use


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["nerve-build", *words])
    cli.main()


def test_a_build_installs_a_bundle_whose_files_are_all_listed(plan: BuildPlan) -> None:
    result = build(plan, (), lambda what: None)
    manifest = load_manifest(plan.out)
    assert manifest == result.manifest
    assert manifest.plan_key == plan_key(plan)
    on_disk = {path.name for path in plan.out.iterdir()} - {"manifest.json"}
    assert (
        on_disk
        == set(manifest.files)
        == {f"{name}.onnx" for name in TABLE}
        | {
            "tokenizer.json",
            "parity.json",
            "licences.txt",
        }
    )
    assert all(verify_file(plan.out, manifest, relative) for relative in manifest.files)


def test_the_manifest_holds_the_plans_constants_and_the_weights_with_their_hashes(plan: BuildPlan) -> None:
    manifest = build(plan, (), lambda what: None).manifest
    baked, inputs = manifest.method.baked, ("tau", "alpha", "beta", "head_temperature", "threshold")
    assert {name: getattr(manifest.method, name) for name in inputs} == {
        name: getattr(plan.params, name) for name in inputs
    }
    assert not set(inputs) & set(baked)
    assert (baked["steps"], baked["layers"]) == (plan.params.steps, list(plan.params.layers))
    assert manifest.geometry.working_hw == plan.params.size_hw
    assert {weight.role for weight in manifest.weights} == {"clip", "vae", "unet"}
    assert {weight.licence for weight in manifest.weights} == {"Apache-2.0"}
    assert all(weight.source.startswith("nerve_ref/models/tiny/") for weight in manifest.weights)


def test_nothing_changed_is_answered_without_building(plan: BuildPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    build(plan, (), lambda what: None)
    monkeypatch.setattr(build_module, "_export_all", lambda *_: pytest.fail("it built again"))
    again = build(plan, (), lambda what: None)
    assert again.artefacts == ()
    assert again.manifest == load_manifest(plan.out)


def test_force_builds_again(plan: BuildPlan) -> None:
    build(plan, (), lambda what: None)
    assert len(build(plan, (), lambda what: None, force=True).artefacts) == len(TABLE)


def test_a_bundle_that_does_not_agree_is_not_installed(plan: BuildPlan, report: Reports) -> None:
    report(GOOD, BAD)
    expected = r"does not agree with the reference: attention\.head_affinity on frame 2 has cosine 0\.5, max abs 0\.9"
    with pytest.raises(NumericError, match=expected):
        build(plan, (), lambda what: None)
    assert not plan.out.exists()
    assert [path.name for path in plan.out.parent.iterdir() if path.is_dir()] == []


def test_a_bundle_that_does_not_agree_leaves_the_old_one_in_place(plan: BuildPlan, report: Reports) -> None:
    build(plan, (), lambda what: None)
    before = {path.name: path.read_bytes() for path in plan.out.iterdir()}
    report(BAD)
    with pytest.raises(NumericError):
        build(plan, (), lambda what: None, force=True)
    assert {path.name: path.read_bytes() for path in plan.out.iterdir()} == before


def test_failed_parity_ends_the_command_with_exit_code_7(
    plan: BuildPlan, report: Reports, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report(BAD)
    with pytest.raises(SystemExit) as ended:
        command(monkeypatch, "--out", str(plan.out), "--target", "ort")
    assert ended.value.code == 7
    said = capsys.readouterr()
    assert said.out == ""
    assert "error: the bundle does not agree with the reference" in said.err
    assert not plan.out.exists()


def test_json_prints_one_line_per_artefact_and_nothing_else(
    plan: BuildPlan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--out", str(plan.out), "--target", "ort", "--json")
    with pytest.raises(SystemExit) as ended:
        command(monkeypatch, *words)
    assert ended.value.code == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["stage"] for line in lines] == list(TABLE)
    keys = {"stage", "kind", "target", "path", "bytes", "seconds", "peak_rss_mb", "gmac"}
    assert all(set(line) == keys for line in lines)
    assert all(Path(line["path"]).stat().st_size == line["bytes"] for line in lines)
    with pytest.raises(SystemExit):
        command(monkeypatch, *words)
    assert [json.loads(line)["kind"] for line in capsys.readouterr().out.splitlines()] == ["cached"]


def test_engines_are_listed_with_the_graph_they_were_made_from(
    plan: BuildPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(path: Path, spec: Any, target: str) -> Engine:
        return Engine(path.name.encode(), target, "stub 1", {"frame": [[1], [2], [3]]}, {"strongly_typed": True})

    monkeypatch.setattr("nerve_export.engine.compile_engine", compiled)
    said: list[str] = []
    result = build(plan, ("rtx-sm86", "rtx-sm89"), said.append)
    engines = result.manifest.engines
    assert [(engine.target, engine.stage) for engine in engines] == [
        (target, stage) for target in ("rtx-sm86", "rtx-sm89") for stage in TABLE
    ]
    assert all(engine.path == f"engines/{engine.target}/{engine.stage}.engine" for engine in engines)
    assert all(engine.onnx_sha256 == file_sha256(plan.out / f"{engine.stage}.onnx") for engine in engines)
    assert all((plan.out / engine.path).read_text() == f"{engine.stage}.onnx" for engine in engines)
    assert len(result.artefacts) == 3 * len(TABLE)
    assert len(said) == build_steps(("rtx-sm86", "rtx-sm89"))


def test_other_targets_than_those_in_place_are_built(plan: BuildPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Engine(b"plan", "rtx-sm86", "stub 1", {}, {})
    monkeypatch.setattr("nerve_export.engine.compile_engine", lambda *_: stub)
    build(plan, (), lambda what: None)
    assert len(build(plan, ("rtx-sm86",), lambda what: None).artefacts) == 2 * len(TABLE)
    assert build(plan, ("rtx-sm86",), lambda what: None).artefacts == ()
