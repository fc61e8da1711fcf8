"""nerve.hpp: owners, exceptions, and OpenCV."""

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

from nerve_runtime.temporal import Temporal
from tests.native.programs import (
    ASAN,
    HERE,
    OPENCV_INCLUDE,
    compiled,
    fake_bundle,
    fake_library,
    linked,
    opencv_flags,
    real_library,
    run,
)

pytestmark = [pytest.mark.native, pytest.mark.slow]

WRAPPER_CHECKS = (
    "background_is_class_0",
    "bad_arguments_are_refused_by_the_library",
    "every_call_throws_what_the_library_says",
    "info_and_description_are_the_librarys",
    "labels_of_16_bits",
    "labels_of_8_bits",
    "memory_that_runs_out_changes_nothing",
    "moves_keep_one_owner",
    "no_label_is_minus_one",
    "places_outside_are_refused",
    "stop_ends_a_frame",
    "videos_outlive_their_parent",
    "warnings_arrive",
)
OPENCV_CHECKS = (
    "flow_takes_no_first_guess",
    "matrices_are_labelled",
    "motion_is_followed_from_the_second_frame",
    "motion_is_forgotten_with_the_frame_before",
    "motion_is_not_measured_where_nothing_uses_it",
    "other_matrices_are_refused",
    "overlays_colour_labels",
)
PROGRAM = """
#include <nerve/nerve.hpp>
#include <cstdio>
#include <cstdlib>

int main(int argc, char** argv) {
    nerve::Params params;
    params.onnxruntime = std::getenv("NERVE_ONNXRUNTIME");
    nerve::Segmenter segmenter(argv[1], params);
    segmenter.set_classes(argv[2]);
    std::vector<unsigned char> rgb(%d * %d * 3);
    if (argc != 3 || std::fread(rgb.data(), 1, rgb.size(), stdin) != rgb.size()) return 9;
    const nerve::Result result = segmenter.segment(rgb.data(), %d, %d);
    std::fwrite(result.labels8.data(), 1, result.labels8.size(), stdout);
    std::fwrite(result.confidence.data(), 1, result.confidence.size(), stdout);
}
"""
USES_MOTION = """
#include <nerve/nerve.hpp>
#include <cstdio>

int main() {
    nerve::Params params = nerve::Params::video();
    int between;
    while (std::scanf("%d %d %lf %lf %lf", &params.keyframe_every, &between, &params.smoothing, &params.change,
                      &params.cut) == 5) {
        params.between = between;
        std::printf("%d\\n", params.uses_motion());
    }
}
"""


@pytest.fixture(scope="module")
def wrapper_checks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wrapper")
    sources = (HERE / "wrapper_checks.cc", HERE / "fake_nerve.cc")
    return compiled(folder / "wrapper_checks", sources, "-std=c++17", *ASAN, "-Wshadow", "-DNERVE_WITHOUT_OPENCV")


@pytest.fixture(scope="module")
def wrapper_checks_with_opencv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wrapper_with_opencv")
    flags = opencv_flags("core", "video")
    return compiled(
        folder / "wrapper_checks", (HERE / "wrapper_checks.cc", HERE / "fake_nerve.cc"), "-std=c++17", "-O1", *flags
    )


@pytest.fixture(scope="module")
def opencv_checks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("opencv")
    flags = opencv_flags("core", "video")
    return compiled(
        folder / "opencv_checks", (HERE / "opencv_checks.cc", HERE / "fake_nerve.cc"), "-std=c++17", *ASAN, *flags
    )


@pytest.mark.parametrize("name", WRAPPER_CHECKS)
def test_the_wrapper_does_so_without_a_leak(wrapper_checks: Path, tmp_path: Path, name: str) -> None:
    run([str(wrapper_checks), name, str(fake_bundle(tmp_path))])


def test_every_check_of_the_wrapper_is_run(wrapper_checks: Path) -> None:
    assert tuple(run([str(wrapper_checks), "names"])[0].decode().split()) == WRAPPER_CHECKS


def test_a_segmenter_that_is_never_closed_is_found(tmp_path: Path) -> None:
    source = tmp_path / "leak.cc"
    source.write_text(
        "#include <nerve/nerve.hpp>\nint main(int, char** argv) { new nerve::Segmenter(argv[1]); return 0; }\n"
    )
    leak = compiled(tmp_path / "leak", (source, HERE / "fake_nerve.cc"), "-std=c++17", *ASAN, "-DNERVE_WITHOUT_OPENCV")
    assert "LeakSanitizer" in run([str(leak), str(fake_bundle(tmp_path))], code=1)[1]


def test_grey_that_fails_throws_too(wrapper_checks_with_opencv: Path, tmp_path: Path) -> None:
    run([str(wrapper_checks_with_opencv), "every_call_throws_what_the_library_says", str(fake_bundle(tmp_path))])


@pytest.mark.parametrize("name", OPENCV_CHECKS)
def test_opencv_does_so_without_a_leak(opencv_checks: Path, tmp_path: Path, name: str) -> None:
    log = {"NERVE_FAKE_LOG": str(tmp_path / "frames.log")}
    run([str(opencv_checks), name, str(fake_bundle(tmp_path))], environment=log)


def test_every_check_of_opencv_is_run(opencv_checks: Path) -> None:
    assert tuple(run([str(opencv_checks), "names"])[0].decode().split()) == OPENCV_CHECKS


@pytest.mark.parametrize("standard", ["c++14", "c++17", "c++20"])
def test_the_header_compiles_without_a_warning_in_every_standard(tmp_path: Path, standard: str) -> None:
    source = tmp_path / "program.cc"
    source.write_text(PROGRAM % (2, 2, 2, 2))
    warnings = ("-Wconversion", "-Wsign-conversion", "-Wshadow", "-Wold-style-cast", "-Wnon-virtual-dtor")
    compiled(tmp_path / "program.o", (source,), f"-std={standard}", "-O2", *warnings, "-c", "-DNERVE_WITHOUT_OPENCV")


def test_a_program_that_gives_no_matrices_needs_only_opencvs_headers(tmp_path: Path) -> None:
    opencv_flags("core", "video")
    source = tmp_path / "program.cc"
    source.write_text(PROGRAM % (2, 2, 2, 2))
    compiled(tmp_path / "program", (source, HERE / "fake_nerve.cc"), "-std=c++17", f"-isystem{OPENCV_INCLUDE}")


def test_motion_is_used_where_the_python_runtime_watches(tmp_path: Path) -> None:
    source = tmp_path / "uses_motion.cc"
    source.write_text(USES_MOTION)
    program = compiled(
        tmp_path / "uses_motion", (source, HERE / "fake_nerve.cc"), "-std=c++17", "-DNERVE_WITHOUT_OPENCV"
    )
    betweens = ("follow", "warm", "exact", "hold")  # in the order of nerve_between
    settings = list(itertools.product((1, 2), betweens, (0.0, 0.5), (0.0, 0.35), (0.0, 0.45)))
    lines = [f"{every} {betweens.index(between)} {a} {b} {c}" for every, between, a, b, c in settings]
    answers = run([str(program)], stdin="\n".join(lines).encode())[0].split()
    watches = [
        Temporal(keyframe_every=every, between=between, smoothing=a, change=b, cut=c).watches  # type: ignore[arg-type]
        for every, between, a, b, c in settings
    ]
    assert [answer == b"1" for answer in answers] == watches


def test_flow_is_that_of_the_python_runtime(opencv_checks: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 280), dtype=np.uint8)
    scene = cv2.GaussianBlur(noise, (0, 0), 4).astype(np.float32)
    scene = np.clip((scene - scene.mean()) * 6 + 128, 0, 255).astype(np.uint8)
    before, after = np.ascontiguousarray(scene[:144, :256]), np.ascontiguousarray(scene[3:147, 5:261])
    (tmp_path / "before").write_bytes(before.tobytes())
    (tmp_path / "after").write_bytes(after.tobytes())
    names = [str(tmp_path / name) for name in ("before", "after")]
    run([str(opencv_checks), "flow", *names, "144", "256", str(tmp_path / "flow")])
    flow = np.fromfile(tmp_path / "flow", dtype=np.float32).reshape(144, 256, 2)
    expected = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(after, before, None)  # type: ignore[call-overload]  # None: no first guess
    assert np.median(flow, axis=(0, 1)) == pytest.approx([5, 3], abs=0.1)
    # The two may be different releases of OpenCV: 0.028 between 4.6 and 5.0; another preset differs by 0.043 or more.
    assert np.abs(flow - expected).mean() < 0.04


def test_the_wrapper_labels_as_the_python_runtime_does(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    from nerve_runtime import Segmenter

    library = real_library(request)
    source = tmp_path / "program.cc"
    source.write_text(PROGRAM % (96, 128, 96, 128))
    program = compiled(tmp_path / "program", (source,), "-std=c++17", "-O2", "-DNERVE_WITHOUT_OPENCV", *linked(library))
    rgb = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    classes = "ladybug; grass; sky"
    output = run([str(program), str(library.bundle), classes], stdin=rgb.tobytes(), environment=library.environment)[0]
    labels, confidence = np.frombuffer(output, dtype=np.uint8).reshape(2, 96, 128)
    with Segmenter.open(library.bundle, classes=classes, backend="ort", cache_dir=None) as segmenter:
        expected = segmenter.segment(rgb)
    assert (labels == expected.labels).mean() > 0.999
    assert np.abs(confidence.astype(int) - expected.confidence).max() <= 1


def test_the_fake_has_every_function_of_the_interface(tmp_path: Path) -> None:
    library = fake_library(tmp_path)
    exported = run(["nm", "-D", "--defined-only", str(library.path)])[0].decode().split()
    header = (HERE.parents[1] / "runtime/native/include/nerve/nerve.h").read_text()
    declared = {
        line.split("(")[0].split()[-1].lstrip("*") for line in header.splitlines() if line.startswith("NERVE_API")
    }
    assert len(declared) >= 17
    assert declared <= set(exported)
