"""Builds the native library and programs against it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "runtime" / "native"
INCLUDE = NATIVE / "include"
BUILD = ROOT / "build"
HEADERS = BUILD / "native-headers"
BUILD_FOLDERS = {
    "release": BUILD / "native",
    "asan": BUILD / "native-asan",
    "tsan": BUILD / "native-tsan",
    "aarch64": BUILD / "native-aarch64",
}
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
ASAN = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")
TSAN = ("-fsanitize=thread", "-g")


def cmake() -> str | None:
    """The cmake of this environment, or else the system's."""
    own = Path(sys.executable).with_name("cmake")
    return str(own) if own.is_file() else shutil.which("cmake")


def json_headers() -> Path | None:
    """The folder with nlohmann/json.hpp, which test programs use, of the PyPI package `nlohmann-json`."""
    found = find_spec("nlohmann_json")
    return Path(found.origin).parent / "include" if found is not None and found.origin is not None else None


def missing_for_build() -> str | None:
    """Why the library cannot be built here, in one sentence; None where it can."""
    if not (HEADERS / "onnxruntime_c_api.h").is_file():
        return f"the headers of ONNX Runtime are not in {HEADERS.relative_to(ROOT)}: run make native"
    for tool in ("g++", "gcc", "nm", "readelf", "strip"):
        if shutil.which(tool) is None:
            return f"{tool} is missing"
    return "cmake is missing: install the extra `native`" if cmake() is None else None


def build(preset: str, folder: Path | None = None, *options: str, source: Path = NATIVE) -> Path:
    """Build the library as a preset says and hand back the folder; quick where nothing changed.

    Args:
        preset: of runtime/native/CMakePresets.json.
        folder: where to build; None: where the preset says.
        options: more words for cmake, for instance -DBUILD_SHARED_LIBS=OFF.
        source: the folder with CMakeLists.txt.
    """
    folder = folder or BUILD_FOLDERS[preset]
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        configure(folder, *options, preset=preset, source=source)
        run(cmake() or "cmake", "--build", folder, "--parallel", "2", cwd=source)
    return folder


def configure(folder: Path, *options: str, preset: str = "release", source: Path = NATIVE) -> Path:
    """Prepare a build, see `build`."""
    words = [*options, "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"]
    run(cmake() or "cmake", "--preset", preset, "-B", folder, *words, cwd=source)
    return folder


def run(*command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None, code: int = 0) -> str:
    """Run a command that is expected to end with this exit code, and hand back its output, stderr included."""
    words = [str(word) for word in command]
    ended = subprocess.run(
        words, cwd=cwd, env={**os.environ, **(env or {})}, check=False, text=True, timeout=600,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert ended.returncode == code, f"{words} ended with {ended.returncode}, expected {code}:\n{ended.stdout}"
    return ended.stdout


def compiled(output: Path, source: Path, library: Path, *options: str, compiler: str = "gcc") -> Path:
    """Compile a program against the library in the folder of `library`, which it will find there when it runs."""
    run(
        compiler, *STRICT, f"-I{INCLUDE}", *options, source, "-o", output,
        library, "-Wl,-rpath," + str(library.parent),
    )  # fmt: skip
    return output
