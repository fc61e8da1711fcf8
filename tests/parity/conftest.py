"""One bundle, one set of networks and one bank of words for all parity tests."""

from pathlib import Path

import pytest

from nerve_bench.measure.accuracy import World
from nerve_export.parity.reference import reference_taps
from nerve_export.presets.files import Preset, presets
from nerve_ref.weights.networks import Models, tiny_models
from nerve_runtime.bundle.manifest import Manifest, load_manifest
from tests.data.tiny_bundle import tiny_bundle_folder


@pytest.fixture(scope="session")
def bundle() -> Path:
    return tiny_bundle_folder()


@pytest.fixture(scope="session")
def manifest(bundle: Path) -> Manifest:
    return load_manifest(bundle)


@pytest.fixture(scope="session")
def models() -> Models:
    return tiny_models()


@pytest.fixture(scope="session")
def preset() -> Preset:
    return presets()["tiny"]


@pytest.fixture(scope="session")
def taps(models: Models, preset: Preset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the reference says about two frames and a short video, computed once."""
    folder = tmp_path_factory.mktemp("taps")
    reference_taps(models, preset.params, preset.parity_classes, 2, folder)
    return folder


@pytest.fixture(scope="session")
def world(models: Models, preset: Preset) -> World:
    return World.open(models, preset.params)
