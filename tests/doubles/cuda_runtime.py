"""A stand-in for cuda-python's runtime module, shipped for tests: checks every use of memory, streams and graphs.

Device memory is host memory here. Work on a stream happens when the stream is waited for and not before, so that who
reads a result too early gets what was there, as on a GPU.
"""

# ruff: noqa: N802, N815 - the names are CUDA's own

import ctypes
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Work = Callable[[], None]


class MisuseError(Exception):
    """The caller broke a rule of the imitated library: a bug, so no NerveError, and never to be caught."""


class FakeErrorCode(IntEnum):
    """Error codes of CUDA, by its names and numbers."""

    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorStreamCaptureUnsupported = 900


class FakeMemcpyKind(IntEnum):
    """Directions of a copy."""

    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class FakeCaptureMode(IntEnum):
    """What other threads may do during a capture."""

    cudaStreamCaptureModeThreadLocal = 1


class FakeDeviceAttribute(IntEnum):
    """Properties of a device."""

    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


@dataclass(frozen=True, slots=True)
class CudaFaults:
    """What goes wrong.

    Attributes:
        failing_allocations: numbers, from 0, of the allocations that find no room.
        device_bytes: all the device memory there is; None for no bound.
        no_driver: every question for the device is refused.
        capture_refused: streams cannot be captured.
    """

    failing_allocations: frozenset[int] = frozenset()
    device_bytes: int | None = None
    no_driver: bool = False
    capture_refused: bool = False


@dataclass(eq=False)
class FakeStream:
    """Work in order; `int()` of it is the handle that TensorRT takes."""

    handle: int
    pending: list[Work] = field(default_factory=list)
    recorded: list[Work] | None = None

    def __int__(self) -> int:
        return self.handle

    def put(self, work: Work) -> None:
        """Add work, or record it while a capture is under way."""
        (self.pending if self.recorded is None else self.recorded).append(work)

    def run(self) -> None:
        """Do what is pending."""
        work, self.pending = self.pending, []
        for step in work:
            step()


@dataclass(eq=False)
class FakeGraph:
    """Recorded work."""

    work: list[Work]


@dataclass(eq=False)
class FakeGraphExec:
    """Recorded work that can be launched."""

    work: list[Work]


class FakeCudart:
    """The part of the CUDA runtime's Python module that the back end uses; every function returns a tuple with a code.

    Args:
        gpu: compute capability.
        faults: what goes wrong.

    Attributes:
        launches: how often a CUDA graph was launched.
        allocations: how often memory was asked for.
    """

    cudaError_t = FakeErrorCode
    cudaMemcpyKind = FakeMemcpyKind
    cudaStreamCaptureMode = FakeCaptureMode
    cudaDeviceAttr = FakeDeviceAttribute
    cudaStreamNonBlocking = 1

    def __init__(self, gpu: tuple[int, int] = (8, 9), faults: CudaFaults | None = None) -> None:
        self.launches = 0
        self.allocations = 0
        self.faults = faults or CudaFaults()
        self._gpu = gpu
        self._memory: dict[str, dict[int, NDArray[np.uint8]]] = {"device": {}, "pinned": {}}
        self._streams: dict[int, FakeStream] = {}
        self._graphs: list[FakeGraph | FakeGraphExec] = []
        self._handles = itertools.count(1000)

    def leaks(self) -> list[str]:
        """What was made and not given back, in words; empty after a clean end."""
        kept = [f"{len(pieces)} pieces of {kind} memory" for kind, pieces in self._memory.items() if pieces]
        kept += [f"stream {handle}" for handle in self._streams]
        return kept + [type(graph).__name__ for graph in self._graphs]

    def cudaGetErrorString(self, error: FakeErrorCode) -> tuple[FakeErrorCode, bytes]:
        """The text of an error code."""
        return FakeErrorCode.cudaSuccess, b"out of memory" if error == 2 else error.name.encode()

    def cudaGetDevice(self) -> tuple[FakeErrorCode, int | None]:
        """The current device, 0."""
        if self.faults.no_driver:
            return FakeErrorCode.cudaErrorInsufficientDriver, None
        return FakeErrorCode.cudaSuccess, 0

    def cudaDeviceGetAttribute(self, attr: FakeDeviceAttribute, device: int) -> tuple[FakeErrorCode, int]:
        """A part of the compute capability."""
        if device != 0:
            raise MisuseError(f"device {device} does not exist")
        return FakeErrorCode.cudaSuccess, self._gpu[attr - FakeDeviceAttribute.cudaDevAttrComputeCapabilityMajor]

    def cudaMalloc(self, size: int) -> tuple[FakeErrorCode, int | None]:
        """Device memory."""
        return self._allocated("device", size)

    def cudaMallocHost(self, size: int) -> tuple[FakeErrorCode, int | None]:
        """Pinned host memory."""
        return self._allocated("pinned", size)

    def _allocated(self, kind: str, size: int) -> tuple[FakeErrorCode, int | None]:
        if size <= 0:
            raise MisuseError(f"{size} bytes of {kind} memory were asked for")
        number, self.allocations = self.allocations, self.allocations + 1
        held = sum(piece.nbytes for piece in self._memory[kind].values())
        too_many = kind == "device" and self.faults.device_bytes is not None and held + size > self.faults.device_bytes
        if too_many or number in self.faults.failing_allocations:
            return FakeErrorCode.cudaErrorMemoryAllocation, None
        piece = np.full(size, 0xA5, dtype=np.uint8)  # rubbish, as in fresh device memory
        self._memory[kind][piece.ctypes.data] = piece
        return FakeErrorCode.cudaSuccess, piece.ctypes.data

    def cudaFree(self, devPtr: int) -> tuple[FakeErrorCode]:
        """Give device memory back; waits for all work first, as CUDA does."""
        return self._freed("device", devPtr)

    def cudaFreeHost(self, ptr: int) -> tuple[FakeErrorCode]:
        """Give pinned memory back; waits for all work first, as CUDA does."""
        return self._freed("pinned", ptr)

    def _freed(self, kind: str, address: int) -> tuple[FakeErrorCode]:
        for stream in self._streams.values():
            stream.run()
        if self._memory[kind].pop(address, None) is None:
            raise MisuseError(f"{address:#x} is not held as {kind} memory: freed twice, or never allocated")
        return (FakeErrorCode.cudaSuccess,)

    def view(self, kind: str, address: int, size_bytes: int) -> NDArray[np.uint8]:
        """The bytes at an address, uint8 (size_bytes,), not a copy; raises unless all of them are held."""
        self.refuse_outside(kind, address, size_bytes)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size_bytes).from_address(address))

    def refuse_outside(self, kind: str, address: int, size_bytes: int) -> None:
        """Raise unless all bytes lie in one piece of `device` or `pinned` memory that is held."""
        pieces = self._memory[kind].items()
        if not any(start <= address and address + size_bytes <= start + piece.nbytes for start, piece in pieces):
            raise MisuseError(f"{size_bytes} bytes at {address:#x} are not within {kind} memory that is held")

    def cudaMemcpyAsync(
        self, dst: int, src: int, count: int, kind: FakeMemcpyKind, stream: FakeStream
    ) -> tuple[FakeErrorCode]:
        """Copy between pinned host memory and the device."""
        to_device = kind == FakeMemcpyKind.cudaMemcpyHostToDevice
        sides = (("device", dst), ("pinned", src)) if to_device else (("pinned", dst), ("device", src))

        def copy() -> None:
            for side, address in sides:
                self.refuse_outside(side, address, count)
            ctypes.memmove(dst, src, count)

        for side, address in sides:
            self.refuse_outside(side, address, count)
        self.held_stream(int(stream)).put(copy)
        return (FakeErrorCode.cudaSuccess,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[FakeErrorCode, FakeStream]:
        """A new stream, which must not wait for the default one."""
        if flags != self.cudaStreamNonBlocking:
            raise MisuseError("the stream would wait for the default stream, which spoils captures")
        stream = FakeStream(next(self._handles))
        self._streams[stream.handle] = stream
        return FakeErrorCode.cudaSuccess, stream

    def held_stream(self, handle: int) -> FakeStream:
        """The stream of that handle; raises if there is none any more."""
        if handle not in self._streams:
            raise MisuseError(f"stream {handle} is not held: destroyed, or never created")
        return self._streams[handle]

    def cudaStreamSynchronize(self, stream: FakeStream) -> tuple[FakeErrorCode]:
        """Do what is pending."""
        held = self.held_stream(int(stream))
        if held.recorded is not None:
            raise MisuseError("a stream was waited for during its capture")
        held.run()
        return (FakeErrorCode.cudaSuccess,)

    def cudaStreamDestroy(self, stream: FakeStream) -> tuple[FakeErrorCode]:
        """Free a stream."""
        self.held_stream(int(stream)).run()
        del self._streams[int(stream)]
        return (FakeErrorCode.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream: FakeStream, mode: FakeCaptureMode) -> tuple[FakeErrorCode]:
        """Record from now on instead of working."""
        if self.faults.capture_refused:
            return (FakeErrorCode.cudaErrorStreamCaptureUnsupported,)
        held = self.held_stream(int(stream))
        if held.recorded is not None:
            raise MisuseError("a capture of this stream is under way already")
        held.recorded = []
        return (FakeErrorCode.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: FakeStream) -> tuple[FakeErrorCode, FakeGraph | None]:
        """What was recorded."""
        held = self.held_stream(int(stream))
        if held.recorded is None:
            raise MisuseError("no capture of this stream is under way")
        graph, held.recorded = FakeGraph(held.recorded), None
        self._graphs.append(graph)
        return FakeErrorCode.cudaSuccess, graph

    def cudaGraphInstantiate(self, graph: FakeGraph, flags: int) -> tuple[FakeErrorCode, FakeGraphExec]:
        """Make recorded work ready."""
        self._held_graph(graph)
        executable = FakeGraphExec(list(graph.work))
        self._graphs.append(executable)
        return FakeErrorCode.cudaSuccess, executable

    def cudaGraphLaunch(self, graphExec: FakeGraphExec, stream: FakeStream) -> tuple[FakeErrorCode]:
        """Put recorded work on a stream."""
        self._held_graph(graphExec)
        self.launches += 1
        held = self.held_stream(int(stream))
        for work in graphExec.work:
            held.put(work)
        return (FakeErrorCode.cudaSuccess,)

    def cudaGraphDestroy(self, graph: FakeGraph) -> tuple[FakeErrorCode]:
        """Free recorded work."""
        self._graphs.remove(self._held_graph(graph))
        return (FakeErrorCode.cudaSuccess,)

    def cudaGraphExecDestroy(self, graphExec: FakeGraphExec) -> tuple[FakeErrorCode]:
        """Free launchable work."""
        self._graphs.remove(self._held_graph(graphExec))
        return (FakeErrorCode.cudaSuccess,)

    def _held_graph(self, graph: FakeGraph | FakeGraphExec) -> FakeGraph | FakeGraphExec:
        if graph not in self._graphs:
            raise MisuseError(f"this {type(graph).__name__} is not held: destroyed, or never made")
        return graph
