"""A short run of `make fuzz` with its fixed seeds; the case's number is its seed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.tiny_bundle import ROOT, tiny_bundle_folder
from tests.fuzz import KINDS, run_case

CASES = 800


@pytest.mark.slow
@pytest.mark.onnx
def test_mutated_graphs_manifests_and_bundles_are_refused_by_name_or_run() -> None:
    command = [sys.executable, "-m", "tests.fuzz", str(CASES), str(tiny_bundle_folder())]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{CASES} cases in" in ended.stdout
    assert "0 kinds of findings" in ended.stdout


def test_an_error_that_is_no_refusal_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("steps")

    monkeypatch.setitem(KINDS, "manifest", broken)
    assert run_case(2, tmp_path, tmp_path) == "manifest BUG KeyError: 'steps'"
