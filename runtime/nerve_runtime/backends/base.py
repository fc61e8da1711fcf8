"""The interface of a back end: it opens a bundle's graphs as sessions, which run on arrays by name."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Literal

from nerve_runtime.bundle.spec import Array, StageName, StageSpec, check_tensors
from nerve_runtime.errors import BundleError, UsageError

Providers = Literal["cpu", "cuda"]
"""Of ONNX Runtime: the processor that the graphs run on."""


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
