"""The examples of runtime/native/examples: built, run, and what they write looked at."""

import re
import shutil
import sys
import threading
import time
from pathlib import Path
from subprocess import PIPE, Popen

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.native.programs import (
    INCLUDE,
    NATIVE,
    OPENCV_INCLUDE,
    Library,
    compiled,
    fake_library,
    linked,
    opencv_flags,
    real_library,
    run,
)

pytestmark = [pytest.mark.native, pytest.mark.slow]

EXAMPLES = NATIVE / "examples"
CLASSES = "ladybug; grass; sky"
USAGE, BUNDLE, RESOURCE = 2, 3, 6

UInt8Array = NDArray[np.uint8]


@pytest.fixture(scope="module", params=["fake", "real"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    return fake_library(tmp_path_factory.mktemp("fake")) if request.param == "fake" else real_library(request)


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return fake_library(tmp_path_factory.mktemp("fake"))


@pytest.fixture(scope="module")
def segment_ppm(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("ppm") / "segment_ppm"
    warnings = ("-Wconversion", "-Wshadow")
    return compiled(
        output, (EXAMPLES / "segment_ppm.c",), "-std=c99", "-O2", *warnings, *linked(library), compiler="gcc"
    )


@pytest.fixture(scope="module")
def segment_video(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _segment_video(library, tmp_path_factory.mktemp("video"))


def _segment_video(library: Library, folder: Path) -> Path:
    flags = opencv_flags("videoio", "imgproc", "video", "core")
    return compiled(
        folder / "segment_video", (EXAMPLES / "segment_video.cpp",), "-std=c++17", "-O2", *flags, *linked(library)
    )


def _picture() -> UInt8Array:
    """Red counts the columns, so that the fake's labels are stripes; not a multiple of anything, 3 colours."""
    rgb = np.full((45, 70, 3), 32, dtype=np.uint8)
    rgb[..., 0] = np.arange(70)
    return rgb


def _ppm(rgb: UInt8Array) -> bytes:
    return f"P6\n{rgb.shape[1]} {rgb.shape[0]}\n255\n".encode() + rgb.tobytes()


def _labels_of_pgm(pgm: bytes) -> NDArray[np.integer]:
    labels = cv2.imdecode(np.frombuffer(pgm, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    assert labels is not None
    return labels  # type: ignore[return-value]  # OpenCV types any picture as possibly of floats


def _video(path: Path, frames: int = 12) -> Path:
    """A square that moves over a smooth ground, 25 frames a second."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (128, 96))
    assert writer.isOpened()
    ground = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8), (0, 0), 5)
    ground = np.clip((ground.astype(np.float32) - 128) * 6 + 128, 0, 255).astype(np.uint8)
    for index in range(frames):
        picture = ground.copy()
        picture[30:60, 10 + 3 * index : 40 + 3 * index] = (30, 30, 220)
        writer.write(picture)
    writer.release()
    return path


def _frames(path: Path) -> list[UInt8Array]:
    capture = cv2.VideoCapture(str(path))
    frames: list[UInt8Array] = []
    while True:
        is_read, frame = capture.read()
        if not is_read:
            return frames
        frames.append(np.asarray(frame, dtype=np.uint8))


def test_the_c_example_writes_labels_and_names(library: Library, segment_ppm: Path) -> None:
    pgm, names = run(
        [str(segment_ppm), str(library.bundle), CLASSES], stdin=_ppm(_picture()), environment=library.environment
    )
    labels = _labels_of_pgm(pgm)
    assert labels.shape == (45, 70)
    assert labels.dtype == np.uint8
    assert labels.max() <= 2
    assert names == "0 ladybug\n1 grass\n2 sky\n"
    if library.is_fake:
        assert (labels == _picture()[..., 0] % 3).all()


def test_the_c_example_writes_16_bits_beyond_254_classes(library: Library, segment_ppm: Path) -> None:
    classes = "; ".join(f"class {number}" for number in range(300))
    if not library.is_fake:
        pytest.skip("the tiny bundle takes at most 254 classes")
    pgm = run([str(segment_ppm), str(library.bundle), classes], stdin=_ppm(_picture()))[0]
    labels = _labels_of_pgm(pgm)
    assert labels.dtype == np.uint16
    assert (labels == _picture()[..., 0]).all()


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (b"", "stdin is not a binary PPM"),
        (b"P5\n2 2\n255\n1234", "stdin is not a binary PPM"),
        (b"P6\n2 2\n65535\n" + bytes(24), "stdin is not a binary PPM"),
        (b"P6\n-2 2\n255\n" + bytes(12), "stdin is not a binary PPM"),
        (b"P6\n999999999999 2\n255\n" + bytes(12), "stdin is not a binary PPM"),
        (b"P6\n20000 2\n255\n" + bytes(12), "stdin is not a binary PPM"),
        (b"P6\n2 2\n255\n" + bytes(11), "the picture ends too early"),
    ],
)
def test_the_c_example_refuses_what_is_no_picture(
    library: Library, segment_ppm: Path, picture: bytes, message: str
) -> None:
    output, errors = run([str(segment_ppm), str(library.bundle), CLASSES], stdin=picture, code=USAGE)
    assert errors.startswith(f"segment_ppm: {message}")
    assert errors.count("\n") == 1
    assert output == b""


def test_the_c_example_ends_with_the_librarys_code_and_text(library: Library, segment_ppm: Path) -> None:
    picture, environment = _ppm(_picture()), library.environment
    command = [str(segment_ppm), str(library.bundle.parent / "nowhere"), CLASSES]
    errors = run(command, stdin=picture, environment=environment, code=BUNDLE)[1]
    assert "nowhere" in errors
    assert errors.count("\n") == 1
    errors = run([str(segment_ppm), str(library.bundle), "a;;b"], stdin=picture, environment=environment, code=USAGE)[1]
    assert "empty word" in errors
    assert run([str(segment_ppm)], code=USAGE)[1].startswith("segment_ppm: usage:")


@pytest.mark.parametrize("function", ["nerve_open", "nerve_set_classes", "nerve_segment"])
def test_the_c_example_passes_on_every_error(fake: Library, tmp_path: Path, function: str) -> None:
    program = compiled(
        tmp_path / "segment_ppm", (EXAMPLES / "segment_ppm.c",), "-std=c99", *linked(fake), compiler="gcc"
    )
    how = {"NERVE_FAKE_FAIL": f"{function}={RESOURCE}:memory ran out"}
    command = [str(program), str(fake.bundle), CLASSES]
    assert run(command, stdin=_ppm(_picture()), environment=how, code=RESOURCE) == (
        b"",
        "segment_ppm: memory ran out\n",
    )


def test_the_python_example_writes_what_the_c_example_writes(
    library: Library, segment_ppm: Path, tmp_path: Path
) -> None:
    (tmp_path / "picture.ppm").write_bytes(_ppm(_picture()))
    environment = {**library.environment, "LD_LIBRARY_PATH": str(library.path.parent)}
    command = [str(EXAMPLES / "segment_ctypes.py"), str(library.bundle), CLASSES]
    files = [str(tmp_path / "picture.ppm"), str(tmp_path / "labels.pgm")]
    names = run([sys.executable, *command, *files], environment=environment)[1]
    command = [str(segment_ppm), str(library.bundle), CLASSES]
    pgm, names_of_c = run(command, stdin=_ppm(_picture()), environment=library.environment)
    assert (tmp_path / "labels.pgm").read_bytes() == pgm
    assert names == names_of_c


def test_the_python_example_ends_with_the_librarys_code_and_text(library: Library, tmp_path: Path) -> None:
    (tmp_path / "picture.ppm").write_bytes(_ppm(_picture()))
    environment = {**library.environment, "LD_LIBRARY_PATH": str(library.path.parent)}
    command = [sys.executable, str(EXAMPLES / "segment_ctypes.py"), str(library.bundle), "a;;b"]
    files = [str(tmp_path / "picture.ppm"), str(tmp_path / "labels.pgm")]
    errors = run([*command, *files], environment=environment, code=USAGE)[1]
    assert errors.startswith("segment_ctypes: ")
    assert "empty word" in errors
    assert errors.count("\n") == 1


def test_the_video_example_writes_an_overlay(library: Library, segment_video: Path, tmp_path: Path) -> None:
    video, overlay = _video(tmp_path / "video.mp4"), tmp_path / "overlay.mp4"
    command = [str(segment_video), str(library.bundle), CLASSES, str(video), str(overlay)]
    errors = run(command, environment=library.environment)[1]
    assert "12 frames, 2 keyframes" in errors
    drawn, plain = _frames(overlay), _frames(video)
    assert len(drawn) == len(plain) == 12
    assert drawn[0].shape == (96, 128, 3)
    assert np.abs(drawn[5].astype(int) - plain[5]).mean() > 20  # coloured


def test_the_video_example_follows_motion_and_time(fake: Library, tmp_path: Path) -> None:
    program, video = _segment_video(fake, tmp_path), _video(tmp_path / "video.mp4")
    log = tmp_path / "frames.log"
    command = [str(program), str(fake.bundle), CLASSES, str(video), str(tmp_path / "overlay.mp4")]
    run(command, environment={"NERVE_FAKE_LOG": str(log)})
    lines = log.read_text().splitlines()
    assert ['"flow": null' in line for line in lines] == [True, *[False] * 11]
    assert ['"keyframe": 1' in line for line in lines] == [index % 10 == 0 for index in range(12)]
    times = [float(line.split('"time_s": ')[1].split(",")[0]) for line in lines]
    assert np.diff(times) == pytest.approx([0.04] * 11, abs=0.002)


def test_a_typed_line_changes_the_classes_of_the_video_example(fake: Library, tmp_path: Path) -> None:
    program, video = _segment_video(fake, tmp_path), _video(tmp_path / "video.mp4", frames=200)
    command = [str(program), str(fake.bundle), CLASSES, str(video), str(tmp_path / "overlay.mp4")]
    with Popen(command, stdin=PIPE, stderr=PIPE, text=True, env={"NERVE_FAKE_MS": "20"}) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        guard = threading.Timer(60, process.kill)
        guard.start()
        time.sleep(0.5)
        process.stdin.write("only one\nroad; car\nq\n")
        process.stdin.flush()
        lines = process.stderr.read().splitlines()
        guard.cancel()
    assert process.returncode == 0
    assert "one class alone; name at least two classes, such as 'dog; grass'; the classes stay as they are" in lines
    assert "classes are now: road; car" in lines
    frames = int(lines[-1].split(": ")[1].split(" frames")[0])
    assert 3 <= frames < 200
    assert len(_frames(tmp_path / "overlay.mp4")) == frames


def test_the_video_example_names_what_cannot_be_opened(library: Library, segment_video: Path, tmp_path: Path) -> None:
    video = _video(tmp_path / "video.mp4", frames=2)
    start = [str(segment_video), str(library.bundle), CLASSES]
    (tmp_path / "text.mp4").write_text("no video")
    for source, output, code, message in (
        (tmp_path / "nowhere.mp4", tmp_path / "overlay.mp4", USAGE, "cannot be opened as a video or a camera"),
        (tmp_path / "text.mp4", tmp_path / "overlay.mp4", USAGE, "cannot be opened as a video or a camera"),
        (video, tmp_path / "nowhere" / "overlay.mp4", RESOURCE, "cannot be written"),
    ):
        errors = run([*start, str(source), str(output)], environment=library.environment, code=code)[1]
        assert errors.splitlines()[-1].startswith("segment_video: ")
        assert message in errors
    assert "usage:" in run([str(segment_video)], code=USAGE)[1]


def test_the_examples_build_against_an_installed_library(fake: Library, tmp_path: Path) -> None:
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is missing")
    package = tmp_path / "prefix" / "lib" / "cmake" / "nerve"
    package.mkdir(parents=True)
    (package / "nerveConfig.cmake").write_text(
        "add_library(nerve::nerve SHARED IMPORTED)\n"
        f'set_target_properties(nerve::nerve PROPERTIES IMPORTED_LOCATION "{fake.path}" IMPORTED_NO_SONAME TRUE\n'
        f'    INTERFACE_INCLUDE_DIRECTORIES "{INCLUDE}")\n'
    )
    folder = tmp_path / "build"
    run([cmake, "-S", str(EXAMPLES), "-B", str(folder), f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}"])
    run([cmake, "--build", str(folder)])
    pgm = run([str(folder / "segment_ppm"), str(fake.bundle), CLASSES], stdin=_ppm(_picture()))[0]
    assert (_labels_of_pgm(pgm) == _picture()[..., 0] % 3).all()
    assert (folder / "segment_video").is_file() == OPENCV_INCLUDE.is_dir()


def test_the_code_in_the_readme_works(library: Library, tmp_path: Path) -> None:
    blocks = re.findall(r"^```(c|cpp)\n(.*?)^```$", (NATIVE / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    c, cpp, with_opencv = (code for _, code in blocks)
    main = "int main(int argc, char **argv) { static uint8_t rgb[12], labels[4]; (void)argc; %s }\n"
    (tmp_path / "use.c").write_text(c + main % "return label_first_pixel(argv[1], rgb, 2, 2, labels);")
    (tmp_path / "use.cc").write_text(cpp + main.replace(", labels[4]", "") % "label_first_pixel(argv[1], rgb, 2, 2);")
    environment = dict(library.environment)
    if not library.is_fake:  # found as the system finds libraries
        (tmp_path / "libonnxruntime.so.1").symlink_to(environment["NERVE_ONNXRUNTIME"])
        environment["LD_LIBRARY_PATH"] = str(tmp_path)
    for source, compiler in (("use.c", "gcc"), ("use.cc", "g++")):
        program = compiled(tmp_path / "use", (tmp_path / source,), *linked(library), compiler=compiler)
        assert run([str(program), str(library.bundle)], environment=environment)[0] in (b"ladybug\n", b"grass\n")
    (tmp_path / "overlay.cc").write_text(with_opencv)
    compiled(tmp_path / "overlay.o", (tmp_path / "overlay.cc",), "-c", *opencv_flags("core", "video")[:1])
