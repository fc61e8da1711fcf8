"""One engine with its execution context, its stream, and the memory that its tensors go through."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from nerve_runtime.backends.base import Session
from nerve_runtime.backends.tensorrt.library import SHAPE_INPUT
from nerve_runtime.backends.tensorrt.memory import Cuda, DeviceMemoryError, Memory
from nerve_runtime.bundle.manifest import EngineRecord
from nerve_runtime.bundle.spec import Array, StageName, StageSpec, TensorSpec
from nerve_runtime.errors import BundleError, NerveError, ResourceError, UsageError, is_out_of_memory

DTYPES = {"FLOAT": "float32", "UINT8": "uint8", "BOOL": "bool", "INT64": "int64"}

Result = TypeVar("Result")
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Device:
    """A GPU with the library that runs on it, and the open sessions, which share its memory.

    Attributes:
        module: of the library.
        cuda: the CUDA runtime.
        logger: keeps the library's last messages.
        stopped: later runs fail.
    """

    module: Any
    cuda: Cuda
    logger: Any
    sessions: "list[TrtSession]" = field(default_factory=list)
    stopped: bool = False

    def with_memory_retry(self, attempt: Callable[[], Result]) -> Result:
        """Run `attempt`; where device memory runs out, free all that is not in use and run it once more.

        Raises:
            ResourceError: memory ran out again.
        """
        try:
            return attempt()
        except DeviceMemoryError as error:
            log.warning("%s; giving back what is not in use and trying once more", error)
        for session in self.sessions:
            session.release_memory()
        try:
            return attempt()
        except DeviceMemoryError as error:
            raise ResourceError(
                f"{error}; this was the second try, with all spare memory given back: end other programs on the GPU, "
                "use smaller frames, or build a bundle of a smaller --size"
            ) from error


@dataclass(slots=True)
class TensorBinding:
    """A tensor of an engine: pinned host memory, and device memory unless the engine reads the host's."""

    spec: TensorSpec
    is_input: bool
    has_free_axes: bool
    pinned: Memory
    device: Memory | None
    shape: tuple[int, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Of a tensor of its shape, at least 1."""
        return max(1, int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.spec.dtype).itemsize)

    @property
    def address(self) -> int:
        """Where the engine reads or writes it."""
        return (self.device or self.pinned).address

    def reserve(self, shape: tuple[int, ...]) -> None:
        """Hold memory for a tensor of this shape."""
        self.shape = shape
        for memory in (self.pinned, self.device):
            if memory is not None:
                memory.reserve(self.size_bytes)

    def release(self) -> None:
        """Give the memory back."""
        for memory in (self.pinned, self.device):
            if memory is not None:
                memory.release()

    def host_copy(self) -> Array:
        """The tensor's values in pinned memory, copied."""
        dtype = np.dtype(self.spec.dtype)
        size_bytes = int(np.prod(self.shape, dtype=np.int64)) * dtype.itemsize
        return self.pinned.host_bytes(size_bytes).view(dtype).reshape(self.shape).copy()


class TrtSession(Session):
    """Runs one engine. State: its memory, which grows with the tensors and is kept, and a CUDA graph of its last work.

    A run whose shapes and addresses are those of the run before is recorded as a CUDA graph and replayed from then on.

    Args:
        stage: of the engine.
        spec: its inputs and outputs.
        record: from the manifest; its profile bounds the sizes.
        engine: deserialised.
        context: of the engine.
        stream: all its work goes there.
        device: where it runs.

    Raises:
        BundleError: the engine's tensors or its profile are not those of the manifest.
    """

    def __init__(
        self,
        stage: StageName,
        spec: StageSpec,
        record: EngineRecord,
        engine: Any,
        context: Any,
        stream: Any,
        device: Device,
    ) -> None:
        super().__init__(stage, spec)
        self._record = record
        self._engine = engine
        self._context = context
        self._stream = stream
        self._device = device
        self._bindings = {binding.spec.name: binding for binding in self._open_bindings()}
        self._inputs = {name: binding for name, binding in self._bindings.items() if binding.is_input}
        self._outputs = {name: binding for name, binding in self._bindings.items() if not binding.is_input}
        self._refuse_other_profile()
        self._bound: object = None  # shapes, addresses and shape values that the context knows
        self._ran_since_bound = False
        self._capture_allowed = True
        self._graph: Any = None

    def _open_bindings(self) -> Iterator[TensorBinding]:
        engine, trt, cuda = self._engine, self._device.module, self._device.cuda
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        outputs = set(names) - set(inputs)
        if (set(inputs), outputs) != self.spec.names:
            raise self._mismatch(f"has inputs {sorted(inputs)} and outputs {sorted(outputs)}")
        for tensor in (*self.spec.inputs, *self.spec.outputs):
            dtype = engine.get_tensor_dtype(tensor.name).name
            shape = tuple(engine.get_tensor_shape(tensor.name))
            if DTYPES.get(dtype) != tensor.dtype or not _fits(shape, tensor):
                raise self._mismatch(f"has {tensor.name!r} as {dtype} {shape}, not {tensor}")
            on_device = engine.get_tensor_location(tensor.name) == trt.TensorLocation.DEVICE
            device = Memory(cuda, pinned=False) if on_device else None
            yield TensorBinding(tensor, tensor.name in inputs, -1 in shape, Memory(cuda, pinned=True), device)

    def _refuse_other_profile(self) -> None:
        # Only shapes: in TensorRT-RTX 1.7 `get_tensor_profile_values`, for `size_hw`, has its two arguments' types swapped.
        unknown = sorted(set(self._record.profile) - set(self._inputs))
        if unknown:
            raise self._mismatch(f"has no inputs {unknown}, of which the manifest has a profile")
        for name, binding in self._inputs.items():
            recorded = self._record.profile.get(name)
            if binding.has_free_axes:
                shapes = [list(shape) for shape in self._engine.get_tensor_profile_shape(name, 0)]
                if shapes != recorded:
                    raise self._mismatch(f"takes {name!r} in {shapes}, the manifest says {recorded}")
            elif recorded and len(recorded[0]) != (
                binding.spec.axes[0] if name == SHAPE_INPUT else len(binding.spec.axes)
            ):
                raise self._mismatch(f"takes {name!r} as {binding.spec}, the manifest has the profile {recorded}")

    def _mismatch(self, what: str) -> BundleError:
        return BundleError(f"engine {self._record.path} {what}; it is not what its manifest says, build it again")

    def compute(self, tensors: Mapping[str, Array], sizes: Mapping[str, int]) -> dict[str, Array]:
        """Copy in, run and copy out, on the stream of the session."""
        if self._context is None:
            raise UsageError(f"the session of stage {self.stage!r} was closed; open it again")
        if self._device.stopped:
            raise BundleError(f"stage {self.stage!r} was told to stop")
        self._refuse_outside_profile(tensors)
        return self._device.with_memory_retry(lambda: self._run_once(tensors))

    def _refuse_outside_profile(self, tensors: Mapping[str, Array]) -> None:
        for name, (least, _, most) in self._record.profile.items():
            sizes = tensors[name].tolist() if name == SHAPE_INPUT else list(tensors[name].shape)
            if any(not low <= size <= high for low, size, high in zip(least, sizes, most, strict=True)):
                raise UsageError(
                    f"stage {self.stage!r} input {name!r} has sizes {sizes}, this engine takes {least} to {most}; "
                    'use fewer words or smaller frames, or backend="ort"'
                )

    def _run_once(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        self._fill_inputs(tensors)
        values = tensors[SHAPE_INPUT].tobytes() if SHAPE_INPUT in tensors else b""
        signature = (
            values,
            tuple((binding.shape, binding.address, binding.pinned.address) for binding in self._inputs.values()),
        )
        if signature != self._bound:
            self._bind()
            self._bound = signature
        self._submit()
        self._device.cuda.call("cudaStreamSynchronize", self._stream)
        return {name: binding.host_copy() for name, binding in self._outputs.items()}

    def _fill_inputs(self, tensors: Mapping[str, Array]) -> None:
        for name, array in tensors.items():
            binding = self._bindings[name]
            binding.reserve(array.shape)
            binding.pinned.host_bytes(array.nbytes).view(array.dtype).reshape(array.shape)[...] = array

    def _bind(self) -> None:
        """Set the inputs' shapes and addresses, infer the outputs' shapes, and reserve memory for them."""
        self.free_graph()
        self._bound, self._ran_since_bound = None, False
        for name, binding in self._inputs.items():
            shape_is_set = not binding.has_free_axes or self._context.set_input_shape(name, binding.shape)
            self._require(shape_is_set, f"shape of {name!r}")
            self._require(self._context.set_tensor_address(name, binding.address), f"address of {name!r}")
        try:
            unknown = self._context.infer_shapes()
        except RuntimeError as error:
            raise BundleError(
                f"stage {self.stage!r} cannot infer its shapes: {error}; build the engine again"
            ) from error
        self._require(not unknown, f"shapes: it misses {unknown}")
        for name, binding in self._outputs.items():
            binding.reserve(tuple(self._context.get_tensor_shape(name)))
            self._require(all(size > 0 for size in binding.shape), f"shape of {name!r}: {binding.shape}")
            self._require(self._context.set_tensor_address(name, binding.address), f"address of {name!r}")

    def _require(self, succeeded: bool, what: str) -> None:
        if succeeded:
            return
        message = self._device.logger.last_errors()
        if is_out_of_memory(message):
            raise DeviceMemoryError(f"stage {self.stage!r}: {message}")
        raise BundleError(
            f"stage {self.stage!r} failed at {what}: {message}; build the engine again, or report it with this line"
        )

    def _submit(self) -> None:
        """Enqueue copies in, the engine and copies out; from the second time on as one CUDA graph."""
        cuda = self._device.cuda
        if self._graph is None and self._ran_since_bound and self._capture_allowed and self._is_capturable():
            self._graph = self._capture_graph()
        if self._graph is None:
            self._enqueue()
        else:
            cuda.call("cudaGraphLaunch", self._graph, self._stream)
        self._ran_since_bound = True

    def _is_capturable(self) -> bool:
        # TensorRT-RTX returns False while it still compiles kernels for the shapes at hand; TensorRT lacks the method.
        is_capturable = getattr(self._context, "is_stream_capturable", None)
        return is_capturable is None or bool(is_capturable(int(self._stream)))

    def _capture_graph(self) -> Any:
        """The work of one run as an executable CUDA graph; None, and never tried again, where that does not work."""
        cuda, recorded = self._device.cuda, None
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
        kinds = self._device.cuda.cudart.cudaMemcpyKind
        for binding in self._inputs.values():
            if binding.device:
                self._copy(binding, binding.device.address, binding.pinned.address, kinds.cudaMemcpyHostToDevice)
        self._device.logger.clear()
        self._require(self._context.execute_async_v3(int(self._stream)), "its run")
        for binding in self._outputs.values():
            if binding.device:
                self._copy(binding, binding.pinned.address, binding.device.address, kinds.cudaMemcpyDeviceToHost)

    def _copy(self, binding: TensorBinding, target: int, source: int, kind: Any) -> None:
        self._device.cuda.call("cudaMemcpyAsync", target, source, binding.size_bytes, kind, self._stream)

    def free_graph(self) -> None:
        """Free the CUDA graph; the next runs make a new one."""
        graph, self._graph = self._graph, None
        if graph is not None:
            self._device.cuda.call("cudaGraphExecDestroy", graph)

    def release_memory(self) -> None:
        """Give all memory of the tensors back; the next run asks for it again."""
        self.free_graph()
        self._bound = None
        for binding in self._bindings.values():
            binding.release()

    def close(self) -> None:
        """Free everything; closing twice is fine."""
        self.release_memory()
        self._context = None
        self._engine = None


def _fits(shape: tuple[int, ...], tensor: TensorSpec) -> bool:
    """Whether an engine's shape, -1 for a free axis, is what the manifest says."""
    if len(shape) != len(tensor.axes):
        return False
    return all(isinstance(axis, str) or axis == size for axis, size in zip(tensor.axes, shape, strict=True))
