"""Device memory, pinned memory and streams by cuda-python; each call's error code is looked at."""

import ctypes
import itertools
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.errors import CompatibilityError, ResourceError

UInt8Array = NDArray[np.uint8]


class DeviceMemoryError(ResourceError):
    """The GPU, or pinned host memory, has not enough room; releasing something may help."""


def import_cudart() -> Any:
    """The CUDA runtime's Python module, wherever this version of cuda-python has it.

    Raises:
        CompatibilityError: cuda-python is missing.
    """
    try:
        from cuda.bindings import runtime
    except ImportError:
        try:
            from cuda import cudart  # cuda-python before 12.6
        except ImportError as error:
            raise CompatibilityError(
                f"cuda-python cannot be imported ({error}), which engines need for the GPU's memory; install it with: "
                "pip install 'nerve-deploy[rtx]' or 'nerve-deploy[trt]'"
            ) from error
        return cudart
    return runtime


class Cuda:
    """Calls the CUDA runtime and raises where it returns an error code.

    Args:
        cudart: module of cuda-python, or what stands in for it.
    """

    def __init__(self, cudart: Any) -> None:
        self.cudart = cudart

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the CUDA runtime by its own name and return its result, None where it has none.

        Raises:
            DeviceMemoryError: there is no room.
            CompatibilityError: any other error code; it is named.
        """
        error, *results = getattr(self.cudart, name)(*arguments)
        codes = self.cudart.cudaError_t
        if error == codes.cudaErrorMemoryAllocation:
            raise DeviceMemoryError(f"the GPU has no room left: {name} says {self._error_text(error)}")
        if error != codes.cudaSuccess:
            raise CompatibilityError(
                f"TensorRT cannot use a GPU: {name} says {self._error_text(error)}; check the driver with nvidia-smi, or use "
                'backend="ort"'
            )
        return results[0] if results else None

    def is_done(self, event: Any) -> bool:
        """Whether all work before an event is done.

        Raises:
            CompatibilityError: that work failed.
        """
        if self.cudart.cudaEventQuery(event)[0] == self.cudart.cudaError_t.cudaErrorNotReady:
            return False
        self.call("cudaEventQuery", event)
        return True

    def _error_text(self, error: Any) -> str:
        code, text = self.cudart.cudaGetErrorString(error)
        words = text.decode() if code == self.cudart.cudaError_t.cudaSuccess else "unknown"
        return f"{getattr(error, 'name', error)} ({words})"

    def compute_capability(self) -> str:
        """That of the current device, for example "sm89".

        Raises:
            CompatibilityError: there is no GPU, or its driver is missing or too old.
        """
        attributes = self.cudart.cudaDeviceAttr
        device = self.call("cudaGetDevice")
        major = self.call("cudaDeviceGetAttribute", attributes.cudaDevAttrComputeCapabilityMajor, device)
        minor = self.call("cudaDeviceGetAttribute", attributes.cudaDevAttrComputeCapabilityMinor, device)
        return f"sm{major}{minor}"


class Stream:
    """Work in order on the device, with an event behind the latest of it.

    Who waits for a stream waits for all that was put on it so far. The lock is held while work is put on it, because
    what another thread puts there would be recorded into a capture.
    """

    def __init__(self, cuda: Cuda) -> None:
        # Non-blocking: work that another library puts on the default stream would otherwise spoil a capture.
        self.handle = cuda.call("cudaStreamCreateWithFlags", cuda.cudart.cudaStreamNonBlocking)
        self.lock = threading.RLock()
        self._cuda = cuda
        self._latest = cuda.call("cudaEventCreateWithFlags", cuda.cudart.cudaEventDisableTiming)

    def record(self) -> None:
        """Put the event behind all work so far; called after every piece of work."""
        self._cuda.call("cudaEventRecord", self._latest, self.handle)

    def wait_for(self, other: "Stream") -> None:
        """Begin what is put here from now on after the latest work of another stream; the host does not wait."""
        if other is not self:
            self._cuda.call("cudaStreamWaitEvent", self.handle, other._latest, 0)

    def synchronize(self) -> None:
        """Let the host wait for the latest work."""
        self._cuda.call("cudaEventSynchronize", self._latest)

    def destroy(self) -> None:
        """Free the event, then the stream, which ends its work first."""
        self._cuda.call("cudaEventDestroy", self._latest)
        self._cuda.call("cudaStreamDestroy", self.handle)


@dataclass(eq=False, slots=True)
class Block:
    """A piece of memory.

    Attributes:
        number: in the order in which the pool's blocks were allocated.
        address: where it begins.
        size_bytes: its size.
        users: streams with work that reads or writes it; of device memory.
        last_copy: event behind the copy that reads it; of pinned memory that was copied from.
    """

    number: int
    address: int
    size_bytes: int
    users: set[Stream] = field(default_factory=set)
    last_copy: Any = None

    def host_bytes(self) -> UInt8Array:
        """Pinned memory as an array uint8 (size_bytes,), not a copy."""
        return np.ctypeslib.as_array((ctypes.c_uint8 * self.size_bytes).from_address(self.address))


class MemoryPool:
    """Device or pinned host memory in blocks, which are kept for later tensors of the same size.

    A block of device memory that is taken again may still be in use by work of its last tensor; its users say which
    streams to wait for. Pinned memory, which the host writes at once, is taken again only after its last copy.
    Of several spare blocks the first allocated is taken, so that frames with the same tensors have them at the same
    addresses, which CUDA graphs need.

    Args:
        cuda: of the device.
        pinned: host memory that the device can copy from and to by itself, instead of the device's own.
    """

    def __init__(self, cuda: Cuda, *, pinned: bool) -> None:
        self._cuda = cuda
        self._allocate, self._free = ("cudaMallocHost", "cudaFreeHost") if pinned else ("cudaMalloc", "cudaFree")
        self._lock = threading.Lock()
        self._blocks: dict[int, Block] = {}  # all, by address
        self._spare: dict[int, list[Block]] = {}  # by size
        self._returned: deque[Block] = deque()
        self._numbers = itertools.count()

    def take(self, size_bytes: int) -> Block:
        """A block of that size, 1 or more, with arbitrary content.

        Raises:
            DeviceMemoryError: there is no room.
        """
        with self._lock:
            self._sort_returned()
            spare = self._spare.get(size_bytes, [])
            usable = [block for block in spare if block.last_copy is None or self._cuda.is_done(block.last_copy)]
            if usable:
                block = min(usable, key=lambda block: block.number)
                spare.remove(block)
            else:
                address = int(self._cuda.call(self._allocate, size_bytes))
                block = Block(next(self._numbers), address, size_bytes)
                self._blocks[block.address] = block
            return block

    def copied(self, block: Block, stream: Stream) -> None:
        """Note that the latest work of a stream copies from pinned memory."""
        if block.last_copy is None:
            block.last_copy = self._cuda.call("cudaEventCreateWithFlags", self._cuda.cudart.cudaEventDisableTiming)
        self._cuda.call("cudaEventRecord", block.last_copy, stream.handle)

    def give_back(self, block: Block) -> None:
        """Keep a block for later; called by the garbage collector too, so without a lock."""
        self._returned.append(block)

    def _sort_returned(self) -> None:
        while self._returned:
            block = self._returned.popleft()
            if self._blocks.get(block.address) is block:  # else it was freed in the meantime
                self._spare.setdefault(block.size_bytes, []).append(block)

    def free_spare(self) -> None:
        """Give all spare blocks back to the device, which ends work that still uses them first."""
        with self._lock:
            self._sort_returned()
            for blocks in self._spare.values():
                for block in blocks:
                    del self._blocks[block.address]
                    self._free_block(block)
            self._spare.clear()

    def close(self) -> None:
        """Free all blocks, those of living tensors too, which cannot be used any more."""
        self.free_spare()
        with self._lock:
            blocks, self._blocks = self._blocks, {}
            for block in blocks.values():
                self._free_block(block)

    def _free_block(self, block: Block) -> None:
        self._cuda.call(self._free, block.address)
        if block.last_copy is not None:
            self._cuda.call("cudaEventDestroy", block.last_copy)
