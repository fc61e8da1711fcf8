"""This checkout as the contract tests see it: its folders, its files, its commands."""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "nerve_ref": ROOT / "nerve_ref",
    "nerve_export": ROOT / "export" / "nerve_export",
    "nerve_runtime": ROOT / "runtime" / "nerve_runtime",
    "nerve_stream": ROOT / "runtime" / "nerve_stream",
    "nerve_bench": ROOT / "benchmarks" / "nerve_bench",
}
LAUNCHERS = {
    "nerve-build": ROOT / "export" / "build_engines.py",
    "nerve-segment": ROOT / "runtime" / "segment.py",
    "nerve-bench": ROOT / "benchmarks" / "run.py",
}
ROOMS = (ROOT, ROOT / "export", ROOT / "runtime", ROOT / "benchmarks")


def rooms_environment(**more: str) -> dict[str, str]:
    """The environment of a process that imports the rooms and the tests from this checkout, wherever it starts."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, ROOMS)), **more}


def sources(package: str) -> list[Path]:
    """Every Python file of one of our packages."""
    return sorted(PACKAGES[package].rglob("*.py"))


def settings() -> dict[str, Any]:
    """What stands in pyproject.toml; skips the test on Python 3.10, which cannot read it."""
    tomllib = pytest.importorskip("tomllib", reason="tomllib is missing before Python 3.11")
    read: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return read


def imported_modules(path: Path) -> Iterator[tuple[str, int]]:
    """Every absolute module name that a file imports, at any depth, with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno


def files_for_git() -> list[Path]:
    """The files that git tracks or would track; skips the test where git or the repository is missing."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("git or the repository is missing: what belongs to it is unknown")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.decode().split("\0")
    return [path for name in listed if name and (path := ROOT / name).is_file()]


def run(*command: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end (five minutes at most) and hand back what it said, whatever its exit code."""
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, env=env, check=False, capture_output=True, text=True, timeout=300)


def run_python(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run this Python without any PYTHONPATH, as a user in a fresh shell would."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return run(sys.executable, *words, cwd=cwd, env=env)
