"""The C library through ctypes, so that one suite drives both languages."""

import ctypes
import math
from ctypes import POINTER, Structure, byref, c_char_p, c_double, c_int, c_int32, c_size_t, c_ssize_t, c_void_p
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from nerve_runtime import (
    BundleError,
    CompatibilityError,
    Constants,
    Labels,
    NerveError,
    NumericError,
    ResourceError,
    Temporal,
    UsageError,
)
from nerve_runtime.frames import UInt8Array
from nerve_runtime.motion import FloatArray

BETWEEN = ("follow", "warm", "exact", "hold")
READOUTS = (None, "bilinear", "guided")
RGB, BGR = 0, 1
ERRORS = {
    error.exit_code: error for error in (UsageError, BundleError, CompatibilityError, ResourceError, NumericError)
}
Warning_ = ctypes.CFUNCTYPE(None, c_void_p, c_char_p)


class Params(Structure):
    """nerve_params."""

    _fields_ = [
        ("struct_size", c_size_t), ("onnxruntime", c_char_p), ("engine_cache", c_char_p), ("on_warning", Warning_),
        ("user", c_void_p), ("provider", c_int32), ("device", c_int32), ("threads", c_int32), ("spinning", c_int32),
        ("strict", c_int32), ("readout", c_int32), ("between", c_int32), ("keyframe_every", c_int32),
        ("scores_every", c_int32), ("longest_s", c_double), ("smoothing", c_double), ("change", c_double),
        ("cut", c_double), ("tau", c_double), ("alpha", c_double), ("beta", c_double), ("head_temperature", c_double),
        ("threshold", c_double),
    ]  # fmt: skip


class Info(Structure):
    """nerve_info."""

    _fields_ = [
        ("struct_size", c_size_t), ("working_height", c_int32), ("working_width", c_int32), ("motion_height", c_int32),
        ("motion_width", c_int32), ("max_classes", c_int32), ("random_weights", c_int32),
    ]  # fmt: skip


class PictureOfC(Structure):
    """nerve_frame."""

    _fields_ = [
        ("struct_size", c_size_t), ("pixels", c_void_p), ("height", c_int32), ("width", c_int32),
        ("stride", c_ssize_t), ("format", c_int32), ("time_s", c_double), ("flow", c_void_p),
    ]  # fmt: skip


class ResultOfC(Structure):
    """nerve_result."""

    _fields_ = [
        ("struct_size", c_size_t), ("labels", c_void_p), ("labels_bytes", c_size_t), ("confidence", c_void_p),
        ("valid", c_int32), ("keyframe", c_int32), ("affinity_age", c_int32), ("total_ms", c_double),
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class NativeResult:
    """What nerve_segment gave."""

    labels: Labels
    confidence: UInt8Array
    valid: bool
    keyframe: bool
    affinity_age: int
    total_ms: float


def open_library(path: Path) -> ctypes.CDLL:
    """Load libnerve.so and say what its functions return."""
    library = ctypes.CDLL(str(path))
    for name in ("nerve_version", "nerve_last_error", "nerve_class_name", "nerve_description"):
        getattr(library, name).restype = c_char_p
    library.nerve_label_bytes.restype = c_size_t
    library.nerve_params_init.argtypes = [POINTER(Params), c_size_t]
    for name in ("nerve_open", "nerve_new_video", "nerve_set_classes", "nerve_set_vocabulary", "nerve_segment"):
        getattr(library, name).restype = c_int
    return library


def params_for(
    library: ctypes.CDLL,
    onnxruntime: Path,
    temporal: Temporal | None = None,
    constants: Constants | None = None,
    **fields: Any,
) -> Params:
    """The defaults of nerve_params_init with what is given on top."""
    params = Params()
    library.nerve_params_init(byref(params), ctypes.sizeof(params))
    params.onnxruntime = str(onnxruntime).encode()
    if temporal is not None:
        params.between = BETWEEN.index(temporal.between)
        for name in ("keyframe_every", "scores_every", "longest_s", "smoothing", "change", "cut"):
            setattr(params, name, getattr(temporal, name))
    for name in ("tau", "alpha", "beta", "head_temperature", "threshold"):
        value = None if constants is None else getattr(constants, name)
        setattr(params, name, math.nan if value is None else value)
    for name, value in fields.items():
        setattr(params, name, value)
    return params


class NativeSegmenter:
    """A nerve_segmenter; raises the Python runtime's errors by their codes. A context manager."""

    def __init__(self, library: ctypes.CDLL, handle: c_void_p, kept: Any = None) -> None:
        self._library, self.handle, self._kept = library, handle, kept

    @classmethod
    def open(cls, library: ctypes.CDLL, bundle: Path, params: Params) -> Self:
        """nerve_open."""
        handle = c_void_p()
        _check(library, library.nerve_open(bytes(bundle), byref(params), byref(handle)))
        return cls(library, handle, params)

    def new_video(self) -> "NativeSegmenter":
        """nerve_new_video."""
        handle = c_void_p()
        _check(self._library, self._library.nerve_new_video(self.handle, byref(handle)))
        return NativeSegmenter(self._library, handle, self._kept)

    def set_classes(self, classes: str, background: str | None = None) -> None:
        """nerve_set_classes."""
        words = None if background is None else background.encode()
        _check(self._library, self._library.nerve_set_classes(self.handle, classes.encode(), words))

    def set_vocabulary(self, path: Path) -> None:
        """nerve_set_vocabulary."""
        _check(self._library, self._library.nerve_set_vocabulary(self.handle, bytes(path)))

    @property
    def class_names(self) -> tuple[str, ...]:
        """nerve_class_name of each label."""
        count = self._library.nerve_class_count(self.handle)
        return tuple(self._library.nerve_class_name(self.handle, label).decode() for label in range(count))

    @property
    def description(self) -> str:
        """nerve_description."""
        text: bytes = self._library.nerve_description(self.handle)
        return text.decode()

    def info(self) -> Info:
        """nerve_get_info."""
        info = Info(struct_size=ctypes.sizeof(Info))
        _check(self._library, self._library.nerve_get_info(self.handle, byref(info)))
        return info

    def grey(self, rgb: UInt8Array) -> UInt8Array:
        """nerve_grey."""
        info = self.info()
        grey = np.empty((info.motion_height, info.motion_width), dtype=np.uint8)
        frame = picture_of(rgb, RGB, None, None)
        _check(self._library, self._library.nerve_grey(self.handle, byref(frame), grey.ctypes.data_as(c_void_p)))
        return grey

    def segment(
        self, pixels: UInt8Array, *, bgr: bool = False, flow: FloatArray | None = None, time_s: float | None = None
    ) -> NativeResult:
        """nerve_segment on pixels (H, W, 3), which need not lie without gaps."""
        height, width = pixels.shape[:2]
        dtype = np.uint8 if self._library.nerve_label_bytes(self.handle) == 1 else np.uint16
        labels = np.zeros((height, width), dtype=dtype)
        confidence = np.zeros((height, width), dtype=np.uint8)
        frame = picture_of(pixels, BGR if bgr else RGB, flow, time_s)
        result = ResultOfC(ctypes.sizeof(ResultOfC), labels.ctypes.data, labels.nbytes, confidence.ctypes.data)
        _check(self._library, self._library.nerve_segment(self.handle, byref(frame), byref(result)))
        return NativeResult(
            labels, confidence, bool(result.valid), bool(result.keyframe), result.affinity_age, result.total_ms
        )

    def reset(self) -> None:
        """nerve_reset."""
        self._library.nerve_reset(self.handle)

    def close(self) -> None:
        """nerve_close; twice is fine here."""
        self._library.nerve_close(self.handle)
        self.handle = c_void_p()

    def __enter__(self) -> Self:
        """Nothing more."""
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close it."""
        self.close()


def picture_of(pixels: UInt8Array, pixel_format: int, flow: FloatArray | None, time_s: float | None) -> PictureOfC:
    """A nerve_frame of arrays, which must stay alive."""
    height, width = pixels.shape[:2]
    assert pixels.strides[1:] == (3, 1)
    assert flow is None or flow.flags.c_contiguous
    return PictureOfC(
        ctypes.sizeof(PictureOfC), pixels.ctypes.data, height, width, pixels.strides[0], pixel_format,
        math.nan if time_s is None else time_s, None if flow is None else flow.ctypes.data,
    )  # fmt: skip


def _check(library: ctypes.CDLL, code: int) -> None:
    if code:
        message = library.nerve_last_error().decode()
        raise ERRORS.get(code, NerveError)(message)
