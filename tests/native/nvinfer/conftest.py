"""The library built against the stand-ins of TensorRT, and a bundle with engines for them."""

import ctypes
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nerve_runtime import NerveError, Temporal
from nerve_runtime.bundle.ledger import Ledger
from tests.native.binding import NativeSegmenter, open_library, params_for
from tests.native.building import missing_for_build
from tests.native.standin import (
    TENSORRT_NATIVE,
    Standin,
    add_engines,
    build_against_standins,
)


@pytest.fixture(scope="session")
def standin_folder() -> Path:
    """The folder of libnerve.so, built against the stand-ins."""
    missing = missing_for_build()
    if missing is not None:
        pytest.skip(missing)
    return build_against_standins("release")


@pytest.fixture(scope="module")
def library(standin_folder: Path) -> ctypes.CDLL:
    """The C library with TensorRT, opened."""
    return open_library(standin_folder / "libnerve.so")


@pytest.fixture
def standin(
    library: ctypes.CDLL, standin_folder: Path, onnxruntime_library: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Standin]:
    """The stand-ins; checks that they were used as TensorRT has to be used, and that all was given back."""
    monkeypatch.setenv("STANDIN_ONNXRUNTIME", str(onnxruntime_library))
    standin = Standin(standin_folder / "standins")
    standin.become()
    before = standin.counts()
    yield standin
    standin.no_faults()
    after = standin.counts()
    assert after["misuses"] == before["misuses"], standin.misuse()
    for name in ("device_blocks", "pinned_blocks", "engines", "contexts", "streams"):
        assert after[name] == before[name], name


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """This user's list of engines, for the time of a test."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return Ledger()


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle without engines."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture
def compiled_bundle(bundle: Path, ledger: Ledger) -> Path:
    """The same with an approved engine for each stage."""
    add_engines(bundle, ledger)
    return bundle


@pytest.fixture
def opened(
    library: ctypes.CDLL,
    onnxruntime_library: Path,
    standin: Standin,
    compiled_bundle: Path,
    vocabularies: dict[str, Path],
) -> Callable[..., NativeSegmenter]:
    """Opens the bundle's engines with the vocabulary `few`."""

    def open_engines(temporal: Temporal | None = None, **fields: Any) -> NativeSegmenter:
        params = params_for(library, onnxruntime_library, temporal, provider=TENSORRT_NATIVE, **fields)
        native = NativeSegmenter.open(library, compiled_bundle, params)
        try:
            native.set_vocabulary(vocabularies["few"])
        except NerveError:
            native.close()
            raise
        return native

    return open_engines
