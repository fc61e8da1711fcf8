"""One engine with its execution context and its stream: tensors on the device in, tensors on the device out."""

import logging
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nerve_runtime.backends.base import Session, Tensor
from nerve_runtime.backends.tensorrt.device import Device, TrtTensor, wait_for_tensors
from nerve_runtime.backends.tensorrt.library import SHAPE_INPUT
from nerve_runtime.backends.tensorrt.memory import Block, DeviceMemoryError, Stream
from nerve_runtime.bundle.manifest import EngineRecord
from nerve_runtime.bundle.spec import Array, StageName, StageSpec, TensorSpec
from nerve_runtime.errors import BundleError, NerveError, UsageError, is_out_of_memory

DTYPES = {"FLOAT": "float32", "UINT8": "uint8", "BOOL": "bool", "INT64": "int64"}
GRAPHS_KEPT = 8
"""CUDA graphs of one session: the state of a video alternates between two addresses, and a few videos share a session."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TensorBinding:
    """A tensor of an engine."""

    spec: TensorSpec
    is_input: bool
    on_device: bool
    has_free_axes: bool


class TrtSession(Session):
    """Runs one engine on tensors of its device, in the order of its stream.

    State: the shapes and addresses that its context knows, and CUDA graphs of its latest work: a run at the addresses of
    an earlier one is recorded, and replayed from then on.

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
        stream: Stream,
        device: Device,
    ) -> None:
        super().__init__(stage, spec)
        self._record = record
        self._engine = engine
        self._context = context
        self._stream = stream
        self._device = device
        self._bindings = {binding.spec.name: binding for binding in self._open_bindings()}
        self._refuse_other_profile()
        self._shapes: dict[str, tuple[int, ...]] = {}  # of the inputs, as the context knows them
        self._output_shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._size: tuple[Block, Array] | None = None  # value of the input that the engine reads on the host
        self._graphs: OrderedDict[tuple[int, ...], Any] = OrderedDict()  # by addresses; None after a first run there
        self._capture_allowed = True

    def _open_bindings(self) -> Iterator[TensorBinding]:
        engine, trt = self._engine, self._device.module
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
            yield TensorBinding(tensor, tensor.name in inputs, on_device, -1 in shape)

    def _inputs(self) -> dict[str, TensorBinding]:
        return {name: binding for name, binding in self._bindings.items() if binding.is_input}

    def _refuse_other_profile(self) -> None:
        # Only shapes: in TensorRT-RTX 1.7 `get_tensor_profile_values`, for `size_hw`, has its two arguments' types swapped.
        unknown = sorted(set(self._record.profile) - set(self._inputs()))
        if unknown:
            raise self._mismatch(f"has no inputs {unknown}, of which the manifest has a profile")
        for name, binding in self._inputs().items():
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

    def compute(
        self, tensors: Mapping[str, Any], sizes: Mapping[str, int], host: Collection[str]
    ) -> Mapping[str, Tensor]:
        """Put the engine's work on the stream; waits for it only where outputs are wanted on the host."""
        if self._context is None:
            raise UsageError(f"the session of stage {self.stage!r} was closed; open it again")
        if self._device.stopped:
            raise BundleError(f"stage {self.stage!r} was told to stop")
        self._refuse_outside_profile(tensors)
        return self._device.with_memory_retry(lambda: self._run_once(tensors, host))

    def _refuse_outside_profile(self, tensors: Mapping[str, Any]) -> None:
        for name, (least, _, most) in self._record.profile.items():
            sizes = tensors[name].tolist() if name == SHAPE_INPUT else list(tensors[name].shape)
            if any(not low <= size <= high for low, size, high in zip(least, sizes, most, strict=True)):
                raise UsageError(
                    f"stage {self.stage!r} input {name!r} has sizes {sizes}, this engine takes {least} to {most}; "
                    'use fewer words or smaller frames, or backend="ort"'
                )

    def _run_once(self, tensors: Mapping[str, Any], host: Collection[str]) -> Mapping[str, Tensor]:
        given = {
            name: self._device.aligned(self._on_device(tensor), self._stream)
            for name, tensor in tensors.items()
            if self._bindings[name].on_device
        }
        with self._stream.lock:
            size = tensors[SHAPE_INPUT] if SHAPE_INPUT in tensors and SHAPE_INPUT not in given else None
            self._infer_shapes({name: tensor.shape for name, tensor in given.items()}, size)
            made = {
                tensor.name: self._device.tensor(np.dtype(tensor.dtype), self._output_shapes[tensor.name], self._stream)
                for tensor in self.spec.outputs
            }
            wait_for_tensors(self._stream, list(given.values()))
            self._set_addresses({**given, **made})
            try:
                self._submit(tuple(self._addresses[name] for name in self._bindings if name in self._addresses))
            finally:
                self._stream.record()
        arrays = (
            self._device.download({name: made[name] for name in made if name in host}, self._stream) if host else {}
        )
        return {**made, **arrays}

    def _on_device(self, tensor: Tensor) -> TrtTensor:
        return tensor if isinstance(tensor, TrtTensor) else self._device.upload(np.asarray(tensor))

    def _infer_shapes(self, shapes: dict[str, tuple[int, ...]], size: Array | None) -> None:
        """Set the inputs' shapes, and the value that shapes depend on; infer the outputs' shapes."""
        same_size = size is None or (self._size is not None and np.array_equal(self._size[1], size))
        if self._output_shapes and same_size and shapes == self._shapes:
            return
        self._forget_shapes()
        for name, shape in shapes.items():
            shape_is_set = not self._bindings[name].has_free_axes or self._context.set_input_shape(name, shape)
            self._require(shape_is_set, f"shape of {name!r}")
        if size is not None:
            self._set_size(size)
        try:
            unknown = self._context.infer_shapes()
        except RuntimeError as error:
            raise BundleError(
                f"stage {self.stage!r} cannot infer its shapes: {error}; build the engine again"
            ) from error
        self._require(not unknown, f"shapes: it misses {unknown}")
        inferred = {tensor.name: tuple(self._context.get_tensor_shape(tensor.name)) for tensor in self.spec.outputs}
        for name, shape in inferred.items():
            self._require(all(axis > 0 for axis in shape), f"shape of {name!r}: {shape}")
        self._shapes, self._output_shapes = shapes, inferred

    def _set_size(self, size: Array) -> None:
        if self._size is None:
            self._size = self._device.pinned_array(size.dtype.name, size.shape)
        else:
            self._stream.synchronize()  # work on the stream may still read the value before
        self._size[1][...] = size
        self._require(
            self._context.set_tensor_address(SHAPE_INPUT, self._size[0].address), f"address of {SHAPE_INPUT!r}"
        )

    def _set_addresses(self, tensors: Mapping[str, TrtTensor]) -> None:
        for name, tensor in tensors.items():
            address = tensor.address
            if self._addresses.get(name) != address:
                self._addresses.pop(name, None)
                self._require(self._context.set_tensor_address(name, address), f"address of {name!r}")
                self._addresses[name] = address

    def _require(self, succeeded: bool, what: str) -> None:
        if succeeded:
            return
        message = self._device.logger.last_errors()
        if is_out_of_memory(message):
            raise DeviceMemoryError(f"stage {self.stage!r}: {message}")
        raise BundleError(
            f"stage {self.stage!r} failed at {what}: {message}; build the engine again, or report it with this line"
        )

    def _submit(self, addresses: tuple[int, ...]) -> None:
        """Run the engine at the addresses that are set; from the second time on as a CUDA graph."""
        graph = self._graphs.get(addresses)
        if graph is None and addresses in self._graphs and self._capture_allowed and self._is_capturable():
            graph = self._capture_graph()
        if graph is None:
            self._enqueue()
        else:
            self._device.cuda.call("cudaGraphLaunch", graph, self._stream.handle)
        self._graphs[addresses] = graph
        self._graphs.move_to_end(addresses)
        if len(self._graphs) > GRAPHS_KEPT:
            self._destroy_graph(self._graphs.popitem(last=False)[1])

    def _is_capturable(self) -> bool:
        # TensorRT-RTX returns False while it still compiles kernels for the shapes at hand; TensorRT lacks the method.
        is_capturable = getattr(self._context, "is_stream_capturable", None)
        return is_capturable is None or bool(is_capturable(int(self._stream.handle)))

    def _capture_graph(self) -> Any:
        """The work of one run as an executable CUDA graph; None, and never tried again, where that does not work."""
        cuda, recorded = self._device.cuda, None
        try:
            mode = cuda.cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
            cuda.call("cudaStreamBeginCapture", self._stream.handle, mode)
            try:
                self._enqueue()
            finally:
                recorded = cuda.call("cudaStreamEndCapture", self._stream.handle)
            return cuda.call("cudaGraphInstantiate", recorded, 0)
        except NerveError as error:
            self._capture_allowed = False
            log.warning("stage %r runs without a CUDA graph, a little slower: %s", self.stage, error)
            return None
        finally:
            if recorded is not None:
                cuda.call("cudaGraphDestroy", recorded)

    def _enqueue(self) -> None:
        self._device.logger.clear()
        self._require(self._context.execute_async_v3(int(self._stream.handle)), "its run")

    def _forget_shapes(self) -> None:
        """Free the CUDA graphs, which hold for one set of shapes."""
        self._shapes, self._output_shapes = {}, {}
        while self._graphs:
            self._destroy_graph(self._graphs.popitem()[1])

    def _destroy_graph(self, graph: Any) -> None:
        if graph is not None:
            self._device.cuda.call("cudaGraphExecDestroy", graph)

    def release_memory(self) -> None:
        """Free the CUDA graphs, whose own memory is then free for tensors."""
        with self._stream.lock:
            self._forget_shapes()

    def close(self) -> None:
        """Free everything; closing twice is fine."""
        if self._context is None:
            return
        self._stream.synchronize()
        self.release_memory()
        self._context = None
        self._engine = None


def _fits(shape: tuple[int, ...], tensor: TensorSpec) -> bool:
    """Whether an engine's shape, -1 for a free axis, is what the manifest says."""
    if len(shape) != len(tensor.axes):
        return False
    return all(isinstance(axis, str) or axis == size for axis, size in zip(tensor.axes, shape, strict=True))
