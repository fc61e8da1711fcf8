"""The fake bundle, as the thin runtime's tests have it."""

from tests.unit.nerve_runtime.conftest import bundle, manifest

__all__ = ["bundle", "manifest"]
