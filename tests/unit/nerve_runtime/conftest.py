from pathlib import Path

import pytest

from nerve_runtime.bundle.manifest import Manifest, load_manifest
from tests.data.fake_bundle import make_fake_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for the fake back end; not to be changed by a test."""
    return make_fake_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def manifest(bundle: Path) -> Manifest:
    return load_manifest(bundle)
