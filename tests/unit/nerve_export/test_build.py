"""From a plan to an installed bundle, with stub graphs where the real ones take a minute."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from nerve_export import build as build_module
from nerve_export import stage_worker
from nerve_export.build import build, build_steps, usable_templates
from nerve_export.cli import build as cli
from nerve_export.engines.build import EngineFacts
from nerve_export.graphs.sizes import Sizes
from nerve_export.graphs.stages import TABLE, stages_of
from nerve_export.parity.measures import ParityReport, Tap
from nerve_export.plan import BuildPlan, make_plan, plan_key, plan_weights
from nerve_export.precision import StagePrecision, read_precision_plan
from nerve_export.presets.files import presets
from nerve_export.stage_worker import Exported
from nerve_runtime.bundle.manifest import EngineRecord, Manifest, StageRecord, load_manifest, verify_file
from nerve_runtime.bundle.spec import StageName
from nerve_runtime.errors import NumericError


def isolated(report: ParityReport, what: str, function: str, *given: Any) -> Any:
    """Stands for the processes of a build: the comparison says what a test wants, the tokenizer is the real one."""
    name = function.partition(":")[2]
    if name == "compare_with_reference":
        return report, 50.0
    return 50.0 if name == "write_reference" else getattr(stage_worker, name)(*given)


STAGES = stages_of(presets()["tiny"].params)
GOOD = Tap("walk", "label_scores", 0, 1.0, 1e-7, None, passed=True)
BAD = Tap("attention", "head_affinity", 2, 0.5, 0.9, None, passed=False)
Reports = Callable[..., None]


def stub_graphs(
    folder: Path, plan: BuildPlan, resolved: Any, sizes: Sizes, progress: Callable[[str], None]
) -> dict[StageName, Exported]:
    """Dummy bytes for every stage of the preset, with its true inputs and outputs."""
    exported = {}
    for name in STAGES:
        row = TABLE[name]
        progress(f"exporting {name}")
        path = folder / f"{name}.onnx"
        path.write_bytes(f"graph of {name}".encode())
        record = StageRecord(onnx=path.name, spec=row.spec(sizes), gmac=0.5)
        precision = StagePrecision(keep_fp32=("unet.mid",)) if name == "attention" else None
        exported[name] = Exported(record, precision, path.stat().st_size, 0.1, 100.0)
    return exported


@pytest.fixture
def plan(tmp_path: Path) -> BuildPlan:
    return make_plan("tiny", out=tmp_path / "tiny")


@pytest.fixture(autouse=True)
def report(monkeypatch: pytest.MonkeyPatch) -> Reports:
    """Stub graphs, and a parity that says what a test wants; all pass by default."""
    monkeypatch.setattr(build_module, "_export_all", stub_graphs)

    def use(*taps: Tap) -> None:
        monkeypatch.setattr(build_module, "run_isolated", lambda *given: isolated(ParityReport("stub", taps), *given))

    use(GOOD)
    return use


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["nerve-build", *words])
    cli.main()


def test_a_build_installs_a_bundle_whose_files_are_all_listed(plan: BuildPlan) -> None:
    result = build(plan, (), lambda what: None)
    manifest = load_manifest(plan.out)
    assert manifest == result.manifest
    assert manifest.plan_key == plan_key(plan, plan_weights(plan, lambda what: None))
    on_disk = {path.name for path in plan.out.iterdir()} - {"manifest.json"}
    assert (
        on_disk
        == set(manifest.files)
        == {f"{name}.onnx" for name in STAGES}
        | {
            "tokenizer.json",
            "parity.json",
            "licences.txt",
        }
    )
    assert all(verify_file(plan.out, manifest, relative) for relative in manifest.files)


def test_the_manifest_holds_the_plans_constants_and_the_weights_with_their_hashes(plan: BuildPlan) -> None:
    manifest = build(plan, (), lambda what: None).manifest
    baked, inputs = manifest.method.baked.model_dump(), ("tau", "alpha", "beta", "head_temperature", "threshold")
    assert {name: getattr(manifest.method, name) for name in inputs} == {
        name: getattr(plan.params, name) for name in inputs
    }
    assert not set(inputs) & set(baked)
    assert (baked["steps"], baked["layers"]) == (plan.params.steps, list(plan.params.layers))
    assert manifest.geometry.working_hw == plan.params.size_hw
    assert {weight.role for weight in manifest.weights} == {"clip", "vae", "unet"}
    assert {weight.licence for weight in manifest.weights} == {"Apache-2.0"}
    assert all(weight.source.startswith("packaged:") for weight in manifest.weights)


def test_nothing_changed_is_answered_without_building(plan: BuildPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    build(plan, (), lambda what: None)
    monkeypatch.setattr(build_module, "_export_all", lambda *_: pytest.fail("it built again"))
    again = build(plan, (), lambda what: None)
    assert again.artefacts == ()
    assert again.manifest == load_manifest(plan.out)


def test_a_bundle_at_the_end_of_a_link_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "link"
    link.symlink_to("elsewhere")
    for force in (False, True):
        build(make_plan("tiny", out=link), (), force=force)
    assert link.is_symlink()
    assert load_manifest(tmp_path / "elsewhere") == load_manifest(link)
    assert {path.name for path in tmp_path.iterdir()} == {"elsewhere", "link", ".elsewhere.lock"}


def test_force_builds_again(plan: BuildPlan) -> None:
    build(plan, (), lambda what: None)
    assert len(build(plan, (), lambda what: None, force=True).artefacts) == len(STAGES) + 1


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
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "error: the bundle does not agree with the reference" in captured.err
    assert not plan.out.exists()


def test_json_prints_one_line_per_artefact_and_nothing_else(
    plan: BuildPlan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--out", str(plan.out), "--target", "ort", "--json")
    with pytest.raises(SystemExit) as ended:
        command(monkeypatch, *words)
    assert ended.value.code == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["stage"] for line in lines] == [*STAGES, "bundle"]
    keys = {"stage", "kind", "target", "path", "bytes", "seconds", "peak_rss_mb", "gmac"}
    assert all(set(line) == keys for line in lines)
    assert all(Path(line["path"]).stat().st_size == line["bytes"] for line in lines[:-1])
    assert lines[-1]["peak_rss_mb"] == 100
    with pytest.raises(SystemExit):
        command(monkeypatch, *words)
    assert [json.loads(line)["kind"] for line in capsys.readouterr().out.splitlines()] == ["cached"]


def stub_engines(
    folder: Path, manifest: Manifest, targets: tuple[str, ...], *, progress: Callable[[str, float], None], earlier: Any
) -> tuple[list[EngineRecord], list[EngineFacts]]:
    """Dummy engines with true records."""
    records, facts = [], []
    for target in targets:
        for stage, record in manifest.stages.items():
            progress(f"{stage} for {target}: parsing", 0.5)
            progress(f"{stage} for {target}: compiling", 0.9)
            path = f"engines/{target}/{stage}.engine"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(f"{stage} {earlier and earlier.name}")
            records.append(
                EngineRecord(
                    stage=stage,
                    target=target,
                    path=path,
                    key="0" * 64,
                    onnx_sha256=manifest.files[record.onnx].sha256,
                    backend_version="stub 1",
                    gpu=target.removeprefix("rtx-"),
                    os_arch="linux-x86_64",
                    precision="fp32",
                    profile={},
                    builder_options={},
                )
            )
            facts.append(EngineFacts(stage, target, path, (folder / path).stat().st_size, 0.2, 300.0, hit=False))
    return records, facts


def test_engines_are_listed_and_their_files_too(plan: BuildPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nerve_export.engines.build.build_engines", stub_engines)
    steps: list[str] = []
    result = build(plan, ("rtx-sm86", "rtx-sm89"), steps.append)
    engines = result.manifest.engines
    assert [(engine.target, engine.stage) for engine in engines] == [
        (target, stage) for target in ("rtx-sm86", "rtx-sm89") for stage in STAGES
    ]
    assert all(verify_file(plan.out, load_manifest(plan.out), engine.path) for engine in engines)
    assert len(result.artefacts) == 3 * len(STAGES) + 1
    assert result.artefacts[-1].peak_rss_mb == 300
    assert len({what.partition(":")[0] for what in steps}) == build_steps(plan, ("rtx-sm86", "rtx-sm89"))


def test_other_targets_than_those_in_place_are_built_from_what_is_there(
    plan: BuildPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nerve_export.engines.build.build_engines", stub_engines)
    build(plan, ())
    assert len(build(plan, ("rtx-sm86",)).artefacts) == 2 * len(STAGES) + 1
    assert build(plan, ("rtx-sm86",)).artefacts == ()
    assert (plan.out / "engines/rtx-sm86/walk.engine").read_text() == "walk tiny", "the earlier bundle is offered"


def test_what_stays_float32_is_written_down_and_said(plan: BuildPlan) -> None:
    result = build(replace(plan, precision="fp16"), ())
    assert result.kept_fp32 == ("attention: unet.mid",)
    assert read_precision_plan(plan.out / "precision.json", "fp16").kept("attention") == ("unet.mid",)


def test_random_weights_are_marked(plan: BuildPlan) -> None:
    manifest = build(replace(plan, random_seed=3), ()).manifest
    assert manifest.random_weights
    assert manifest.random_seed == 3
    assert manifest.weights == ()
    assert "labels mean nothing" in (plan.out / "licences.txt").read_text()


def test_a_file_that_was_touched_after_the_build_is_hashed_before_it_counts_as_up_to_date(plan: BuildPlan) -> None:
    build(plan, ())
    path = plan.out / "walk.onnx"
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(bytes(content))
    assert len(build(plan, ()).artefacts) == len(STAGES) + 1
    assert path.read_bytes()[0] == content[0] ^ 1


def test_a_bundle_lists_only_templates_that_its_words_can_fill() -> None:
    words = {word: number for number, word in enumerate(["<unk>", "a", "photo", "of", "."])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    sets = {"single": ["a photo of a {}."], "art": ["a photo of a {}.", "a painting of a {}."]}
    assert usable_templates(tokenizer, sets, "<unk>") == {"single": ["a photo of a {}."]}
    assert usable_templates(tokenizer, sets, None) == sets
