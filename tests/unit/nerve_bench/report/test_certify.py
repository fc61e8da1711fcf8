"""A certificate says what passed, what failed and what could not be done, and only a failure is one."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nerve_bench.cli import main as cli
from nerve_bench.report import certify as certify_module
from nerve_bench.report.certificate import Finding, certificate_page, passed, write_certificate
from nerve_bench.report.certify import BACKENDS, CertifyPlan, _accuracy, certify, compared_graphs, missing_for
from nerve_ref.weights.files import WeightChoice
from nerve_runtime.bundle.manifest import load_manifest
from nerve_runtime.errors import NumericError, UsageError
from tests.data.benchmark_folders import class_files, write_voc

GOOD = Finding("files", "passed", "all as listed", {"bytes": 3})
OPEN = Finding("engines rtx", "not run", "no NVIDIA GPU was found here")
BAD = Finding("parity ort", "failed", "2 of 9 taps break, first <scores>")


def unseen(items: Iterable[Any], _description: str, total: float | None = None) -> Iterable[Any]:
    return items


def plan_for(bundle: Path, out: Path) -> CertifyPlan:
    return CertifyPlan(bundle, WeightChoice(), None, frames=2, scenes=1, threads=1, out=out)


def test_only_a_failure_is_one() -> None:
    assert passed([GOOD, OPEN])
    assert not passed([GOOD, BAD, OPEN])


def test_file_and_page_hold_every_finding(bundle: Path, tmp_path: Path) -> None:
    said, page = write_certificate(bundle, [GOOD, OPEN, BAD], tmp_path / "new")
    certificate = json.loads(said.read_text(encoding="utf-8"))
    assert (certificate["bundle"], certificate["passed"]) == (bundle.name, False)
    digest = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    assert certificate["SHA-256 of its manifest"] == digest
    assert [finding["state"] for finding in certificate["findings"]] == ["passed", "not run", "failed"]
    assert certificate["findings"][0]["bytes"] == 3
    text = page.read_text(encoding="utf-8")
    assert "1 passed, 1 failed, 0 measured, 1 not run" in text
    assert digest in text
    assert "first &lt;scores&gt;" in text, "what was found is text, not markup"
    assert all(finding.part in text for finding in (GOOD, OPEN, BAD))
    assert "src=" not in text
    assert "http" not in text


def test_a_page_of_nothing_is_still_a_page() -> None:
    assert "0 passed, 0 failed, 0 measured, 0 not run" in certificate_page({"bundle": "tiny"}, [])


@pytest.mark.parametrize("random", [False, True])
def test_masks_of_random_weights_are_not_certified_in_silence(random: bool) -> None:
    files = Finding("files", "passed", "all as listed", {"random_weights": random})
    assert ("every mIoU mean nothing" in certificate_page({"bundle": "tiny"}, [files])) == random


def test_without_a_gpu_engines_are_not_run_and_it_is_said_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certify_module, "gpu_capability", lambda: None)
    assert missing_for("rtx") == missing_for("tensorrt") == "no NVIDIA GPU was found here"
    monkeypatch.setattr(certify_module, "gpu_capability", lambda: "sm89")
    monkeypatch.setattr(certify_module, "find_spec", lambda name: None)
    reasons = {name: missing_for(name) for name in BACKENDS}
    assert all("is not installed; pip install 'nerve-deploy[" in reason for reason in reasons.values())


@pytest.mark.onnx
def test_a_damaged_bundle_fails_at_its_files_and_nothing_runs(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    content = bytearray((copy / "walk.onnx").read_bytes())
    content[-1] ^= 1
    (copy / "walk.onnx").write_bytes(content)
    (finding,) = certify(plan_for(copy, tmp_path), lambda what: None, unseen)
    assert (finding.part, finding.state) == ("files", "failed")
    assert "walk.onnx: sha256" in finding.what


@pytest.mark.onnx
def test_weights_that_are_not_here_leave_parity_open(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_given: object) -> None:
        raise UsageError("no weights; give --clip")

    monkeypatch.setattr(certify_module, "run_isolated", missing)
    monkeypatch.setattr(certify_module, "_speed_and_memory", lambda *given: iter(()))
    monkeypatch.setattr(certify_module, "_labels", lambda *given: GOOD)
    monkeypatch.setattr(certify_module, "_accuracy", lambda *given: iter(()))
    findings = {f.part: f for f in certify(plan_for(bundle, tmp_path), lambda what: None, unseen)}
    assert (findings["reference"].state, findings["reference"].what) == ("not run", "no weights; give --clip")
    assert findings["parity ort"].state == "not run"
    assert "see above" in findings["parity ort"].what


def test_a_comparison_that_breaks_is_a_failure_with_its_first_tap() -> None:
    from nerve_export.parity.measures import ParityReport, Tap

    taps = (Tap("walk", "label_scores", 0, 1.0, 1e-6, None, True), Tap("mix", "affinity", 2, 0.5, 0.7, None, False))
    finding = certify_module._judged("parity ort", ParityReport("ort: here", taps))
    assert (finding.state, finding.figures["taps"]) == ("failed", 2)
    assert finding.what == "1 of 2 taps break, first mix.affinity of frame 2"


@pytest.mark.parametrize(("findings", "code"), [([GOOD, OPEN], 0), ([GOOD, BAD], 7)])
def test_the_command_fails_where_a_part_does(
    findings: list[Finding], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(*_given: object) -> Iterator[Finding]:
        yield from findings

    monkeypatch.setattr(certify_module, "certify", made)
    ended = CliRunner().invoke(cli.app, ["certify", "bundles/tiny", "--out", str(tmp_path), "--json"])
    assert [json.loads(line)["part"] for line in ended.stdout.splitlines()] == [f.part for f in findings]
    assert (tmp_path / "certificate.html").is_file()
    if code:
        assert isinstance(ended.exception, NumericError)
        assert ended.exception.exit_code == code
        assert "not certified, failed: parity ort" in str(ended.exception)
    else:
        assert ended.exit_code == 0


def test_a_folder_of_benchmarks_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--data .* is no folder"):
        CliRunner().invoke(cli.app, ["certify", "x", "--data", str(tmp_path / "none")], catch_exceptions=False)


@pytest.mark.slow
@pytest.mark.onnx
def test_the_tiny_bundle_is_certified_on_what_is_here(bundle: Path, tmp_path: Path) -> None:
    findings = {f.part: f for f in certify(plan_for(bundle, tmp_path), lambda what: None, unseen)}
    assert passed(list(findings.values()))
    for part in ("files", "reference", "parity ort", "speed and memory ort", "mIoU on the tiny world"):
        assert findings[part].state == "passed", findings[part].what
    assert findings["speed and memory ort"].figures["fps"] > 0
    assert all(finding.what for finding in findings.values())


def test_graphs_are_compared_by_the_name_of_the_back_end(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="holds no finished reference"):
        compared_graphs(bundle, tmp_path, "ort")


@pytest.mark.slow
@pytest.mark.onnx
def test_benchmarks_that_are_here_are_scored_and_others_say_what_is_missing(bundle: Path, tmp_path: Path) -> None:
    write_voc(tmp_path / "data", pictures=1)
    class_files(tmp_path / "classes")
    plan = replace(plan_for(bundle, tmp_path), data=tmp_path / "data", classes_folder=tmp_path / "classes")
    found = {f.part: f for f in _accuracy(plan, load_manifest(bundle), unseen)}
    assert found["mIoU on voc21"].state == found["mIoU on voc20"].state == "measured"
    assert found["mIoU on voc21"].figures["record"]["n"] == 1
    assert found["mIoU on ade20k"].state == "not run"
    assert "ADE" in found["mIoU on ade20k"].what


def test_a_folder_without_any_benchmark_leaves_them_open(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certify_module, "_tiny_miou", lambda *given: GOOD)
    (tmp_path / "data").mkdir()
    plan = replace(plan_for(bundle, tmp_path), data=tmp_path / "data")
    *_, last = _accuracy(plan, load_manifest(bundle), unseen)
    assert (last.part, last.state) == ("mIoU on benchmarks", "not run")
    assert "none of the eight benchmarks is in" in last.what
