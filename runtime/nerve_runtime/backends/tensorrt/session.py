"""One engine with its execution context, its stream, and the memory that its tensors go through."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from nerve_runtime.backends.base import Session
from nerve_runtime.backends.tensorrt.library import SHAPE_INPUT, is_about_memory
from nerve_runtime.backends.tensorrt.memory import Cuda, DeviceMemoryError, Memory
from nerve_runtime.bundle.manifest import EngineRecord
from nerve_runtime.bundle.spec import Array, StageName, StageSpec, TensorSpec
from nerve_runtime.errors import BundleError, NerveError, UsageError

DTYPES = {"FLOAT": "float32", "UINT8": "uint8", "BOOL": "bool", "INT64": "int64"}

Given = TypeVar("Given")
log = logging.getLogger(__name__)


class Owner(Protocol):
    """What a session needs of its back end."""

    @property
    def cuda(self) -> Cuda:
        """The CUDA runtime."""

    @property
    def logger(self) -> Any:
        """What the library said last."""

    @property
    def module(self) -> Any:
        """The library's module."""

    @property
    def stopped(self) -> bool:
        """Whether runs are to fail."""

    def with_room(self, attempt: Callable[[], Given]) -> Given:
        """Try twice where memory runs out."""


@dataclass(slots=True)
class _Door:
    """A tensor of an engine: pinned memory of the host, and its place on the device unless the engine reads the host's."""

    spec: TensorSpec
    is_input: bool
    is_free: bool
    pinned: Memory
    device: Memory | None
    shape: tuple[int, ...] = ()

    @property
    def size_bytes(self) -> int:
        return max(1, int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.spec.dtype).itemsize)

    @property
    def address(self) -> int:
        return (self.device or self.pinned).address

    @property
    def memories(self) -> tuple[Memory, ...]:
        return (self.pinned,) if self.device is None else (self.pinned, self.device)


class TrtSession(Session):
    """Runs one engine. State: its memory, which grows with the tensors and is kept, and a CUDA graph of its last work.

    A run whose shapes and addresses are those of the run before is recorded as a CUDA graph and replayed from then on.

    Args:
        stage: of the engine.
        spec: its doors.
        record: as the manifest has it; its profile bounds the sizes.
        engine: deserialised.
        context: of the engine.
        stream: all its work goes there.
        owner: back end.

    Raises:
        BundleError: the engine has other doors or another profile than the manifest says.
    """

    def __init__(
        self,
        stage: StageName,
        spec: StageSpec,
        record: EngineRecord,
        engine: Any,
        context: Any,
        stream: Any,
        owner: Owner,
    ) -> None:
        super().__init__(stage, spec)
        self._record = record
        self._engine = engine
        self._context = context
        self._stream = stream
        self._owner = owner
        self._doors = {door.spec.name: door for door in self._opened_doors()}
        self._refuse_other_profile()
        self._bound: object = None  # shapes, addresses and shape values that the context knows
        self._ran_since_bound = False
        self._capture_allowed = True
        self._graph: Any = None

    def _opened_doors(self) -> Iterator[_Door]:
        engine, trt, cuda = self._engine, self._owner.module, self._owner.cuda
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        wanted = sorted(tensor.name for tensor in self.spec.inputs), sorted(tensor.name for tensor in self.spec.outputs)
        if (sorted(inputs), sorted(set(names) - set(inputs))) != wanted:
            raise self._wrong(f"has inputs {sorted(inputs)} and outputs {sorted(set(names) - set(inputs))}")
        for tensor in (*self.spec.inputs, *self.spec.outputs):
            dtype = engine.get_tensor_dtype(tensor.name).name
            shape = tuple(engine.get_tensor_shape(tensor.name))
            if DTYPES.get(dtype) != tensor.dtype or not _may_be(shape, tensor):
                raise self._wrong(f"has {tensor.name!r} as {dtype} {shape}, not {tensor}")
            on_device = engine.get_tensor_location(tensor.name) == trt.TensorLocation.DEVICE
            device = Memory(cuda, pinned=False) if on_device else None
            yield _Door(tensor, tensor.name in inputs, -1 in shape, Memory(cuda, pinned=True), device)

    def _refuse_other_profile(self) -> None:
        # Only shapes: in TensorRT-RTX 1.7 `get_tensor_profile_values`, for `size_hw`, has its two arguments' types swapped.
        unknown = sorted(set(self._record.profile) - {door.spec.name for door in self._doors.values() if door.is_input})
        if unknown:
            raise self._wrong(f"has no inputs {unknown}, of which the manifest has a profile")
        for name, door in self._doors.items():
            if door.is_input and door.is_free:
                found = [list(shape) for shape in self._engine.get_tensor_profile_shape(name, 0)]
                if found != self._record.profile.get(name):
                    raise self._wrong(f"takes {name!r} in {found}, the manifest says {self._record.profile.get(name)}")

    def _wrong(self, what: str) -> BundleError:
        return BundleError(f"engine {self._record.path} {what}; it is not what its manifest says, build it again")

    def compute(self, tensors: Mapping[str, Array], sizes: Mapping[str, int]) -> dict[str, Array]:
        """Copy in, run and copy out, on the stream of the session."""
        if self._context is None:
            raise UsageError(f"the session of stage {self.stage!r} was closed; open it again")
        if self._owner.stopped:
            raise BundleError(f"stage {self.stage!r} was told to stop")
        self._refuse_outside_profile(tensors)
        return self._owner.with_room(lambda: self._attempt(tensors))

    def _refuse_outside_profile(self, tensors: Mapping[str, Array]) -> None:
        for name, (least, _, most) in self._record.profile.items():
            found = tensors[name].tolist() if name == SHAPE_INPUT else list(tensors[name].shape)
            if any(not low <= size <= high for low, size, high in zip(least, found, most, strict=True)):
                raise UsageError(
                    f"stage {self.stage!r} input {name!r} has sizes {found}, this engine takes {least} to {most}; "
                    "use fewer words or smaller frames, or --backend ort"
                )

    def _attempt(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        self._fill_inputs(tensors)
        inputs = [door for door in self._doors.values() if door.is_input]
        values = tensors[SHAPE_INPUT].tobytes() if SHAPE_INPUT in tensors else b""
        wanted = values, tuple((door.shape, door.address, door.pinned.address) for door in inputs)
        if wanted != self._bound:
            self._bind()
            self._bound = wanted
        self._submit()
        self._owner.cuda.call("cudaStreamSynchronize", self._stream)
        return {name: _copied(door) for name, door in self._doors.items() if not door.is_input}

    def _fill_inputs(self, tensors: Mapping[str, Array]) -> None:
        for name, array in tensors.items():
            door = self._doors[name]
            door.shape = array.shape
            for memory in door.memories:
                memory.reserve(door.size_bytes)
            door.pinned.bytes_of_host(array.nbytes).view(array.dtype).reshape(array.shape)[...] = array

    def _bind(self) -> None:
        """Tell the context the inputs' shapes and addresses, learn the outputs' shapes, and give them room."""
        self.forget_graph()
        self._bound, self._ran_since_bound = None, False
        for name, door in self._doors.items():
            if door.is_input:
                self._demand(not door.is_free or self._context.set_input_shape(name, door.shape), f"shape of {name!r}")
                self._demand(self._context.set_tensor_address(name, door.address), f"address of {name!r}")
        try:
            unknown = self._context.infer_shapes()
        except RuntimeError as error:
            raise BundleError(
                f"stage {self.stage!r} cannot infer its shapes: {error}; build the engine again"
            ) from error
        self._demand(not unknown, f"shapes: it misses {unknown}")
        for name, door in self._doors.items():
            if not door.is_input:
                door.shape = tuple(self._context.get_tensor_shape(name))
                self._demand(all(size > 0 for size in door.shape), f"shape of {name!r}: {door.shape}")
                for memory in door.memories:
                    memory.reserve(door.size_bytes)
                self._demand(self._context.set_tensor_address(name, door.address), f"address of {name!r}")

    def _demand(self, granted: bool, what: str) -> None:
        if granted:
            return
        said = self._owner.logger.said()
        if is_about_memory(said):
            raise DeviceMemoryError(f"stage {self.stage!r}: {said}")
        raise BundleError(
            f"stage {self.stage!r} failed at {what}: {said}; build the engine again, or report it with this line"
        )

    def _submit(self) -> None:
        """Put copies in, the engine and copies out on the stream: one by one, or from the second time on as one graph."""
        cuda = self._owner.cuda
        if self._graph is None and self._ran_since_bound and self._capture_allowed and self._is_capturable():
            self._graph = self._captured()
        if self._graph is None:
            self._enqueue()
        else:
            cuda.call("cudaGraphLaunch", self._graph, self._stream)
        self._ran_since_bound = True

    def _is_capturable(self) -> bool:
        # TensorRT-RTX says no while it still compiles kernels for the shapes at hand; TensorRT has no such question.
        asked = getattr(self._context, "is_stream_capturable", None)
        return asked is None or bool(asked(int(self._stream)))

    def _captured(self) -> Any:
        """The work of one run as an executable CUDA graph; None, and never tried again, where that does not work."""
        cuda, recorded = self._owner.cuda, None
        try:
            mode = cuda.cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
            cuda.call("cudaStreamBeginCapture", self._stream, mode)
            try:
                self._enqueue()
            finally:
                recorded = cuda.call("cudaStreamEndCapture", self._stream)
            return cuda.call("cudaGraphInstantiate", recorded, 0)
        except NerveError as error:
            self._capture_allowed = False
            log.warning("stage %r runs without a CUDA graph, a little slower: %s", self.stage, error)
            return None
        finally:
            if recorded is not None:
                cuda.call("cudaGraphDestroy", recorded)

    def _enqueue(self) -> None:
        kinds = self._owner.cuda.cudart.cudaMemcpyKind
        copied = [(door, door.device) for door in self._doors.values() if door.device is not None]
        for door, device in copied:
            if door.is_input:
                self._copy(device.address, door.pinned.address, door.size_bytes, kinds.cudaMemcpyHostToDevice)
        self._owner.logger.forget()
        self._demand(self._context.execute_async_v3(int(self._stream)), "its run")
        for door, device in copied:
            if not door.is_input:
                self._copy(door.pinned.address, device.address, door.size_bytes, kinds.cudaMemcpyDeviceToHost)

    def _copy(self, target: int, source: int, size_bytes: int, kind: Any) -> None:
        self._owner.cuda.call("cudaMemcpyAsync", target, source, size_bytes, kind, self._stream)

    def forget_graph(self) -> None:
        """Free the CUDA graph; the next runs make a new one."""
        graph, self._graph = self._graph, None
        if graph is not None:
            self._owner.cuda.call("cudaGraphExecDestroy", graph)

    def release_memory(self) -> None:
        """Give all memory of the tensors back; the next run asks for it again."""
        self.forget_graph()
        self._bound = None
        for door in self._doors.values():
            for memory in door.memories:
                memory.release()

    def close(self) -> None:
        """Free everything; closing twice is fine."""
        self.release_memory()
        self._context = None
        self._engine = None


def _may_be(shape: tuple[int, ...], tensor: TensorSpec) -> bool:
    """Whether an engine's shape, -1 for a free axis, is what the manifest says."""
    if len(shape) != len(tensor.axes):
        return False
    return all(isinstance(axis, str) or axis == size for axis, size in zip(tensor.axes, shape, strict=True))


def _copied(door: _Door) -> Array:
    dtype = np.dtype(door.spec.dtype)
    size_bytes = int(np.prod(door.shape, dtype=np.int64)) * dtype.itemsize
    return door.pinned.bytes_of_host(size_bytes).view(dtype).reshape(door.shape).copy()
