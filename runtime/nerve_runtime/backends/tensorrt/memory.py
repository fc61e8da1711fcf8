"""Device memory, pinned memory and streams by cuda-python; each call's error code is looked at."""

import ctypes
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


class Memory:
    """One piece of device or pinned host memory that grows when more is asked for, and is kept for the next time.

    Args:
        cuda: of the device.
        pinned: host memory that the device can copy from and to by itself, instead of the device's own.
    """

    def __init__(self, cuda: Cuda, *, pinned: bool) -> None:
        self.address = 0
        self._cuda = cuda
        self._capacity_bytes = 0
        self._allocate, self._free = ("cudaMallocHost", "cudaFreeHost") if pinned else ("cudaMalloc", "cudaFree")

    def reserve(self, size_bytes: int) -> None:
        """Hold at least so many bytes; what was in it is lost and its address changes when it has to grow.

        Raises:
            DeviceMemoryError: there is no room; nothing is held then.
        """
        if size_bytes <= self._capacity_bytes:
            return
        self.release()
        self.address = int(self._cuda.call(self._allocate, size_bytes))
        self._capacity_bytes = size_bytes

    def host_bytes(self, size_bytes: int) -> UInt8Array:
        """The first bytes of pinned memory as an array uint8 (size_bytes,), not a copy."""
        return np.ctypeslib.as_array((ctypes.c_uint8 * size_bytes).from_address(self.address))

    def release(self) -> None:
        """Give the memory back; releasing twice is fine."""
        address, self.address, self._capacity_bytes = self.address, 0, 0
        if address:
            self._cuda.call(self._free, address)
