"""The interface of a back end: it opens a bundle's graphs as sessions, which run on tensors by name.

A back end of your own is one file and one registration; import the file before the segmenter is opened. This one prints
the shapes it gets and leaves the computing to ONNX Runtime:

    from nerve_runtime.backends import Backend, Session, open_backend, register_backend

    class PrintingSession(Session):
        def __init__(self, session):
            super().__init__(session.stage, session.spec)
            self._session = session

        def compute(self, tensors, sizes, host):
            print(self.stage, {name: tensor.shape for name, tensor in tensors.items()})
            return self._session.compute(tensors, sizes, host)

    class PrintingBackend(Backend):
        name = "printing"

        def __init__(self, bundle, manifest, options):
            self._backend = open_backend("ort", bundle, manifest, options)

        def describe(self): return f"printing: {self._backend.describe()}"
        def open_session(self, stage): return PrintingSession(self._backend.open_session(stage))
        def stop(self): self._backend.stop()
        def close(self): self._backend.close()

    register_backend("printing", PrintingBackend)

`Segmenter.open(bundle, classes, backend="printing")` then opens it. A back end that reads the graphs itself gets a stage
from `nerve_runtime.bundle.BundleGraphs`, which verifies the files first. One that computes on a device keeps tensors
there: it returns a `DeviceTensor` for each output that is not asked for on the host, and gets it back as an input.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from nerve_runtime.bundle.spec import Array, StageName, StageSpec, check_tensors
from nerve_runtime.errors import BundleError, UsageError

Providers = Literal["cpu", "cuda"]
"""Of ONNX Runtime: the processor that the graphs run on."""


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """How a back end runs the graphs; each back end reads the options that concern it.

    Attributes:
        providers: "cpu" or "cuda", for ONNX Runtime; every node runs there, or opening fails.
        threads: for ONNX Runtime, threads of one graph run; 0 lets the library choose.
        spinning: for ONNX Runtime, idle threads wait by spinning: a third faster on cores of their own, half as fast
            where decoding or anything else shares them.
        trust_engines: run compiled engines that were not built here; they are executable code.
        allow_unchecked: run compiled engines that were never compared with the reference.

    Raises:
        UsageError: `providers` is unknown, or `threads` is negative.
    """

    providers: Providers = "cpu"
    threads: int = 0
    spinning: bool = False
    trust_engines: bool = False
    allow_unchecked: bool = False

    def __post_init__(self) -> None:
        if self.providers not in get_args(Providers):
            raise UsageError(f"providers is {self.providers!r}, expected {' or '.join(get_args(Providers))}")
        if self.threads < 0:
            raise UsageError(f"threads is {self.threads}, expected 0 (the library chooses) or more")


class DeviceTensor:
    """A tensor that stays where its back end computes; an input of any session of that back end.

    Its values cannot be read, except by the sessions; `Session.run` copies to the host what it is asked for.

    Attributes:
        dtype: element type.
        shape: its sizes.
    """

    def __init__(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.dtype, self.shape = dtype, shape

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    @property
    def host_view(self) -> Array | None:
        """The values where the back end computes in host memory, not a copy; None where it does not."""
        return None

    def item(self, index: int, *, keep_axis: bool = False) -> "DeviceTensor":
        """One entry of the first axis, not a copy; it keeps the memory of this tensor alive.

        Back ends that run bundles with a `max_batch` above 1 have to have it.

        Args:
            index: from 0 to below the size of the axis.
            keep_axis: the first axis stays, with a size of 1.
        """
        raise UsageError(
            f"{type(self).__name__} has no method item, which a bundle for several frames in a run needs; "
            'use backend="ort", or build the bundle with --max-batch 1'
        )


Tensor = Array | DeviceTensor
"""A NumPy array, which has to be copied to the device, or a tensor that is there."""


def item_of(tensor: Tensor, index: int, *, keep_axis: bool = False) -> Tensor:
    """One entry of a tensor's first axis, as `DeviceTensor.item` gives it."""
    if isinstance(tensor, DeviceTensor):
        return tensor.item(index, keep_axis=keep_axis)
    entry: Array = tensor[index : index + 1] if keep_axis else tensor[index, ...]
    return entry


class Session(ABC):
    """One opened graph. Checks its tensors before and after each run.

    Args:
        stage: which graph it is.
        spec: its inputs and outputs, from the manifest.
    """

    def __init__(self, stage: StageName, spec: StageSpec) -> None:
        self.stage = stage
        self.spec = spec

    def run(self, tensors: Mapping[str, Tensor], host: Collection[str] | None = None) -> dict[str, Any]:
        """Run the graph on tensors by name and return its outputs by name.

        Args:
            tensors: the inputs, arrays or tensors of this back end.
            host: the outputs that are wanted as arrays, the caller's own; None for all. The others may be a
                `DeviceTensor`, and then need not have been computed yet.

        Raises:
            UsageError: an input is missing, unknown, or of another dtype or shape than the manifest says.
            BundleError: an output is not what the manifest says, or the graph cannot run.
            ResourceError: memory ran out.
        """
        sizes = check_tensors(f"stage {self.stage!r} input", self.spec.inputs, tensors)
        wanted = {tensor.name for tensor in self.spec.outputs} if host is None else set(host)
        outputs = dict(self.compute(tensors, sizes, wanted))
        try:
            check_tensors(f"stage {self.stage!r}", self.spec.inputs + self.spec.outputs, {**tensors, **outputs})
        except UsageError as error:
            raise BundleError(f"{error}; the graph is not what its manifest says, rebuild the bundle") from error
        return outputs

    @abstractmethod
    def compute(
        self, tensors: Mapping[str, Any], sizes: Mapping[str, int], host: Collection[str]
    ) -> Mapping[str, Tensor]:
        """What `run` does between its checks.

        Args:
            tensors: the inputs by name, of the dtypes and shapes of `spec`; arrays, or what sessions and `upload` of
                the same back end returned.
            sizes: the size that each axis letter of `spec` has in them.
            host: names of the outputs that must be arrays.
        """


class Backend(AbstractContextManager["Backend"], ABC):
    """Opens graphs of one bundle; a context manager.

    Attributes:
        name: as given to `open_backend`.
        class_slots: the class axis its engines fix, None when any number of classes will do.
        readout_limit_px: the longest side that labels can be read out at, None when any will do.
        waits_for_each_run: a run of a session ends when the device is done, also where nothing is wanted on the host.
    """

    name: str
    class_slots: int | None = None
    readout_limit_px: int | None = None
    waits_for_each_run: bool = False

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

    def upload(self, array: Array) -> Tensor:
        """Copy an array to where the graphs run, for several runs; as it is where they read the host's memory.

        Raises:
            ResourceError: memory ran out.
        """
        return array

    def release_unused(self) -> None:
        """Give back device memory that is kept for later tensors; called when frames change their size."""

    @abstractmethod
    def stop(self) -> None:
        """Ask the run in flight, in another thread, to end with an error soon; later runs fail too."""

    @abstractmethod
    def close(self) -> None:
        """Release everything; closing twice is fine."""

    def __exit__(self, *raised: object) -> None:
        """Close the back end."""
        self.close()
