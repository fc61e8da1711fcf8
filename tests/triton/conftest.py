"""What the tests of a real Triton server share: bundles, repositories of them, frames."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nerve_export.triton.repository import write_repository
from nerve_export.triton.settings import Settings
from nerve_runtime.frames import UInt8Array
from tests.native.parity_set import parity_frames
from tests.triton.server import require_server, runnable_repository

collect_ignore = ["models"]
"""These run in the server alone, and import what exists there."""
MakeRepository = Callable[[Path, Settings], Path]


@pytest.fixture(scope="session")
def tiny_bundle() -> Path:
    """bundles/tiny of this checkout."""
    from tests.data.tiny_bundle import tiny_bundle_folder

    require_server()
    return tiny_bundle_folder()


@pytest.fixture(scope="session")
def batched_bundle() -> Path:
    """bundles/tiny-batch of this checkout, for several frames in a run."""
    from tests.data.tiny_bundle import batch_bundle_folder

    require_server()
    return batch_bundle_folder()


@pytest.fixture(scope="session")
def frames() -> list[UInt8Array]:
    """The frames of the parity set."""
    return parity_frames()


@pytest.fixture(scope="module")
def make_repository(tmp_path_factory: pytest.TempPathFactory) -> MakeRepository:
    """Write a repository as `nerve-build triton` does, then let its graphs be run in Python."""

    def make(bundle: Path, settings: Settings) -> Path:
        folder = tmp_path_factory.mktemp("repository") / "models"
        write_repository(bundle, folder, settings)
        runnable_repository(folder)
        return folder

    return make
