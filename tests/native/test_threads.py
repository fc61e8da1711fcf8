"""Segmenters in several threads at once give the labels of one, without a race."""

from pathlib import Path

import pytest

from tests.native.building import INCLUDE, STRICT, TSAN, run

pytestmark = [pytest.mark.native, pytest.mark.slow]
SOURCE = Path(__file__).with_name("two_threads.cc")
# ONNX Runtime is not built with the sanitizer, which therefore does not see how its threads wait for each other.
SUPPRESSIONS = "race:libonnxruntime\nmutex:libonnxruntime\nthread:libonnxruntime\ncalled_from_lib:libonnxruntime\n"


def compiled(output: Path, library: Path, *flags: str) -> Path:
    """The program, linked with a library."""
    run("g++", "-std=c++17", "-O1", *STRICT, f"-I{INCLUDE}", "-DNERVE_WITHOUT_OPENCV", *flags, SOURCE, library,
        f"-Wl,-rpath,{library.parent}", "-pthread", "-o", output)  # fmt: skip
    return output


def test_segmenters_in_three_threads_race_for_nothing(
    tsan_library: Path, onnxruntime_library: Path, tiny_bundle: Path, tiny_vocabulary: Path, tmp_path: Path
) -> None:
    program = compiled(tmp_path / "two_threads", tsan_library, *TSAN)
    suppressions = tmp_path / "suppressions.txt"
    suppressions.write_text(SUPPRESSIONS)
    options = {"TSAN_OPTIONS": f"halt_on_error=1:suppressions={suppressions}"}
    output = run("setarch", "-R", program, onnxruntime_library, tiny_bundle, tiny_vocabulary, env=options)
    assert output.splitlines()[-1] == "equal"


def test_a_race_would_be_seen(tmp_path: Path) -> None:
    racing = tmp_path / "racing.cc"
    racing.write_text(
        "#include <thread>\nint shared = 0;\n"
        "int main() { std::thread other([] { for (int i = 0; i < 9999; ++i) ++shared; });\n"
        "for (int i = 0; i < 9999; ++i) ++shared; other.join(); return shared == 0; }\n"
    )
    run("g++", *TSAN, racing, "-pthread", "-o", tmp_path / "racing")
    assert "data race" in run("setarch", "-R", tmp_path / "racing", env={"TSAN_OPTIONS": "halt_on_error=1"}, code=66)
