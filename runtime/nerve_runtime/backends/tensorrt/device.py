"""A GPU with its streams and its memory, and tensors that stay there."""

import logging
import math
import threading
import weakref
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from typing import Any, Literal, TypeVar

import numpy as np

from nerve_runtime.backends.base import DeviceTensor
from nerve_runtime.backends.tensorrt.memory import Block, Cuda, DeviceMemoryError, MemoryPool, Stream
from nerve_runtime.bundle.spec import Array, StageName
from nerve_runtime.errors import ResourceError, UsageError

StreamName = Literal["copy", "words", "picture", "walk"]
STREAMS: Mapping[StageName, StreamName] = {
    "text": "words", "scores": "words", "attention": "picture", "local": "picture",
}  # fmt: skip
"""Stages whose streams do not wait for the walk: those of the words, and those of the picture alone."""

ALIGNMENT_BYTES = 256
"""Addresses that an engine reads are multiples of this, as those that CUDA allocates are."""
Result = TypeVar("Result")
log = logging.getLogger(__name__)


class TrtTensor(DeviceTensor):
    """A tensor in device memory.

    Attributes:
        block: its memory.
        home: the stream whose work makes it; others wait for that before they use it.
        address: where it begins in the block.
        whole: the tensor that it is an item of, kept alive with its memory; None for a whole one.
    """

    def __init__(
        self,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        block: Block,
        home: Stream,
        address: int,
        whole: "TrtTensor | None" = None,
    ) -> None:
        super().__init__(dtype, shape)
        self.block, self.home, self.address, self.whole = block, home, address, whole

    def item(self, index: int, *, keep_axis: bool = False) -> "TrtTensor":
        """One entry of the first axis, in the memory of this tensor."""
        shape = (1, *self.shape[1:]) if keep_axis else self.shape[1:]
        address = self.address + index * math.prod(self.shape[1:]) * self.dtype.itemsize
        return TrtTensor(self.dtype, shape, self.block, self.home, address, whole=self)


class Device:
    """A GPU: its streams, the memory that tensors come from, and what is written there and read from there.

    Work on different streams is ordered by events alone. A tensor is used by another stream only after that stream was
    told to wait for the tensor's own, and memory is used again only after the streams that used it before.

    Args:
        module: of the TensorRT library.
        cuda: the CUDA runtime.
        logger: keeps the library's last messages.

    Attributes:
        stopped: later runs fail.
        on_memory_short: called to give back more than spare tensors.
    """

    def __init__(self, module: Any, cuda: Cuda, logger: Any) -> None:
        self.module, self.cuda, self.logger = module, cuda, logger
        self.stopped = False
        self.on_memory_short: list[Callable[[], None]] = []
        self.closed = False
        self._streams: dict[StreamName, Stream] = {}
        self._streams_lock = threading.Lock()
        self._memory = MemoryPool(cuda, pinned=False)
        self._pinned = MemoryPool(cuda, pinned=True)

    def stream(self, name: StreamName) -> Stream:
        """A stream by name, made when it is first asked for."""
        with self._streams_lock:
            if name not in self._streams:
                self._streams[name] = Stream(self.cuda)
            return self._streams[name]

    def tensor(self, dtype: np.dtype[Any], shape: tuple[int, ...], home: Stream) -> TrtTensor:
        """A tensor with arbitrary content that work of a stream is going to write.

        Its memory goes back to the pool with the last reference to it and to its items.

        Raises:
            DeviceMemoryError: there is no room.
        """
        block = self._memory.take(_size_bytes(dtype, shape))
        tensor = TrtTensor(dtype, shape, block, home, block.address)
        weakref.finalize(tensor, self._memory.give_back, block).atexit = False
        for user in block.users:
            home.wait_for(user)
        block.users = {home}
        return tensor

    def upload(self, array: Array) -> TrtTensor:
        """Copy an array to the device, through pinned memory, on a stream of its own; the host does not wait.

        Raises:
            ResourceError: there is no room.
        """
        self.refuse_if_closed()
        return self.with_memory_retry(lambda: self._uploaded(array))

    def _uploaded(self, array: Array) -> TrtTensor:
        stream = self.stream("copy")
        with stream.lock:
            staging = self._pinned.take(max(1, array.nbytes))
            try:
                staging.host_bytes()[: array.nbytes].view(array.dtype).reshape(array.shape)[...] = array
                tensor = self.tensor(array.dtype, array.shape, stream)
                to_device = self.cuda.cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
                self._copy(tensor.block.address, staging.address, staging.size_bytes, to_device, stream)
                self._pinned.copied(staging, stream)
            finally:
                self._pinned.give_back(staging)
        return tensor

    def aligned(self, tensor: TrtTensor, stream: Stream) -> TrtTensor:
        """The tensor where an engine may read it: itself, or a copy by the stream's work where it begins between bounds.

        Raises:
            DeviceMemoryError: there is no room.
        """
        if (tensor.address - tensor.block.address) % ALIGNMENT_BYTES == 0:
            return tensor
        with stream.lock:
            copy = self.tensor(tensor.dtype, tensor.shape, stream)
            wait_for_tensors(stream, [tensor])
            on_device = self.cuda.cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice
            self._copy(copy.address, tensor.address, _size_bytes(tensor.dtype, tensor.shape), on_device, stream)
        return copy

    def download(self, tensors: Mapping[str, TrtTensor], stream: Stream) -> dict[str, Array]:
        """Arrays with the values that the work of a stream so far gives tensors; waits for it once.

        Raises:
            DeviceMemoryError: there is no room.
        """
        staged: dict[str, Block] = {}
        try:
            for name, tensor in tensors.items():
                staged[name] = self._pinned.take(tensor.block.size_bytes)
            from_device = self.cuda.cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
            with stream.lock:
                for name, block in staged.items():
                    self._copy(block.address, tensors[name].block.address, block.size_bytes, from_device, stream)
            stream.synchronize()
            return {name: _values(staged[name], tensor) for name, tensor in tensors.items()}
        finally:
            for block in staged.values():
                self._pinned.give_back(block)

    def _copy(self, target: int, source: int, size_bytes: int, kind: Any, stream: Stream) -> None:
        self.cuda.call("cudaMemcpyAsync", target, source, size_bytes, kind, stream.handle)
        stream.record()

    def pinned_array(self, dtype: str, shape: tuple[int, ...]) -> tuple[Block, Array]:
        """Pinned memory that the device reads in place, and the array in it."""
        size_bytes = _size_bytes(np.dtype(dtype), shape)
        block = self._pinned.take(size_bytes)
        return block, block.host_bytes().view(dtype).reshape(shape)

    def with_memory_retry(self, attempt: Callable[[], Result]) -> Result:
        """Run `attempt`; where device memory runs out, free all that is not in use and run it once more.

        Raises:
            ResourceError: memory ran out again.
        """
        try:
            return attempt()
        except DeviceMemoryError as error:
            # Its text alone: a log that keeps the error would keep the tensors of the frames that it passed.
            log.warning("%s; giving back what is not in use and trying once more", str(error))
        for give_back in self.on_memory_short:
            give_back()
        self.free_spare()
        try:
            return attempt()
        except DeviceMemoryError as error:
            raise ResourceError(
                f"{error}; this was the second try, with all spare memory given back: end other programs on the GPU, "
                "use smaller frames, or build a bundle of a smaller --size"
            ) from error

    def free_spare(self) -> None:
        """Give back all memory that no tensor holds."""
        self._memory.free_spare()
        self._pinned.free_spare()

    def refuse_if_closed(self) -> None:
        """Raise where nothing can run any more.

        Raises:
            UsageError: the device was closed.
        """
        if self.closed:
            raise UsageError("this back end was closed; open it again")

    def close(self) -> None:
        """End all work, then free memory and streams; closing twice is fine."""
        self.closed = True
        with ExitStack() as undo:  # in reverse order, each even where another fails
            for stream in self._streams.values():
                undo.callback(stream.destroy)
            undo.callback(self._pinned.close)
            undo.callback(self._memory.close)
            for stream in self._streams.values():
                undo.callback(stream.synchronize)
            self._streams = {}


def wait_for_tensors(stream: Stream, tensors: Collection[TrtTensor]) -> None:
    """Let a stream begin its next work after the tensors are made, and note that it uses them."""
    for home in {tensor.home for tensor in tensors}:
        stream.wait_for(home)
    for tensor in tensors:
        tensor.block.users.add(stream)


def _size_bytes(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    return max(1, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)


def _values(block: Block, tensor: TrtTensor) -> Array:
    size_bytes = int(np.prod(tensor.shape, dtype=np.int64)) * tensor.dtype.itemsize
    return block.host_bytes()[:size_bytes].view(tensor.dtype).reshape(tensor.shape).copy()
