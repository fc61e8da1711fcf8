"""The library is small, shows nothing but its C interface, needs nothing but the C++ library, and installs anywhere."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.native.building import ASAN, INCLUDE, NATIVE, STRICT, TSAN, build, cmake, compiled, configure, run

pytestmark = pytest.mark.native
SIZE_LIMIT_BYTES = 300_000
SYSTEM_LIBRARIES = ("libstdc++.so", "libm.so", "libgcc_s.so", "libc.so", "libdl.so", "libpthread.so", "ld-linux")
C_PROGRAM = """
#include <nerve/nerve.h>
#include <stdio.h>
int main(void) {
    nerve_params params;
    nerve_params_init(&params, sizeof params);
    printf("%s %d\\n", nerve_version(), (int)params.keyframe_every);
    return nerve_last_error() == NULL;
}
"""
CPP_PROGRAM = """
#include <nerve/nerve.h>
#if __cplusplus >= 201703L && __has_include(<nerve/nerve.hpp>)
#include <nerve/nerve.hpp>
#endif
#include <cstdio>
int main() {
    nerve_params params;
    nerve_params_init(&params, sizeof params);
    std::printf("%s %d\\n", nerve_version(), static_cast<int>(params.keyframe_every));
    return nerve_last_error() == nullptr;
}
"""
CMAKE_PROJECT = """
cmake_minimum_required(VERSION 3.22)
project(consumer LANGUAGES CXX)
find_package(nerve 0.1 REQUIRED)
add_executable(consumer consumer.cc)
set_target_properties(consumer PROPERTIES CXX_STANDARD 17 CXX_EXTENSIONS OFF)
target_compile_options(consumer PRIVATE -Wall -Wextra -Wpedantic -Werror)
target_link_libraries(consumer PRIVATE nerve::nerve)
"""


def exported(library: Path) -> set[str]:
    """The names that a shared library defines for others."""
    return {line.split()[-1] for line in run("nm", "-D", "--defined-only", library).splitlines()}


def needed(library: Path) -> list[str]:
    """The shared libraries that a shared library is linked with."""
    return re.findall(r"\(NEEDED\).*\[(.+)\]", run("readelf", "-d", library))


def consumer_output(prefix: Path, folder: Path) -> str:
    """What a C++ program prints that finds the library below `prefix` by find_package."""
    folder.mkdir()
    (folder / "CMakeLists.txt").write_text(CMAKE_PROJECT)
    (folder / "consumer.cc").write_text(CPP_PROGRAM)
    run(cmake() or "", "-S", folder, "-B", folder / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
    run(cmake() or "", "--build", folder / "build")
    return run(folder / "build" / "consumer")


def pkg_config_output(prefix: Path, folder: Path, *more: str) -> str:
    """What a C program prints that finds the library below `prefix` by pkg-config."""
    if shutil.which("pkg-config") is None:
        pytest.skip("pkg-config is missing")
    folder.mkdir()
    (folder / "consumer.c").write_text(C_PROGRAM)
    settings = {"PKG_CONFIG_PATH": str(prefix / "lib" / "pkgconfig")}
    words = shlex.split(run("pkg-config", "--cflags", "--libs", *more, "nerve", env=settings))
    run("gcc", "-std=c99", *STRICT, folder / "consumer.c", "-o", folder / "consumer", *words)
    return run(folder / "consumer", env={"LD_LIBRARY_PATH": str(prefix / "lib")})


@pytest.fixture(scope="module")
def greeting(native_library: Path) -> str:
    """What the programs print, read from the library itself."""
    return f"{_version(native_library)} 1\n"


def _version(library: Path) -> str:
    import ctypes

    version = ctypes.CDLL(str(library)).nerve_version
    version.restype = ctypes.c_char_p
    text: bytes = version()
    return text.decode()


@pytest.fixture(scope="module")
def installed(native_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared library, installed into a folder with a space in its name, and then moved."""
    first = tmp_path_factory.mktemp("installed") / "first"
    run(cmake() or "", "--install", native_library.parent, "--prefix", first)
    return first.rename(first.with_name("another place"))


@pytest.fixture(scope="module")
def installed_static(native_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A static library, built and installed in folders with a space in their names."""
    folder = tmp_path_factory.mktemp("static") / "a space"
    shutil.copytree(NATIVE, folder / "runtime" / "native")
    headers = f"-DONNXRUNTIME_INCLUDE_DIR={native_library.parents[1] / 'native-headers'}"
    source = folder / "runtime" / "native"
    build("release", folder / "built", headers, "-DBUILD_SHARED_LIBS=OFF", source=source)
    run(cmake() or "", "--install", folder / "built", "--prefix", folder / "installed here")
    return folder / "installed here"


def test_the_library_exports_what_the_header_declares_and_nothing_else(native_library: Path) -> None:
    header = (INCLUDE / "nerve" / "nerve.h").read_text()
    assert exported(native_library) == set(re.findall(r"(?m)^NERVE_API [^;]*?\b(nerve_\w+)\(", header))


def test_a_library_without_the_map_and_with_a_visible_name_would_export_more(tmp_path: Path) -> None:
    source = tmp_path / "visible.cc"
    source.write_text('extern "C" int visible() { return 1; }')
    run("g++", "-shared", "-fPIC", source, "-o", tmp_path / "visible.so")
    assert exported(tmp_path / "visible.so") == {"visible"}


def test_the_library_is_linked_with_the_system_s_libraries_only(native_library: Path) -> None:
    assert [name for name in needed(native_library) if not name.startswith(SYSTEM_LIBRARIES)] == []


def test_a_program_names_the_library_with_the_version_of_its_interface(native_library: Path) -> None:
    assert "[libnerve.so.0]" in run("readelf", "-d", native_library)


def test_the_stripped_library_is_small(native_library: Path, tmp_path: Path) -> None:
    stripped = tmp_path / "libnerve.so"
    run("strip", "-o", stripped, native_library)
    size_bytes = stripped.stat().st_size
    print(f"libnerve.so, stripped: {size_bytes} bytes")  # noqa: T201
    assert size_bytes < SIZE_LIMIT_BYTES


@pytest.mark.parametrize("standard", ["c99", "c11", "c++11", "c++17"])
def test_the_header_needs_no_newer_language(standard: str, tmp_path: Path) -> None:
    compiler, name, text = ("g++", "a.cc", CPP_PROGRAM) if "++" in standard else ("gcc", "a.c", C_PROGRAM)
    (tmp_path / name).write_text(text)
    run(compiler, f"-std={standard}", *STRICT, f"-I{INCLUDE}", "-fsyntax-only", tmp_path / name)


def test_a_c_program_finds_the_installed_library_by_pkg_config(installed: Path, greeting: str, tmp_path: Path) -> None:
    assert pkg_config_output(installed, tmp_path / "a program") == greeting


def test_a_cpp_program_finds_the_installed_library_by_find_package(
    installed: Path, greeting: str, tmp_path: Path
) -> None:
    assert consumer_output(installed, tmp_path / "a program") == greeting


@pytest.mark.slow
def test_a_c_program_finds_the_static_library_by_pkg_config(
    installed_static: Path, greeting: str, tmp_path: Path
) -> None:
    assert pkg_config_output(installed_static, tmp_path / "a program", "--static") == greeting


def test_a_cpp_program_finds_the_static_library_by_find_package(
    installed_static: Path, greeting: str, tmp_path: Path
) -> None:
    assert consumer_output(installed_static, tmp_path / "a program") == greeting


def test_nothing_that_was_installed_names_a_folder_of_the_building_machine(installed_static: Path) -> None:
    texts = [path for path in installed_static.rglob("*") if path.suffix in (".cmake", ".pc", ".h", ".hpp")]
    assert len(texts) >= 5
    assert [path.name for path in texts if str(installed_static.parent) in path.read_text()] == []


@pytest.mark.slow
@pytest.mark.parametrize(("fixture", "call"), [("asan_library", "__asan_report"), ("tsan_library", "__tsan_")])
def test_a_sanitized_library_calls_its_sanitizer(fixture: str, call: str, request: pytest.FixtureRequest) -> None:
    library: Path = request.getfixturevalue(fixture)
    assert call in run("nm", "-D", "--undefined-only", library)


LEAK = "#include <stdlib.h>\nint main(void) { volatile char *lost = malloc(9); lost = NULL; return lost != NULL; }\n"
RACE = """
#include <pthread.h>
#include <stddef.h>
static int counter;
static void *count(void *unused) { ++counter; return unused; }
int main(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, count, NULL);
    ++counter;
    return pthread_join(thread, NULL);
}
"""


@pytest.mark.parametrize(("options", "text", "found"), [
    (ASAN, LEAK, "detected memory leaks"), (TSAN, RACE, "data race"),
])  # fmt: skip
def test_the_sanitizers_find_mistakes_on_this_machine(
    options: tuple[str, ...], text: str, found: str, tmp_path: Path
) -> None:
    (tmp_path / "mistake.c").write_text(text)
    run("gcc", *options, tmp_path / "mistake.c", "-o", tmp_path / "mistake", "-lpthread")
    ended = subprocess.run([str(tmp_path / "mistake")], capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert found in ended.stderr


@pytest.mark.parametrize(("fixture", "options"), [("asan_library", ASAN), ("tsan_library", TSAN)])
def test_a_program_runs_clean_with_a_sanitized_library(
    fixture: str, options: tuple[str, ...], request: pytest.FixtureRequest, greeting: str, tmp_path: Path
) -> None:
    (tmp_path / "program.c").write_text(C_PROGRAM)
    library: Path = request.getfixturevalue(fixture)
    assert run(compiled(tmp_path / "program", tmp_path / "program.c", library, *options)) == greeting


def test_headers_that_are_missing_are_asked_for(native_library: Path, tmp_path: Path) -> None:
    folder = native_library.parents[1] / "no-such-folder"
    command = (cmake() or "", "--preset", "release", "-B", tmp_path / "build", f"-DONNXRUNTIME_INCLUDE_DIR={folder}")
    said = " ".join(run(*command, cwd=NATIVE, code=1).split())
    assert "no-such-folder, which has no onnxruntime_c_api.h; run tools/fetch_headers.sh DEST" in said


def test_headers_that_are_too_old_are_refused(native_library: Path, tmp_path: Path) -> None:
    assert native_library.is_file()
    (tmp_path / "onnxruntime_c_api.h").write_text("#define ORT_API_VERSION 17\n")
    command = (cmake() or "", "--preset", "release", "-B", tmp_path / "build", f"-DONNXRUNTIME_INCLUDE_DIR={tmp_path}")
    said = " ".join(run(*command, cwd=NATIVE, code=1).split())
    assert "are of ONNX Runtime 1.17, expected 1.21 or later" in said


TENSORRT = {
    "TensorRT 10": ("#define NV_TENSORRT_MAJOR 10\n", "ON", True),
    "later names": ("#define TRT_MAJOR_ENTERPRISE 11\n#define NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE\n", "ON", True),
    "not wanted": ("#define NV_TENSORRT_MAJOR 10\n", "OFF", False),
    "TensorRT 8": ("#define NV_TENSORRT_MAJOR 8\n", "ON", False),
}


@pytest.mark.parametrize("kind", TENSORRT)
def test_tensorrt_is_used_where_it_is_found_in_a_version_that_will_do(
    kind: str, native_library: Path, tmp_path: Path
) -> None:
    version, option, used = TENSORRT[kind]
    (tmp_path / "NvInferVersion.h").write_text(version)
    for name in ("NvInfer.h", "cuda_runtime_api.h", "libnvinfer.so", "libcudart.so"):
        (tmp_path / name).touch()
    folder = configure(
        tmp_path / "build", f"-DONNXRUNTIME_INCLUDE_DIR={native_library.parents[1] / 'native-headers'}",
        f"-DNVINFER_INCLUDE_DIR={tmp_path}", f"-DNERVE_NVINFER_LIBRARY={tmp_path / 'libnvinfer.so'}",
        f"-DNERVE_CUDART_LIBRARY={tmp_path / 'libcudart.so'}", f"-DNERVE_NVINFER={option}",
    )  # fmt: skip
    assert ("NERVE_HAVE_NVINFER=1" in (folder / "compile_commands.json").read_text()) == used
