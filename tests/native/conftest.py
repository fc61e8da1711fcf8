"""What the tests of the native library share: the library itself, built once, and the ONNX Runtime that it opens."""

from pathlib import Path

import numpy as np
import pytest

from nerve_runtime.frames import UInt8Array
from tests.native.binding import installed_onnxruntime
from tests.native.building import ASAN, ROOT, build, missing_for_build
from tests.native.parity_set import parity_frames, write_vocabularies
from tests.native.words_library import Words, compiled_words


def _built(preset: str) -> Path:
    missing = missing_for_build()
    if missing is not None:
        pytest.skip(missing)
    return build(preset) / "libnerve.so"


@pytest.fixture(scope="session")
def native_library() -> Path:
    """libnerve.so as it is released."""
    return _built("release")


@pytest.fixture(scope="session")
def asan_library() -> Path:
    """libnerve.so with the address, undefined behaviour and leak sanitizers; a program links it with `building.ASAN`."""
    return _built("asan")


@pytest.fixture(scope="session")
def tsan_library() -> Path:
    """libnerve.so with the thread sanitizer; a program links it with `building.TSAN`."""
    return _built("tsan")


@pytest.fixture(scope="session")
def onnxruntime_library() -> Path:
    """The ONNX Runtime that the PyPI package brings."""
    library = installed_onnxruntime()
    if library is None:
        pytest.skip("not installed: onnxruntime")
    return library


@pytest.fixture(scope="session")
def tiny_bundle() -> Path:
    """bundles/tiny of this checkout."""
    from tests.data.tiny_bundle import tiny_bundle_folder

    return tiny_bundle_folder()


@pytest.fixture(scope="session")
def tiny_vocabulary(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary file of three classes for `tiny_bundle`."""
    from tests.native.vocabulary_files import write_vocabulary

    return write_vocabulary(tiny_bundle, tmp_path_factory.mktemp("vocabulary") / "words.safetensors")


@pytest.fixture(scope="session")
def frames() -> list[UInt8Array]:
    """The frames of the parity set."""
    return parity_frames()


@pytest.fixture(scope="session")
def vocabularies(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The vocabulary files of the parity set."""
    return write_vocabularies(tiny_bundle, tmp_path_factory.mktemp("vocabularies"))


@pytest.fixture(scope="session")
def picture_ppm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In one file, as binary PPM: two scenes of the world, 144 high and 200 wide, and the first frame of the shipped clip."""
    import av
    import cv2

    from nerve_bench.world import make_scene

    path = tmp_path_factory.mktemp("picture") / "scenes.ppm"
    with path.open("wb") as file:
        for seed in (1, 2):
            rgb = cv2.resize(np.ascontiguousarray(make_scene(seed).rgb), (200, 144), interpolation=cv2.INTER_AREA)
            file.write(b"P6 200 144 255\n" + rgb.tobytes())
        with av.open(str(ROOT / "runtime" / "nerve_stream" / "demo" / "clip.mp4")) as clip:
            rgb = next(clip.decode(video=0)).to_ndarray(format="rgb24")
        file.write(f"P6 {rgb.shape[1]} {rgb.shape[0]} 255\n".encode() + rgb.tobytes())
    return path


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Words:
    return Words(compiled_words(tmp_path_factory.mktemp("words") / "words.so", "-shared"))


@pytest.fixture(scope="session")
def sanitized_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled_words(tmp_path_factory.mktemp("words") / "words", "-DWORDS_PROGRAM", *ASAN)
