"""The picture arithmetic of the C library, compiled on first use and called through ctypes."""

import ctypes
import os
import shutil
import subprocess
import tempfile
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nerve_runtime.motion import Motion

NATIVE = Path(__file__).parents[2] / "runtime" / "native"
SOURCES = ("area_spans", "image", "motion", "readout", "resize_area", "resize_linear", "sampling", "sums")
FLAGS = "-std=c++17 -O2 -Wall -Wextra -Wpedantic -Werror -fvisibility=hidden -ffp-contract=off"
FLAGS_VARIABLE = "NERVE_TEST_CXXFLAGS"
"""Environment variable with further flags for the compiler, such as -fsanitize=address,undefined."""

UInt8Array = NDArray[np.uint8]
FloatArray = NDArray[np.float32]


@cache
def library() -> ctypes.CDLL:
    """The compiled functions of `internals_pictures.cc`; needs g++."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    folder = tempfile.TemporaryDirectory(prefix="nerve-pictures-")
    target = Path(folder.name) / "pictures.so"
    sources = [Path(__file__).with_name("internals_pictures.cc"), *(NATIVE / "src" / f"{name}.cc" for name in SOURCES)]
    folders = [f"-I{NATIVE / name}" for name in ("src", "include")]
    flags = [*FLAGS.split(), *os.environ.get(FLAGS_VARIABLE, "").split(), "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, *folders, *map(str, sources), "-o", str(target)], check=True)
    loaded = ctypes.CDLL(str(target))
    loaded.mean_in_pairs.restype = ctypes.c_float
    loaded.new_tracker.restype = ctypes.c_void_p
    weakref.finalize(loaded, folder.cleanup)
    return loaded


def pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    """The address of an array's first element."""
    return ctypes.c_void_p(array.ctypes.data)


def resized_frame(pixels: UInt8Array, size_hw: tuple[int, int], *, bgr: bool = False) -> UInt8Array:
    """A picture (H, W, 3), with any distance between its rows, stretched to `size_hw`."""
    out = np.empty((*size_hw, 3), np.uint8)
    stride = ctypes.c_ssize_t(pixels.strides[0])
    library().resize_frame(pointer(pixels), *pixels.shape[:2], stride, int(bgr), *size_hw, pointer(out))
    return out


def motion_size_hw(size_hw: tuple[int, int]) -> tuple[int, int]:
    """The size at which motion is measured."""
    out = np.empty(2, np.int32)
    library().motion_size_hw(*size_hw, pointer(out))
    return int(out[0]), int(out[1])


def grey_picture(rgb: UInt8Array) -> UInt8Array:
    """The grey picture of a working frame."""
    out = np.empty(motion_size_hw((rgb.shape[0], rgb.shape[1])), np.uint8)
    library().grey_picture(pointer(rgb), *rgb.shape[:2], pointer(out))
    return out


def resized_by_area(values: FloatArray, size_hw: tuple[int, int]) -> FloatArray:
    """Averages of float32 (H, W, c)."""
    out = np.empty((*size_hw, values.shape[2]), np.float32)
    library().resize_by_area(pointer(values), *values.shape, *size_hw, pointer(out))
    return out


def sampled(picture: NDArray[Any], places: FloatArray) -> NDArray[Any]:
    """Levels uint8 (H, W), or pairs of float32 (H, W, 2), at places (h, w, 2)."""
    count = places.size // 2
    if picture.dtype == np.uint8:
        levels = np.empty(places.shape[:2], np.uint8)
        library().sampled_levels(pointer(picture), *picture.shape, pointer(places), count, pointer(levels))
        return levels
    pairs = np.empty(places.shape, np.float32)
    library().sampled_places(pointer(picture), *picture.shape[:2], pointer(places), count, pointer(pairs))
    return pairs


def mean_in_pairs(values: FloatArray) -> float:
    """The mean of float32 values, in NumPy's order."""
    return float(library().mean_in_pairs(pointer(values), values.size))


class NativeTracker:
    """The C library's motion tracker, with the flow given."""

    def __init__(self, grid_hw: tuple[int, int], grey_hw: tuple[int, int]) -> None:
        self._tokens, self._grey_hw = grid_hw[0] * grid_hw[1], grey_hw
        self._tracker = ctypes.c_void_p(library().new_tracker(*grid_hw, *grey_hw))
        weakref.finalize(self, library().delete_tracker, self._tracker)

    def follow(self, grey: UInt8Array, flow: FloatArray | None) -> tuple[Motion, float, float] | None:
        """Motion, the share traced, and the share visible."""
        assert grey.shape == self._grey_hw
        motion = Motion(
            np.empty(self._tokens, np.int64),
            np.empty(self._tokens, np.float32),
            np.empty((4, self._tokens), np.int64),
            np.empty((4, self._tokens), np.float32),
        )
        shares = np.empty(2, np.float64)
        arrays = (motion.origin_tokens, motion.origin_visible, motion.previous_tokens, motion.previous_weights, shares)
        given = None if flow is None else pointer(flow)
        found = library().follow(self._tracker, pointer(grey), grey.size, given, *(pointer(array) for array in arrays))
        return (motion, float(shares[0]), float(shares[1])) if found else None

    def begin(self) -> None:
        """Make the latest frame the keyframe."""
        library().begin(self._tracker)

    def forget(self) -> None:
        """Drop all frames."""
        library().forget(self._tracker)


def possible_winners(scores: FloatArray, grid_hw: tuple[int, int], readout: str, *, keep_first: bool) -> list[int]:
    """Labels that can win some pixel."""
    out = np.empty(len(scores) + 1, np.int32)
    count = library().possible_winners(
        pointer(scores), len(scores), *grid_hw, readout.encode(), int(keep_first), pointer(out)
    )
    return [int(label) for label in out[:count]]


def readout_size_hw(classes: int, size_hw: tuple[int, int], limit_px: int) -> tuple[int, int]:
    """The size at which labels are read out; 0: no limit."""
    out = np.empty(2, np.int32)
    library().readout_size_hw(classes, *size_hw, limit_px, pointer(out))
    return int(out[0]), int(out[1])


def enlarged(plane: NDArray[Any], size_hw: tuple[int, int]) -> NDArray[Any]:
    """A plane uint8 or uint16 at another size."""
    out = np.empty(size_hw, plane.dtype)
    enlarge = library().enlarge_8_bit if plane.dtype == np.uint8 else library().enlarge_16_bit
    enlarge(pointer(plane), *plane.shape, pointer(out), *size_hw)
    return out


def label_bytes(classes: int) -> tuple[int, str]:
    """Bytes of a label, and the text of the error."""
    error = ctypes.create_string_buffer(200)
    return int(library().label_bytes(ctypes.c_int64(classes), error, len(error))), error.value.decode()


def cast_labels(labels: NDArray[Any]) -> NDArray[Any]:
    """8-bit labels in 16 bits, or the reverse."""
    narrow = labels.dtype == np.uint8
    out = np.empty(labels.shape, np.uint16 if narrow else np.uint8)
    cast = library().cast_to_16_bit if narrow else library().cast_to_8_bit
    cast(pointer(labels), labels.size, pointer(out))
    return out
