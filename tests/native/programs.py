"""Programs compiled against a libnerve.so, the fake one of this folder or the real one, and run."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "native"
NATIVE = ROOT / "runtime" / "native"
INCLUDE = NATIVE / "include"
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
ASAN = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")
TSAN = ("-fsanitize=thread", "-g", "-O1")
OPENCV_INCLUDE = Path("/usr/include/opencv4")
TIME_LIMIT_S = 300


@dataclass(frozen=True, slots=True)
class Library:
    """A libnerve.so, a bundle that it opens, and what has to be in the environment for that.

    Attributes:
        path: of the library.
        bundle: folder of the bundle.
        environment: variables of the programs that use it.
        is_fake: labels come by the rule of fake_nerve.cc.
    """

    path: Path
    bundle: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    is_fake: bool = False


def opencv_flags(*modules: str) -> tuple[str, ...]:
    """Words for g++ to use these modules of OpenCV; skips the test where a module's headers are missing."""
    for module in modules:
        if not (OPENCV_INCLUDE / "opencv2" / f"{module}.hpp").is_file():
            pytest.skip(f"the C++ headers of OpenCV's {module} are missing: apt-get install libopencv-dev")
    return (f"-isystem{OPENCV_INCLUDE}", *(f"-lopencv_{module}" for module in modules))


def compiled(output: Path, sources: tuple[Path, ...], *flags: str, compiler: str = "g++") -> Path:
    """Compile without a warning; flags follow the sources, so that libraries may be among them."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is missing")
    run([compiler, *STRICT, f"-I{INCLUDE}", *map(str, sources), *flags, "-pthread", "-o", str(output)])
    return output


def fake_library(folder: Path) -> Library:
    """The fake library, compiled into a folder, with something that it takes for a bundle."""
    path = folder / "libnerve.so"
    compiled(path, (HERE / "fake_nerve.cc",), "-std=c++17", "-O1", "-shared", "-fPIC", "-fvisibility=hidden")
    return Library(path, fake_bundle(folder), is_fake=True)


def fake_bundle(folder: Path) -> Path:
    """A folder that the fake library takes for a bundle."""
    bundle = folder / "bundle"
    bundle.mkdir(exist_ok=True)
    (bundle / "manifest.json").write_text("{}\n")
    return bundle


def real_library(request: pytest.FixtureRequest) -> Library:
    """The library of this repository with the tiny bundle."""
    path: Path = request.getfixturevalue("native_library")
    onnxruntime: Path = request.getfixturevalue("onnxruntime_library")
    bundle: Path = request.getfixturevalue("tiny_bundle")
    return Library(path, bundle, {"NERVE_ONNXRUNTIME": str(onnxruntime)})


def linked(library: Library) -> tuple[str, ...]:
    """Words for the compiler to link a program with a library that it then finds by itself."""
    return (f"-L{library.path.parent}", "-lnerve", f"-Wl,-rpath,{library.path.parent}")


def run(
    command: list[str], *, code: int = 0, stdin: bytes = b"", environment: Mapping[str, str] | None = None
) -> tuple[bytes, str]:
    """Run a command that is expected to end with an exit code; what it wrote to stdout and to stderr."""
    ended = subprocess.run(
        command, input=stdin, capture_output=True, check=False, timeout=TIME_LIMIT_S,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    errors = ended.stderr.decode(errors="replace")
    assert ended.returncode == code, f"{command} ended with {ended.returncode}, expected {code}:\n{errors}"
    return ended.stdout, errors
