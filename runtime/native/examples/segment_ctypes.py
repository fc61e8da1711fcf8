"""A picture in, its labels out, with nothing of Python but ctypes and NumPy.

    LD_LIBRARY_PATH=build/native python runtime/native/examples/segment_ctypes.py bundles/tiny "zebra; grass" picture.ppm labels.pgm

from the checkout, after make native. A PPM without comments is made by: ffmpeg -i picture.jpg picture.ppm

Ends with the code of the error. ONNX Runtime is found as the system finds libraries, or at the path in NERVE_ONNXRUNTIME.
"""

import ctypes
import math
import os
import sys
from ctypes import c_char_p, c_double, c_int32, c_size_t, c_ssize_t, c_void_p
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

USAGE = 2


class Params(ctypes.Structure):
    """Options of nerve_open; the fields of nerve_params."""

    _fields_ = (
        ("struct_size", c_size_t), ("onnxruntime", c_char_p), ("engine_cache", c_char_p), ("on_warning", c_void_p),
        ("user", c_void_p), *((name, c_int32) for name in ("provider", "device", "threads", "spinning", "strict", "readout")),
        *((name, c_int32) for name in ("between", "keyframe_every", "scores_every")),
        *((name, c_double) for name in ("longest_s", "smoothing", "change", "cut")),
        *((name, c_double) for name in ("tau", "alpha", "beta", "head_temperature", "threshold")),
    )  # fmt: skip


class Frame(ctypes.Structure):
    """One picture; the fields of nerve_frame."""

    _fields_ = (
        ("struct_size", c_size_t), ("pixels", c_void_p), ("height", c_int32), ("width", c_int32), ("stride", c_ssize_t),
        ("format", c_int32), ("time_s", c_double), ("flow", c_void_p),
    )  # fmt: skip


class Result(ctypes.Structure):
    """Labels of one frame; the fields of nerve_result."""

    _fields_ = (
        ("struct_size", c_size_t), ("labels", c_void_p), ("labels_bytes", c_size_t), ("confidence", c_void_p),
        ("valid", c_int32), ("keyframe", c_int32), ("affinity_age", c_int32), ("total_ms", c_double),
    )  # fmt: skip


nerve = ctypes.CDLL("libnerve.so")
for function in ("nerve_last_error", "nerve_class_name"):
    getattr(nerve, function).restype = c_char_p
nerve.nerve_label_bytes.restype = c_size_t


def check(code: int) -> None:
    """End with the library's text and code where a call failed."""
    if code:
        sys.stderr.write(f"segment_ctypes: {nerve.nerve_last_error().decode()}\n")
        raise SystemExit(code)


def segment(bundle: str, classes: str, rgb: NDArray[np.uint8]) -> tuple[NDArray[np.integer], list[str]]:
    """Label a picture, uint8 (H, W, 3): labels uint8 (H, W), or uint16 beyond 254 classes, and their names."""
    params, segmenter = Params(), c_void_p()
    nerve.nerve_params_init(ctypes.byref(params), c_size_t(ctypes.sizeof(params)))
    params.onnxruntime = os.environ.get("NERVE_ONNXRUNTIME", "").encode() or None
    check(nerve.nerve_open(bundle.encode(), ctypes.byref(params), ctypes.byref(segmenter)))
    try:
        check(nerve.nerve_set_classes(segmenter, classes.encode(), None))
        rgb = np.ascontiguousarray(rgb)
        labels = np.empty(rgb.shape[:2], dtype=np.uint8 if nerve.nerve_label_bytes(segmenter) == 1 else np.uint16)
        frame = Frame(ctypes.sizeof(Frame), rgb.ctypes.data, *rgb.shape[:2], rgb.strides[0], 0, math.nan, None)
        result = Result(ctypes.sizeof(Result), labels.ctypes.data, labels.nbytes)
        check(nerve.nerve_segment(segmenter, ctypes.byref(frame), ctypes.byref(result)))
        names = [nerve.nerve_class_name(segmenter, i).decode() for i in range(nerve.nerve_class_count(segmenter))]
        return labels, names
    finally:
        nerve.nerve_close(segmenter)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.stderr.write("usage: segment_ctypes.py BUNDLE CLASSES picture.ppm labels.pgm\n")
        raise SystemExit(USAGE)
    file = Path(sys.argv[3]).read_bytes()  # a binary PPM of 8 bits, without comments
    if file[:2] != b"P6":
        sys.stderr.write(f"segment_ctypes: {sys.argv[3]} is not a binary PPM (P6)\n")
        raise SystemExit(USAGE)
    width, height = (int(number) for number in file.split(maxsplit=3)[1:3])
    picture = np.frombuffer(file[-3 * width * height :], dtype=np.uint8).reshape(height, width, 3)
    found, class_names = segment(sys.argv[1], sys.argv[2], picture)
    header = f"P5 {found.shape[1]} {found.shape[0]} {np.iinfo(found.dtype).max}\n"
    Path(sys.argv[4]).write_bytes(header.encode() + found.astype(found.dtype.newbyteorder(">")).tobytes())
    for label, name in enumerate(class_names):
        sys.stderr.write(f"{label} {name}\n")
