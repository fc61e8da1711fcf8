"""Short runs of `make fuzz-abi` and `make fuzz-native`."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.native.building import ROOT

pytestmark = [pytest.mark.native, pytest.mark.slow]
CASES = 400
SECONDS = 60
CLANG = "clang-14"


def test_mutated_files_end_in_typed_errors_under_the_sanitizers(asan_library: Path) -> None:
    command = [sys.executable, "-m", "tests.native.fuzz", str(asan_library), str(CASES)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{CASES} cases in" in ended.stdout
    assert "0 kinds of findings" in ended.stdout


def test_the_parsers_stand_a_minute_of_fuzzing() -> None:
    if shutil.which(CLANG) is None:
        pytest.skip(f"not installed: {CLANG}")
    command = ["make", "fuzz-native", f"SECONDS={SECONDS}", f"CLANG={CLANG}"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-4000:]
    (runs,) = re.findall(r"Done (\d+) runs in", ended.stdout + ended.stderr)
    assert int(runs) > 1000
