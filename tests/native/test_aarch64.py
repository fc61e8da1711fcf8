"""The library for 64-bit ARM labels as the one for this processor does, under an emulator with ARM's own ONNX Runtime."""

import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.native.building import BUILD_FOLDERS, HEADERS, INCLUDE, STRICT, build, compiled, missing_for_build, run

pytestmark = [pytest.mark.native, pytest.mark.slow]
ARM = BUILD_FOLDERS["aarch64"]
LABELS = Path(__file__).with_name("labels.c")
COMPILER = "aarch64-linux-gnu-gcc"
# ONNX Runtime reads the processor from /proc/cpuinfo, and crashes where that describes another kind than it was built for.
CPUINFO = """\
processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp ssbs
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1
"""
PROCESSOR = "neoverse-n1"
"""The emulated processor, which is the one of `CPUINFO`."""
AS_ROOT_OF_ITS_OWN = ("unshare", "--map-root-user", "--mount")


def _missing() -> str | None:
    if platform.machine() == "aarch64":
        return "this machine is a 64-bit ARM: the other tests check it"
    for tool, package in (
        (COMPILER, "g++-aarch64-linux-gnu"),
        ("qemu-aarch64", "qemu-user"),
        ("unshare", "util-linux"),
    ):
        if shutil.which(tool) is None:
            return f"{tool} is missing: install {package}"
    if subprocess.run([*AS_ROOT_OF_ITS_OWN, "true"], check=False, capture_output=True).returncode:
        return "this machine lets nobody mount a file for one process: unshare --map-root-user --mount fails"
    if not (ARM / "onnxruntime" / ".fetched").is_file():
        return "there is no ONNX Runtime for ARM in build/native-aarch64: run make native-arm"
    return missing_for_build()


@pytest.fixture(scope="module")
def arm_library() -> Path:
    """libnerve.so for 64-bit ARM."""
    missing = _missing()
    if missing is not None:
        pytest.skip(missing)
    return build("aarch64") / "libnerve.so"


@pytest.fixture(scope="module")
def arm_onnxruntime() -> Path:
    """The ONNX Runtime for 64-bit ARM that PyPI has."""
    (library,) = (ARM / "onnxruntime").glob("unpacked/onnxruntime/capi/libonnxruntime.so.1.*")
    return library


def sysroot() -> Path:
    """The folder with ARM's dynamic loader, C and C++ libraries."""
    found = Path(run(COMPILER, "-print-file-name=libstdc++.so.6").strip()).resolve()
    return found.parents[1]


def emulated(folder: Path, *command: str | Path) -> str:
    """Run a program of ARM, to which this machine describes itself as one, and hand back its output."""
    cpuinfo = folder / "cpuinfo"
    cpuinfo.write_text(CPUINFO)
    script = 'mount --bind "$0" /proc/cpuinfo && exec "$@"'
    emulator = ("qemu-aarch64", "-cpu", PROCESSOR, "-L", sysroot())
    return run(*AS_ROOT_OF_ITS_OWN, "sh", "-c", script, cpuinfo, *emulator, *command)


def arm_program(library: Path, source: Path, output: Path) -> Path:
    """Compile a C program for ARM against the library for ARM."""
    return compiled(output, source, library, "-std=c99", compiler=COMPILER)


def test_the_library_for_arm_is_one_and_loads(arm_library: Path, tmp_path: Path) -> None:
    source = tmp_path / "version.c"
    source.write_text(
        '#include <stdio.h>\n#include "nerve/nerve.h"\nint main(void) { return puts(nerve_version()) < 0; }\n'
    )
    assert "AArch64" in run("readelf", "-h", arm_library)
    program = arm_program(arm_library, source, tmp_path / "version")
    assert emulated(tmp_path, program).strip().encode() in arm_library.read_bytes()


def test_arm_s_own_onnx_runtime_works_here(arm_library: Path, arm_onnxruntime: Path, tmp_path: Path) -> None:
    source = tmp_path / "version.c"
    source.write_text(
        "#include <dlfcn.h>\n#include <stdio.h>\n#include <onnxruntime_c_api.h>\n"
        "int main(int count, char **words) {\n"
        "    void *library = count == 2 ? dlopen(words[1], RTLD_NOW) : NULL;\n"
        "    const OrtApiBase *(*base)(void);\n"
        "    OrtEnv *env = NULL;\n"
        '    *(void **)&base = library ? dlsym(library, "OrtGetApiBase") : NULL;\n'
        "    if (base == NULL) return 1;\n"
        "    puts(base()->GetVersionString());\n"
        '    return base()->GetApi(ORT_API_VERSION)->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "arm", &env) != NULL;\n'
        "}\n"
    )
    program = compiled(
        tmp_path / "version", source, arm_library, f"-I{HEADERS}", "-Wno-pedantic", "-ldl", compiler=COMPILER
    )
    assert arm_onnxruntime.name.endswith(emulated(tmp_path, program, arm_onnxruntime).strip())


@pytest.mark.slow
def test_arm_labels_a_picture_as_this_processor_does(
    arm_library: Path, arm_onnxruntime: Path, native_library: Path, onnxruntime_library: Path,
    tiny_bundle: Path, tiny_vocabulary: Path, picture_ppm: Path, tmp_path: Path,
) -> None:  # fmt: skip
    here, arm = tmp_path / "here", tmp_path / "arm"
    words = (tiny_bundle, tiny_vocabulary, picture_ppm)
    run(compiled(tmp_path / "labels", LABELS, native_library, "-std=c99"), onnxruntime_library, *words, here)
    emulated(tmp_path, arm_program(arm_library, LABELS, tmp_path / "arm_labels"), arm_onnxruntime, *words, arm)
    expected, got = np.fromfile(here, np.uint8), np.fromfile(arm, np.uint8)
    assert len(expected) == len(got) == 2 * 144 * 200 + 256 * 256
    assert len(np.unique(expected)) > 1
    assert np.count_nonzero(expected != got) == 0


def test_the_program_that_labels_is_plain_c(tmp_path: Path) -> None:
    run("gcc", "-std=c99", *STRICT, f"-I{INCLUDE}", "-fsyntax-only", LABELS, cwd=tmp_path)
