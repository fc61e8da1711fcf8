"""The linters of docker/ and deploy/: `make test-slow` installs them from requirements/deploy.txt."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.checkout import ROOT

DOCKER, DEPLOY = ROOT / "docker", ROOT / "deploy"
INSTALL = "make .venv/.deploy installs it"


def program(name: str) -> str:
    """The path of a program of this environment, of build/promtool or of the system; its absence skips the test."""
    for folder in (Path(sys.executable).parent, ROOT / "build" / "promtool"):
        if (folder / name).is_file():
            return str(folder / name)
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"not installed: {name}; {INSTALL}")
    return found


def module(name: str) -> Any:
    """An imported module; its absence skips the test."""
    return pytest.importorskip(name, reason=f"not installed: {name}; {INSTALL}")


def run(*words: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A finished program with what it printed, errors in stdout too."""
    return subprocess.run(
        [str(word) for word in words], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
