"""Programs that were built with an older header go on working with a newer library."""

from pathlib import Path

import pytest

from tests.native.building import ASAN, INCLUDE, STRICT, compiled, run

pytestmark = pytest.mark.native
OLD_PROGRAM = Path(__file__).with_name("old_params.c")
NERVE_BUNDLE = 3
LAYOUT = """
#include "nerve/nerve.h"
#define AT(type, field, bytes) _Static_assert(offsetof(type, field) == bytes, #type "." #field " moved")
AT(nerve_params, onnxruntime, 8);
AT(nerve_params, provider, 40);
AT(nerve_params, keyframe_every, 68);
AT(nerve_params, scores_every, 72);
AT(nerve_params, longest_s, 80);
AT(nerve_params, threshold, 144);
AT(nerve_info, random_weights, 28);
AT(nerve_frame, flow, 48);
AT(nerve_result, total_ms, 48);
int main(void) { return 0; }
"""


@pytest.fixture(scope="module")
def old_program(asan_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """old_params.c with the address sanitizer."""
    return compiled(tmp_path_factory.mktemp("old") / "old_params", OLD_PROGRAM, asan_library, *ASAN)


def test_no_field_of_the_structs_has_moved(tmp_path: Path) -> None:
    source = tmp_path / "layout.c"
    source.write_text(LAYOUT)
    run("gcc", "-std=c11", *STRICT, f"-I{INCLUDE}", "-fsyntax-only", source)


def test_a_field_that_moved_would_be_seen(tmp_path: Path) -> None:
    source = tmp_path / "layout.c"
    source.write_text(LAYOUT.replace("longest_s, 80", "longest_s, 76"))
    assert "nerve_params.longest_s moved" in run("gcc", f"-I{INCLUDE}", "-fsyntax-only", source, code=1)


@pytest.mark.slow
def test_an_older_struct_is_filled_in_without_a_byte_behind_it(old_program: Path) -> None:
    codes = run(old_program).splitlines()[-1].split()
    assert codes == [str(NERVE_BUNDLE)] * 2


@pytest.mark.slow
def test_an_older_program_opens_a_bundle(old_program: Path, onnxruntime_library: Path, tiny_bundle: Path) -> None:
    assert run(old_program, onnxruntime_library, tiny_bundle).splitlines()[-1] == "0 0"


def test_the_use_that_the_header_shows_compiles(tmp_path: Path) -> None:
    header = (INCLUDE / "nerve" / "nerve.h").read_text(encoding="utf-8")
    shown = [line[7:] for line in header.splitlines() if line.startswith(" *     ")]
    assert 10 < len(shown) <= 16
    source = tmp_path / "use.c"
    source.write_text(
        "#include <math.h>\n#include <stdio.h>\n#include <nerve/nerve.h>\n"
        "int use(const uint8_t *pixels, int height, int width, uint8_t *labels, size_t labels_bytes) {\n"
        + "\n".join(shown)
        + "\nreturn 0; }\n"
    )
    run("gcc", "-std=c99", *STRICT, f"-I{INCLUDE}", "-fsyntax-only", source)
