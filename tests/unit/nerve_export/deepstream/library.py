"""The library of a DeepStream application, built by its own Makefile and called as Gst-nvinferserver would."""

import ctypes
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

STAND_INS = Path(__file__).with_name("stand_ins")
STRICT = "-O1 -g -Wpedantic -Werror"


@dataclass(frozen=True, slots=True)
class Attached:
    """What the library attached to a frame."""

    classes: int
    class_map: NDArray[np.int32]
    confidence: NDArray[np.uint8]
    meta_types: tuple[int, int]


class Library:
    """Plays Gst-nvinferserver for the library of an application.

    Args:
        application: its folder, in which the library is built.
        deepstream: stand-ins of DeepStream's headers and libraries.
    """

    def __init__(self, application: Path, deepstream: Path) -> None:
        words = ["make", "-s", f"DEEPSTREAM={deepstream}", "CUDA=/nowhere", "PKG_CONFIG=true", f"CXXFLAGS={STRICT}"]
        subprocess.run(words, cwd=application, check=True)
        harness = deepstream / f"harness_{application.name}.so"
        command: list[str | Path] = [
            "g++", "-std=c++17", "-Wall", "-Werror", "-fPIC", "-shared", f"-I{STAND_INS}", f"-I{application}",
            STAND_INS / "harness.cc", "-o", harness, application / "libnerve_deepstream.so",
            f"-L{deepstream / 'lib'}", "-lnvds_meta", f"-Wl,-rpath,{application}:{deepstream / 'lib'}",
        ]  # fmt: skip
        subprocess.run(command, check=True)
        self._harness = ctypes.CDLL(str(harness))
        self.open()

    def open(self) -> None:
        """Make the processor, which reads the constant inputs."""
        self._harness.open_processor()

    def fill(self, name: str, dims: Sequence[int], dtype: Any) -> tuple[int, NDArray[Any]]:
        """The status and values of an extra input of this shape."""
        memory = np.zeros(dims, dtype)
        status = self._harness.fill_input(name.encode(), _ints(dims), len(dims), memory.itemsize, _address(memory))
        return status, memory

    def finish(
        self,
        labels: NDArray[Any],
        confidence: NDArray[np.uint8],
        frames: int,
        *,
        on_gpu: bool = False,
        gone: bool = False,
    ) -> int:
        """The status of handing over labels and confidence, (H, W) or (b, H, W), of so many frames."""
        kinds = int(on_gpu) + 2 * int(gone)
        shape = labels.shape
        return int(
            self._harness.finish(
                _ints(shape), len(shape), labels.itemsize, _address(labels), _address(confidence), frames, kinds
            )
        )

    def attached(self) -> int:
        """How many metas are attached, two a frame."""
        return int(self._harness.attached())

    def limit_metas(self, count: int) -> None:
        """Let DeepStream have so many metas left; -1 for any number."""
        self._harness.limit_metas(count)

    def read(self, frame: int, size_hw: tuple[int, int]) -> Attached:
        """What is attached to a frame, which it is taken from."""
        class_map, confidence = np.zeros(size_hw, np.int32), np.zeros(size_hw, np.uint8)
        facts = (ctypes.c_int * 5)()
        self._harness.read_frame(frame, facts, _address(class_map), _address(confidence))
        assert (facts[1], facts[2]) == size_hw
        return Attached(facts[0], class_map, confidence, (facts[3], facts[4]))


def _ints(values: Sequence[int]) -> Any:
    return (ctypes.c_int * len(values))(*values)


def _address(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
