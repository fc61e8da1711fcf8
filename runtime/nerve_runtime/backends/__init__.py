"""What runs the graphs. Each back end is a file here, imported only when it is asked for."""

from pathlib import Path
from typing import Any

from nerve_runtime.backends.base import Backend, Providers, Session
from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.errors import UsageError

BACKEND_NAMES = ("auto", "ort", "tensorrt", "rtx", "fake")

__all__ = ["BACKEND_NAMES", "Backend", "Providers", "Session", "open_backend"]


def open_backend(
    name: str,
    bundle: Path,
    manifest: Manifest,
    *,
    providers: Providers = "cpu",
    threads: int = 0,
    spinning: bool = False,
    trust_engines: bool = False,
    allow_unchecked: bool = False,
) -> Backend:
    """Open a back end by name. Only "auto" may choose; any other name is that back end or an error.

    "auto" takes the bundle's engines where all of them fit this machine, were built here and agreed with the reference,
    and ONNX Runtime elsewhere.

    Args:
        name: one of `BACKEND_NAMES`.
        bundle: the bundle's folder.
        manifest: its manifest.
        providers: for ONNX Runtime, the processor the graphs run on.
        threads: for ONNX Runtime, threads of one graph run; 0 lets it choose.
        spinning: for ONNX Runtime, idle threads wait by spinning, see `Segmenter.open`.
        trust_engines: run compiled engines that were not built here; they are executable code.
        allow_unchecked: run compiled engines that were never compared with the reference.

    Raises:
        UsageError: the name is unknown, or `threads` is negative.
        CompatibilityError: the library is missing or cannot do what was asked.
    """
    if name not in BACKEND_NAMES:
        raise UsageError(f"backend is {name!r}, expected one of {', '.join(BACKEND_NAMES)}")
    if providers not in ("cpu", "cuda"):
        raise UsageError(f"providers is {providers!r}, expected cpu or cuda")
    if threads < 0:
        raise UsageError(f"threads is {threads}, expected 0 (the library chooses) or more")
    waived: dict[str, Any] = {"trust_engines": trust_engines, "allow_unchecked": allow_unchecked}
    if name in ("tensorrt", "rtx"):
        from nerve_runtime.backends.tensorrt.backend import TrtBackend

        return TrtBackend(bundle, manifest, library="tensorrt" if name == "tensorrt" else "tensorrt_rtx", **waived)
    if name == "fake":
        from nerve_runtime.backends.fake import FakeBackend

        return FakeBackend(manifest)
    why = ""
    if name == "auto" and manifest.engines:
        from nerve_runtime.backends.tensorrt.backend import automatic_engines

        engines, why = automatic_engines(bundle, manifest, **waived)
        if engines is not None:
            return engines
    from nerve_runtime.backends.ort import OrtBackend

    auto = name == "auto"
    return OrtBackend(
        bundle, manifest, providers=providers, threads=threads, spinning=spinning, chosen_by_auto=auto, why=why
    )
