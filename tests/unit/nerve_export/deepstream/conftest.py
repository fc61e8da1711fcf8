"""A DeepStream application of the tiny bundle, and its library built against stand-ins of DeepStream's headers."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from nerve_export.deepstream.application import write_application
from nerve_runtime.bundle.manifest import Manifest, load_manifest
from nerve_runtime.vocabulary.text_bank import TextBank, text_sha256
from nerve_runtime.vocabulary.vocabulary_file import vocabulary_bytes
from tests.data.tiny_bundle import tiny_bundle_folder
from tests.unit.nerve_export.deepstream.library import STAND_INS, Library

NAMES = ("background", "dog", "car")


def bank(manifest: Manifest, *, has_background: bool = True) -> TextBank:
    """Three classes with made-up embeddings, of which the last has two."""
    width = manifest.geometry.text_width
    embeddings = np.random.default_rng(0).standard_normal((4, width)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    rows = np.array([[0, 0], [1, 1], [2, 3]])
    return TextBank(embeddings, rows, np.ones(3, dtype=np.bool_), NAMES, has_background)


@pytest.fixture(scope="session")
def bundle() -> Path:
    return tiny_bundle_folder()


@pytest.fixture(scope="session")
def manifest(bundle: Path) -> Manifest:
    return load_manifest(bundle)


@pytest.fixture(scope="session")
def vocabulary(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("words") / "words.safetensors"
    path.write_bytes(vocabulary_bytes(bank(manifest), text_sha256(manifest)))
    return path


@pytest.fixture(scope="session")
def application(bundle: Path, vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_application(bundle, vocabulary, tmp_path_factory.mktemp("deepstream") / "app", url=None, force=False)


@pytest.fixture(scope="session")
def deepstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as DeepStream's, with stand-ins of its headers and libraries."""
    missing = [tool for tool in ("g++", "make") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    root = tmp_path_factory.mktemp("stand_ins")
    shutil.copytree(STAND_INS, root / "sources" / "includes")
    (root / "lib").mkdir()
    built = root / "lib" / "libnvds_meta.so"
    source = STAND_INS / "nvds_meta.cc"
    subprocess.run(["g++", "-std=c++17", "-Wall", "-Werror", "-fPIC", "-shared", source, "-o", built], check=True)
    (root / "lib" / "libnvdsgst_meta.so").symlink_to(built)
    return root


@pytest.fixture(scope="session")
def library(application: Path, deepstream: Path) -> Library:
    return Library(application, deepstream)
