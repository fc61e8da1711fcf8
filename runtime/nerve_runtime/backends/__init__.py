"""What runs the graphs. Each back end is a file here, imported only when it is asked for."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from nerve_runtime.errors import BundleError, UsageError
from nerve_runtime.manifest import Manifest
from nerve_runtime.spec import Array, StageName, StageSpec, check_tensors

BACKEND_NAMES = ("auto", "ort", "tensorrt", "rtx", "fake")
Providers = Literal["cpu", "cuda"]


class Session(ABC):
    """One opened graph. Checks the tensors at both doors, whatever runs in between."""

    def __init__(self, stage: StageName, spec: StageSpec) -> None:
        self.stage = stage
        self.spec = spec

    def run(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph on arrays by name and return its outputs by name.

        Raises:
            UsageError: an input is missing, unknown, or of another dtype or shape than the manifest says.
            BundleError: an output is not what the manifest says, or the graph cannot run.
            ResourceError: memory ran out.
        """
        sizes = check_tensors(f"stage {self.stage!r} input", self.spec.inputs, tensors)
        outputs = self._run(tensors, sizes)
        try:
            check_tensors(f"stage {self.stage!r}", self.spec.inputs + self.spec.outputs, {**tensors, **outputs})
        except UsageError as error:
            raise BundleError(f"{error}; the graph is not what its manifest says, rebuild the bundle") from error
        return outputs

    @abstractmethod
    def _run(self, tensors: Mapping[str, Array], sizes: Mapping[str, int]) -> dict[str, Array]: ...


class Backend(ABC):
    """Opens graphs of one bundle; a context manager.

    Attributes:
        name: as given to `open_backend`.
        class_slots: the class axis its engines fix, None when any number of classes will do.
        readout_limit_px: the longest side that labels can be read out at, None when any will do.
    """

    name: str
    class_slots: int | None = None
    readout_limit_px: int | None = None

    @abstractmethod
    def describe(self) -> str:
        """Library, version and device in one line, for people and logs."""

    @abstractmethod
    def open_session(self, stage: StageName) -> Session:
        """Verify the files of a stage and open it.

        Raises:
            BundleError: a file is not what the manifest says, or is no graph.
            CompatibilityError: this library or machine cannot run it.
        """

    @abstractmethod
    def stop(self) -> None:
        """Ask the run in flight, in another thread, to end with an error soon; later runs fail too."""

    @abstractmethod
    def close(self) -> None:
        """Release everything; closing twice is fine."""

    def __enter__(self) -> "Backend":
        """Return the back end itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the back end."""
        self.close()


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
        from nerve_runtime.backends.trt import TrtBackend

        return TrtBackend(bundle, manifest, library="tensorrt" if name == "tensorrt" else "tensorrt_rtx", **waived)
    if name == "fake":
        from nerve_runtime.backends.fake import FakeBackend

        return FakeBackend(manifest)
    why = ""
    if name == "auto" and manifest.engines:
        from nerve_runtime.backends.trt import automatic_engines

        engines, why = automatic_engines(bundle, manifest, **waived)
        if engines is not None:
            return engines
    from nerve_runtime.backends.ort import OrtBackend

    auto = name == "auto"
    return OrtBackend(
        bundle, manifest, providers=providers, threads=threads, spinning=spinning, chosen_by_auto=auto, why=why
    )
