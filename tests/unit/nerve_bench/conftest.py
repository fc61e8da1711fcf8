"""The tiny preset as the benchmarks see it; no test here depends on how good its networks are."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from nerve_bench.measure.accuracy import World
from nerve_bench.tiny.dataset import ProgressFactory
from nerve_export.presets.files import presets
from nerve_ref.weights.networks import tiny_models
from tests.data.tiny_bundle import tiny_bundle_folder


@pytest.fixture(scope="session")
def world() -> World:
    return World.open(tiny_models(), presets()["tiny"].params)


@pytest.fixture(scope="session")
def bundle() -> Path:
    return tiny_bundle_folder()


class QuietProgress(ProgressFactory):
    """A progress bar that is none."""

    def __call__(self, items: Iterable[Any], description: str, total: float | None = None) -> Iterable[Any]:
        return items


quietly = QuietProgress()
