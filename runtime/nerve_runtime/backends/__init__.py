"""What runs the graphs. Each back end is a module here, imported when it is first opened; yours is registered by name."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from nerve_runtime.backends.base import Backend, BackendOptions, DeviceTensor, Providers, Session, Tensor
from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.errors import UsageError

__all__ = [
    "BACKEND_NAMES", "Backend", "BackendOptions", "DeviceTensor", "Providers", "Session", "Tensor", "open_backend",
    "register_backend",
]  # fmt: skip

BackendFactory = Callable[[Path, Manifest, BackendOptions], Backend]
"""Opens a back end for a bundle's folder and its manifest."""


def open_backend(name: str, bundle: Path, manifest: Manifest, options: BackendOptions | None = None) -> Backend:
    """Open a back end by name. Only "auto" may choose; any other name is that back end or an error.

    "auto" takes the bundle's engines where all of them fit this machine, were built here and agreed with the reference,
    and ONNX Runtime elsewhere.

    Args:
        name: one of `BACKEND_NAMES`, or a name given to `register_backend`.
        bundle: the bundle's folder.
        manifest: its manifest.
        options: how to run the graphs; None for the defaults.

    Raises:
        UsageError: the name is unknown.
        CompatibilityError: the library is missing or cannot do what was asked.
    """
    if name not in _FACTORIES:
        raise UsageError(f"backend is {name!r}, expected one of {', '.join(_FACTORIES)}")
    return _FACTORIES[name](bundle, manifest, options or BackendOptions())


def register_backend(name: str, factory: BackendFactory) -> None:
    """Let `open_backend(name, ...)` and `Segmenter.open(backend=name)` of this process open a back end of your own.

    Args:
        name: any that is not taken.
        factory: called with the bundle's folder, its manifest and the options; a `Backend` subclass with that
            `__init__` will do. See `nerve_runtime.backends.base` for an example.

    Raises:
        UsageError: the name belongs to another back end.
    """
    if _FACTORIES.setdefault(name, factory) is not factory:
        raise UsageError(f"a back end {name!r} is registered already; choose another name")


def _open_tensorrt(
    library: Literal["tensorrt", "tensorrt_rtx"], bundle: Path, manifest: Manifest, options: BackendOptions
) -> Backend:
    from nerve_runtime.backends.tensorrt.backend import TrtBackend

    return TrtBackend(bundle, manifest, options, library=library)


def _open_onnx_runtime(bundle: Path, manifest: Manifest, options: BackendOptions, **choice: Any) -> Backend:
    from nerve_runtime.backends.ort import OrtBackend

    return OrtBackend(bundle, manifest, options, **choice)


def _open_fake(bundle: Path, manifest: Manifest, options: BackendOptions) -> Backend:
    from nerve_runtime.backends.fake import FakeBackend

    return FakeBackend(manifest)


def _open_best(bundle: Path, manifest: Manifest, options: BackendOptions) -> Backend:
    engines, reason = None, ""
    if manifest.engines:
        from nerve_runtime.backends.tensorrt.backend import automatic_engines

        engines, reason = automatic_engines(bundle, manifest, options)
    return engines or _open_onnx_runtime(bundle, manifest, options, chosen_by_auto=True, reason=reason)


_FACTORIES: dict[str, BackendFactory] = {
    "auto": _open_best,
    "ort": _open_onnx_runtime,
    "tensorrt": partial(_open_tensorrt, "tensorrt"),
    "rtx": partial(_open_tensorrt, "tensorrt_rtx"),
    "fake": _open_fake,
}
BACKEND_NAMES = tuple(_FACTORIES)
"""The back ends that come with the package."""
