"""A stand-in for cuda-python's runtime module: checks every use of memory, streams, events and graphs, and counts copies.

Device memory is host memory here. Work on a stream happens when it is waited for and not before, so that who reads a
result too early gets what was there, as on a GPU. Work that uses memory which other work may still be using, because no
event orders the two, is refused when it is put on its stream (`ordering.py`).
"""

# ruff: noqa: N802, N815 - the names are CUDA's own

import ctypes
import itertools
import threading
from collections import Counter
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from nerve_bench.doubles.ordering import MisuseError, Ordering
from nerve_bench.doubles.streams import FakeEvent, FakeGraph, FakeGraphExec, FakeStream, Work


class FakeErrorCode(IntEnum):
    """Error codes of CUDA, by its names and numbers."""

    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNotReady = 600
    cudaErrorStreamCaptureUnsupported = 900


class FakeMemcpyKind(IntEnum):
    """Directions of a copy."""

    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


COUNTED = {
    FakeMemcpyKind.cudaMemcpyHostToDevice: "h2d_bytes",
    FakeMemcpyKind.cudaMemcpyDeviceToHost: "d2h_bytes",
    FakeMemcpyKind.cudaMemcpyDeviceToDevice: "d2d_bytes",
}


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


class FakeCudart:
    """The part of the CUDA runtime's Python module that the back end uses; every function returns a tuple with a code.

    Args:
        gpu: compute capability.
        faults: what goes wrong.

    Attributes:
        launches: how often a CUDA graph was launched.
        allocations: how often memory was asked for.
        counts: `h2d_bytes`, `d2h_bytes`, `d2d_bytes`, and `waits` of the host for the device.
    """

    cudaError_t = FakeErrorCode
    cudaMemcpyKind = FakeMemcpyKind
    cudaStreamCaptureMode = FakeCaptureMode
    cudaDeviceAttr = FakeDeviceAttribute
    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2

    def __init__(self, gpu: tuple[int, int] = (8, 9), faults: CudaFaults | None = None) -> None:
        self.launches = 0
        self.allocations = 0
        self.faults = faults or CudaFaults()
        self._gpu = gpu
        self._memory: dict[str, dict[int, NDArray[np.uint8]]] = {"device": {}, "pinned": {}}
        self.counts: Counter[str] = Counter()
        self._streams: dict[int, FakeStream] = {}
        self._events: dict[int, FakeEvent] = {}
        self._ordering = Ordering()
        self._lock = threading.RLock()  # CUDA may be called from several threads
        self._graphs: list[FakeGraph | FakeGraphExec] = []
        self._handles = itertools.count(1000)

    def leaks(self) -> list[str]:
        """What was made and not given back, in words; empty after a clean end."""
        kept = [f"{len(pieces)} pieces of {kind} memory" for kind, pieces in self._memory.items() if pieces]
        kept += [f"stream {handle}" for handle in self._streams]
        kept += [f"event {handle}" for handle in self._events]
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
        with self._lock:
            number, self.allocations = self.allocations, self.allocations + 1
            held = sum(piece.nbytes for piece in self._memory[kind].values())
            bound = self.faults.device_bytes
            too_many = kind == "device" and bound is not None and held + size > bound
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
        with self._lock:
            for stream in self._streams.values():
                stream.run()
                self._ordering.host_saw(stream.clock)
            if self._memory[kind].pop(address, None) is None:
                raise MisuseError(f"{address:#x} is not held as {kind} memory: freed twice, or never allocated")
            self._ordering.forget(address)
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

    def base(self, address: int) -> int:
        """Where the piece of memory begins that holds an address; the address where none does."""
        pieces = [piece for kind in self._memory.values() for piece in kind.items()]
        return next((start for start, piece in pieces if start <= address < start + piece.nbytes), address)

    def cudaMemcpyAsync(
        self, dst: int, src: int, count: int, kind: FakeMemcpyKind, stream: FakeStream
    ) -> tuple[FakeErrorCode]:
        """Copy between pinned host memory and the device, or within the device."""
        to_device = kind == FakeMemcpyKind.cudaMemcpyHostToDevice
        sides = (("device", dst), ("pinned", src)) if to_device else (("pinned", dst), ("device", src))
        if kind == FakeMemcpyKind.cudaMemcpyDeviceToDevice:
            sides = (("device", dst), ("device", src))
        for side, address in sides:
            self.refuse_outside(side, address, count)
        given = self.view(sides[1][0], src, count).copy() if to_device else None

        def copy() -> None:
            for side, address in sides:
                self.refuse_outside(side, address, count)
            if given is not None and not np.array_equal(given, self.view("pinned", src, count)):
                raise MisuseError(f"pinned memory at {src:#x} was written before its copy to the device was done")
            ctypes.memmove(dst, src, count)

        self.counts[COUNTED[kind]] += count
        self.put(int(stream), Work(copy, reads=(src,), writes=(dst,)))
        return (FakeErrorCode.cudaSuccess,)

    def put(self, stream_handle: int, work: Work) -> None:
        """Put work on a stream, or record it while a capture is under way; raises where nothing orders it."""
        with self._lock:
            stream = self.held_stream(stream_handle)
            if stream.recorded is not None:
                stream.recorded.append(work)
                return
            reads, writes = (tuple(map(self.base, addresses)) for addresses in (work.reads, work.writes))
            self._ordering.begin(stream.handle, stream.clock, reads, writes)
            stream.queue.append(work.run)

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

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[FakeErrorCode, FakeEvent]:
        """A new event, which may not take the time: that makes it slow."""
        if flags != self.cudaEventDisableTiming:
            raise MisuseError("the event would take the time, which slows the streams that record it")
        event = FakeEvent(next(self._handles))
        self._events[event.handle] = event
        return FakeErrorCode.cudaSuccess, event

    def _held_event(self, event: FakeEvent) -> FakeEvent:
        if self._events.get(event.handle) is not event:
            raise MisuseError(f"event {event.handle} is not held: destroyed, or never created")
        return event

    def cudaEventRecord(self, event: FakeEvent, stream: FakeStream) -> tuple[FakeErrorCode]:
        """Put the event behind all work of a stream so far."""
        with self._lock:
            held, stream = self._held_event(event), self.held_stream(int(stream))
            if stream.recorded is not None:
                raise MisuseError("an event was recorded in a capture, where others cannot wait for it")
            held.stream, held.position, held.clock = stream, stream.position, stream.clock.copy()
            return (FakeErrorCode.cudaSuccess,)

    def cudaStreamWaitEvent(self, stream: FakeStream, event: FakeEvent, flags: int) -> tuple[FakeErrorCode]:
        """Begin what is put on a stream from now on after an event."""
        with self._lock:
            held, waiting = self._held_event(event), self.held_stream(int(stream))
            if waiting.recorded is not None:
                raise MisuseError("a stream waits for an event in a capture")
            source, position = held.stream, held.position
            if source is not None:
                waiting.clock.merge(held.clock)
                waiting.queue.append(lambda: source.run(position))
            return (FakeErrorCode.cudaSuccess,)

    def cudaEventQuery(self, event: FakeEvent) -> tuple[FakeErrorCode]:
        """Whether all work before an event is done; the host knows it then."""
        with self._lock:
            held = self._held_event(event)
            if not held.is_done:
                return (FakeErrorCode.cudaErrorNotReady,)
            self._ordering.host_saw(held.clock)
            return (FakeErrorCode.cudaSuccess,)

    def cudaEventSynchronize(self, event: FakeEvent) -> tuple[FakeErrorCode]:
        """Do all work before an event."""
        with self._lock:
            held = self._held_event(event)
            if held.stream is not None and held.stream.recorded is not None:
                raise MisuseError("a stream was waited for during its capture")
            self.counts["waits"] += 1
            held.run()
            self._ordering.host_saw(held.clock)
            return (FakeErrorCode.cudaSuccess,)

    def cudaEventDestroy(self, event: FakeEvent) -> tuple[FakeErrorCode]:
        """Free an event."""
        del self._events[self._held_event(event).handle]
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
        for work in graphExec.work:
            self.put(int(stream), work)
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
