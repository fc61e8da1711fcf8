"""A stand-in for TensorRT and TensorRT-RTX: loads and runs engines that compute in numpy, or by a function given.

Its builder is in `tensorrt_builder.py`.
Names, argument names and their order are those of `tensorrt_rtx` (a test compares them). Whoever uses it out of order,
with an address that is not held or too small, or before the shapes are known, gets a `MisuseError`.
"""

import json
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from nerve_bench.doubles.cuda_runtime import FakeCudart
from nerve_bench.doubles.ordering import MisuseError
from nerve_bench.doubles.streams import Work
from nerve_bench.doubles.tensorrt_builder import FakeBuilder, FakeOnnxParser
from nerve_bench.doubles.tensorrt_types import (
    ComputeCapability,
    DataType,
    ILogger,
    IProgressMonitor,
    LayerType,
    MemoryPoolType,
    NoTypingFlag,
    StronglyTyped,
    TensorIOMode,
    TensorLocation,
    checked_logger,
)
from nerve_runtime.backends.tensorrt.device import ALIGNMENT_BYTES
from nerve_runtime.backends.tensorrt.library import SHAPE_INPUT
from nerve_runtime.bundle.manifest import Manifest
from nerve_runtime.bundle.spec import Array, StageName, StageSpec, TensorSpec

Compute = Callable[[StageName, Mapping[str, Array]], Mapping[str, Array]]
PLAN_MAGIC = b"fake engine "
NAMES_OF_DTYPES = {"float32": "FLOAT", "uint8": "UINT8", "bool": "BOOL", "int64": "INT64"}


@dataclass(slots=True)
class TrtFaults:
    """What goes wrong; the numbers count down.

    Attributes:
        unloadable: stages whose engines the library does not load.
        loads_without_room: so many loads find too little memory.
        runs_without_room: so many runs find too little memory.
        failing_runs: so many runs fail for another reason.
        build_error: the builder gives no engine and says this.
        parse_errors: the parser refuses the graph and says these.
        alien_profile: engines have another profile than they were built with.
    """

    unloadable: frozenset[StageName] = frozenset()
    loads_without_room: int = 0
    runs_without_room: int = 0
    failing_runs: int = 0
    build_error: str = ""
    parse_errors: tuple[str, ...] = ()
    alien_profile: bool = False


class FakeTrt:
    """The module: `tensorrt_rtx` by default, `tensorrt` with `rtx=False`.

    Args:
        manifest: whose stages it builds and runs; a graph is known by its file's name.
        cudart: where tensors lie; None for building alone.
        version: as the module says it.
        rtx: TensorRT-RTX, which compiles for a named GPU and can tell whether a stream can be captured.
        faults: what goes wrong.
        has_typing_flag: the flag STRONGLY_TYPED exists.
        compute: what an engine does: from a stage and its inputs to its outputs; by default as `FakeBackend`.

    Attributes:
        contexts: execution contexts that are alive.
        networks: creation flags of the networks made so far.
    """

    ILogger = ILogger
    IProgressMonitor = IProgressMonitor
    DataType = DataType
    TensorIOMode = TensorIOMode
    TensorLocation = TensorLocation
    LayerType = LayerType
    MemoryPoolType = MemoryPoolType
    ComputeCapability = ComputeCapability

    def __init__(
        self,
        manifest: Manifest,
        cudart: FakeCudart | None = None,
        *,
        version: str = "1.7.1.116",
        rtx: bool = True,
        faults: TrtFaults | None = None,
        has_typing_flag: bool = True,
        compute: Compute | None = None,
    ) -> None:
        self.__version__ = version
        self.manifest = manifest
        self.cudart = cudart
        self.rtx = rtx
        self.compute = compute or partial(_compute_in_numpy, manifest)
        self.faults = faults or TrtFaults()
        self.contexts: weakref.WeakSet[FakeExecutionContext] = weakref.WeakSet()
        self.networks: list[int] = []
        self.NetworkDefinitionCreationFlag = StronglyTyped if has_typing_flag else NoTypingFlag
        self.Runtime = partial(FakeRuntime, self)
        self.Builder = partial(FakeBuilder, self)
        self.OnnxParser = partial(FakeOnnxParser, self)

    def plan(self, stage: StageName, profile: dict[str, list[list[int]]]) -> bytes:
        """Bytes of an engine of this version."""
        about = {"stage": stage, "version": self.__version__, "profile": profile}
        return PLAN_MAGIC + json.dumps(about, sort_keys=True).encode()


class FakeRuntime:
    """Loads engines."""

    def __init__(self, trt: FakeTrt, logger: ILogger) -> None:
        self._trt = trt
        self._logger = checked_logger(logger)

    @property
    def engine_host_code_allowed(self) -> bool:
        """Stays False; setting it is refused."""
        return False

    @engine_host_code_allowed.setter
    def engine_host_code_allowed(self, allowed: bool) -> None:
        raise MisuseError("engines may not carry code for the processor")

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> "FakeCudaEngine | None":
        """An engine, or None with a reason in the log."""
        faults, error = self._trt.faults, self._logger.ERROR
        if faults.loads_without_room:
            faults.loads_without_room -= 1
            self._logger.log(error, "an allocation failed: out of memory")
            return None
        if not serialized_engine.startswith(PLAN_MAGIC):
            self._logger.log(error, "the plan has no header of this library")
            return None
        about = json.loads(serialized_engine.removeprefix(PLAN_MAGIC))
        if about["version"] != self._trt.__version__:
            self._logger.log(error, f"the plan is of version {about['version']}, not {self._trt.__version__}")
            return None
        if about["stage"] in faults.unloadable:
            self._logger.log(error, "the plan is damaged")
            return None
        return FakeCudaEngine(self._trt, self._logger, about["stage"], about["profile"])


class FakeCudaEngine:
    """An engine of one stage."""

    def __init__(self, trt: FakeTrt, logger: Any, stage: StageName, profile: dict[str, list[list[int]]]) -> None:
        self.trt, self.logger, self.stage, self.profile = trt, logger, stage, profile
        self.spec: StageSpec = trt.manifest.stages[stage].spec
        self.tensors = {tensor.name: tensor for tensor in (*self.spec.inputs, *self.spec.outputs)}

    @property
    def num_io_tensors(self) -> int:
        """How many inputs and outputs."""
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        """In the order of the graph."""
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        """Input or output."""
        return TensorIOMode["INPUT" if self.tensors[name] in self.spec.inputs else "OUTPUT"]

    def get_tensor_dtype(self, name: str) -> DataType:
        """Element type."""
        return DataType[NAMES_OF_DTYPES[self.tensors[name].dtype]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """-1 for free axes."""
        return tuple(-1 if isinstance(axis, str) else axis for axis in self.tensors[name].axes)

    def get_tensor_location(self, name: str) -> TensorLocation:
        """Only the size to read out at is read on the host."""
        return TensorLocation["HOST" if name == SHAPE_INPUT else "DEVICE"]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[list[int]]:
        """Least, usual and greatest shape."""
        if profile_index != 0 or name not in self.profile:
            raise MisuseError(f"there is no profile {profile_index} of {name!r}")
        extra = 1 if self.trt.faults.alien_profile else 0
        return [[size + extra for size in sizes] for sizes in self.profile[name]]

    def create_execution_context(self) -> "FakeExecutionContext":
        """What runs it."""
        kind = FakeRtxExecutionContext if self.trt.rtx else FakeExecutionContext
        context = kind(self)
        self.trt.contexts.add(context)
        return context


class FakeExecutionContext:
    """Runs an engine; refuses calls out of order."""

    def __init__(self, engine: FakeCudaEngine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._inferred = False
        for name in engine.tensors:
            shape = engine.get_tensor_shape(name)
            if -1 not in shape:
                self._shapes[name] = shape

    def _tensor(self, name: str) -> TensorSpec:
        if name not in self._engine.tensors:
            raise MisuseError(f"the engine has no tensor {name!r}")
        return self._engine.tensors[name]

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """Within the profile."""
        tensor = self._tensor(name)
        if tensor not in self._engine.spec.inputs or not isinstance(shape, tuple):
            raise MisuseError(f"{name!r} is no input, or its shape is no tuple: {shape!r}")
        least, _, most = self._engine.profile[name]
        if not all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True)):
            self._engine.logger.log(ILogger.ERROR, f"{name} of shape {shape} is outside the profile {least} to {most}")
            return False
        self._shapes[name] = shape
        self._inferred = False
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Where an input is read or an output is written."""
        self._tensor(name)
        if not memory:
            raise MisuseError(f"{name!r} is put at address 0")
        if (memory - _cudart(self._engine.trt).base(memory)) % ALIGNMENT_BYTES:
            raise MisuseError(f"{name!r} is put at an address that is no multiple of {ALIGNMENT_BYTES}")
        self._addresses[name] = memory
        if name == SHAPE_INPUT:
            self._inferred = False
        return True

    def infer_shapes(self) -> list[str]:
        """Names of the inputs whose shape or values are missing."""
        inputs = self._engine.spec.inputs
        missing = [tensor.name for tensor in inputs if tensor.name not in self._shapes]
        if SHAPE_INPUT in self._engine.tensors and SHAPE_INPUT not in self._addresses:
            missing.append(SHAPE_INPUT)
        if missing:
            return missing
        letters: dict[int | str, int] = {}
        for tensor in inputs:
            letters |= {
                axis: size
                for axis, size in zip(tensor.axes, self._shapes[tensor.name], strict=True)
                if isinstance(axis, str)
            }
        if SHAPE_INPUT in self._engine.tensors:
            letters["H"], letters["W"] = (int(size) for size in self._read(SHAPE_INPUT))
        for tensor in self._engine.spec.outputs:
            self._shapes[tensor.name] = tuple(letters[axis] if isinstance(axis, str) else axis for axis in tensor.axes)
        self._inferred = True
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """-1 for axes that are not known yet."""
        self._tensor(name)
        if not self._inferred:
            return self._shapes.get(name, self._engine.get_tensor_shape(name))
        return self._shapes[name]

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Put a run on a stream."""
        engine, cudart = self._engine, _cudart(self._engine.trt)
        if not self._inferred:
            raise MisuseError("a run was asked for before the shapes were inferred")
        unset = [name for name in engine.tensors if name not in self._addresses]
        if unset:
            raise MisuseError(f"a run was asked for before the addresses of {unset} were set")
        faults = engine.trt.faults
        if faults.runs_without_room or faults.failing_runs:
            message = "out of memory" if faults.runs_without_room else "a kernel could not be launched"
            faults.runs_without_room = max(0, faults.runs_without_room - 1)
            faults.failing_runs = max(0, faults.failing_runs - 1) if message != "out of memory" else faults.failing_runs
            engine.logger.log(ILogger.ERROR, message)
            return False
        shapes, addresses = dict(self._shapes), dict(self._addresses)
        for name in engine.tensors:
            self._view(name, shapes[name], addresses[name])

        def run() -> None:
            views = {name: self._view(name, shapes[name], addresses[name]) for name in engine.tensors}
            inputs = {tensor.name: views[tensor.name] for tensor in engine.spec.inputs}
            for name, values in engine.trt.compute(engine.stage, inputs).items():
                views[name][...] = values

        reads = tuple(addresses[tensor.name] for tensor in engine.spec.inputs)
        writes = tuple(addresses[tensor.name] for tensor in engine.spec.outputs)
        cudart.put(stream_handle, Work(run, reads, writes))
        return True

    def _read(self, name: str) -> Array:
        return self._view(name, self._shapes[name], self._addresses[name])

    def _view(self, name: str, shape: tuple[int, ...], address: int) -> Array:
        """The memory of a tensor as an array, after checking that all of it is held."""
        dtype = np.dtype(self._engine.tensors[name].dtype)
        size_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        kind = "pinned" if self._engine.get_tensor_location(name) == TensorLocation["HOST"] else "device"
        return _cudart(self._engine.trt).view(kind, address, size_bytes).view(dtype).reshape(shape)


class FakeRtxExecutionContext(FakeExecutionContext):
    """TensorRT-RTX's, which compiles kernels at its first run."""

    def is_stream_capturable(self, stream: int) -> bool:
        """Once shapes are known."""
        _cudart(self._engine.trt).held_stream(stream)
        return self._inferred


def _compute_in_numpy(manifest: Manifest, stage: StageName, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    from nerve_runtime.backends.fake import FakeBackend  # brings OpenCV, which a builder does without

    return FakeBackend(manifest).compute(stage, inputs)


def _cudart(trt: FakeTrt) -> FakeCudart:
    if trt.cudart is None:
        raise MisuseError("this library was opened for building alone")
    return trt.cudart
