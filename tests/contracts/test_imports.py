"""Who may import whom: read from the code by import-linter, and tried with the forbidden libraries poisoned."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contracts.checkout import PACKAGES, ROOT, imported_modules, rooms_environment, run, sources

HEAVY = ("torch", "torchvision", "transformers", "diffusers", "onnx", "onnxscript", "jaxtyping")
ENGINE_LIBRARIES = {"tensorrt", "tensorrt_rtx"}
ENGINE_FILES = {
    PACKAGES["nerve_export"] / "engines" / "compile.py",
    PACKAGES["nerve_runtime"] / "backends" / "tensorrt" / "backend.py",
}
RUNTIME_LIBRARIES = {"cv2", "filelock", "numpy", "platformdirs", "pydantic", "safetensors", "tokenizers"}
STREAM_LIBRARIES = {
    "av",
    "cv2",
    "filelock",
    "numpy",
    "platformdirs",
    "prometheus_client",
    "psutil",
    "pydantic",
    "rich",
    "typer",
}
PAGE_LIBRARIES = {"starlette", "uvicorn"}
RUNTIME_ON_DEMAND = {"cuda", "huggingface_hub", "onnxruntime", "supervision", "tensorrt", "tensorrt_rtx"}
STREAM_ON_DEMAND = {"aiohttp", "fsspec", "ray", "triton_python_backend_utils", "tritonclient"}
IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
for name in {poisoned!r}:
    sys.modules[name] = None
import {package}
for module in pkgutil.walk_packages({package}.__path__, "{package}."):
    importlib.import_module(module.name)
    print(module.name)
"""


def _import_everything(package: str, *rooms: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, rooms))}
    return run(sys.executable, "-c", IMPORT_EVERYTHING.format(poisoned=HEAVY, package=package), cwd=ROOT, env=env)


def test_the_import_contracts_hold() -> None:
    env = rooms_environment()
    start = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    ended = run(sys.executable, "-c", start, "--no-cache", cwd=ROOT, env=env)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"Contracts: [1-9]\d* kept, 0 broken", ended.stdout)


def test_the_whole_runtime_imports_without_pytorch() -> None:
    for package, module in (("nerve_runtime", "segmenter"), ("nerve_stream", "cli.segment")):
        ended = _import_everything(package, ROOT / "runtime")
        assert ended.returncode == 0, ended.stderr
        assert f"{package}.{module}" in ended.stdout.split()


@pytest.mark.parametrize("library", HEAVY)
def test_the_poison_works(library: str, tmp_path: Path) -> None:
    package = tmp_path / "poisoned"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "guilty.py").write_text(f"import {library}\n")
    ended = _import_everything("poisoned", tmp_path)
    assert ended.returncode != 0
    assert f"import of {library} halted" in ended.stderr


def test_the_runtime_uses_only_what_it_declares() -> None:
    allowed = RUNTIME_LIBRARIES | RUNTIME_ON_DEMAND | set(sys.stdlib_module_names) | {"nerve_runtime"}
    foreign = {name.partition(".")[0] for path in sources("nerve_runtime") for name, _ in imported_modules(path)}
    assert foreign - allowed == set()


def test_the_application_uses_only_what_it_declares() -> None:
    allowed = STREAM_LIBRARIES | STREAM_ON_DEMAND | set(sys.stdlib_module_names) | {"nerve_runtime", "nerve_stream"}
    foreign = {name.partition(".")[0] for path in sources("nerve_stream") for name, _ in imported_modules(path)}
    assert foreign - allowed == PAGE_LIBRARIES


def test_the_libraries_of_the_page_are_imported_by_the_page_alone() -> None:
    importers = {
        path.parent
        for path in sources("nerve_stream")
        for name, _ in imported_modules(path)
        if name.partition(".")[0] in PAGE_LIBRARIES
    }
    assert importers == {PACKAGES["nerve_stream"] / "web"}


def test_tensorrt_is_imported_in_two_files_only() -> None:
    importers = {
        path
        for package in PACKAGES
        for path in sources(package)
        for name, _ in imported_modules(path)
        if name.partition(".")[0] in ENGINE_LIBRARIES
    }
    assert importers <= ENGINE_FILES


def test_the_reference_keeps_its_annotations_real() -> None:
    """Postponed annotations would switch the shape checks off without a word."""
    postponed = [
        path.name for path in sources("nerve_ref") for name, _ in imported_modules(path) if name == "__future__"
    ]
    assert postponed == []
