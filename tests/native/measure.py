"""Prints what the C library costs beside the Python runtime: time a frame, start-up, memory. Words: LIBRARY [BUNDLE].

Both run the same frames in turn, in one process, with the same ONNX Runtime; medians of several rounds, as machines are
noisy. Start-up and memory are those of whole processes that open the bundle and label one picture.
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from nerve_bench.world import moving_scene
from nerve_runtime import Segmenter, Temporal
from nerve_runtime.backends import BackendOptions
from nerve_runtime.frames import UInt8Array
from nerve_runtime.motion import FloatArray
from tests.native.binding import NativeSegmenter, installed_onnxruntime, open_library, params_for
from tests.native.building import INCLUDE, ROOT, STRICT, run
from tests.native.parity_set import write_vocabularies

ROUNDS = 7
FRAMES = 24
STARTS = 7
POLL_S = 0.002
SIZE_HW = (480, 640)
WAYS = {"each frame by itself": Temporal.plain(1), "between keyframes, following": Temporal()}
PYTHON_START = """
import sys, numpy as np
from pathlib import Path
from nerve_runtime import Segmenter
with Segmenter.open(sys.argv[1], Path(sys.argv[2]), backend="ort", cache_dir=None) as segmenter:
    segmenter.segment(np.zeros((144, 200, 3), dtype=np.uint8))
"""


class TimedFlow:
    """OpenCV's DIS, whose own time is left out: in C the flow is given."""

    def __init__(self, flow: cv2.DISOpticalFlow) -> None:
        self._flow, self.spent_s = flow, 0.0
        self.latest: FloatArray | None = None

    def calc(self, grey: UInt8Array, previous: UInt8Array, first: None) -> FloatArray:
        """The flow from `grey` to `previous`."""
        started = time.perf_counter()
        flow = np.ascontiguousarray(self._flow.calc(grey, previous, first))  # type: ignore[call-overload]
        self.latest = flow
        self.spent_s += time.perf_counter() - started
        return flow


def frame_times_ms(
    library: Path, onnxruntime: Path, bundle: Path, vocabulary: Path, temporal: Temporal
) -> tuple[list[float], list[float]]:
    """Milliseconds of each frame in Python and in C, which take turns."""
    frames = [
        np.asarray(cv2.resize(np.ascontiguousarray(frame.rgb), SIZE_HW[::-1]), dtype=np.uint8)
        for frame in moving_scene(3, FRAMES, cuts=0)
    ]
    opened = open_library(library)
    threads = BackendOptions(threads=1)
    python_ms, c_ms = [], []
    with (
        Segmenter.open(
            bundle, vocabulary, backend="ort", backend_options=threads, temporal=temporal, cache_dir=None
        ) as segmenter,
        NativeSegmenter.open(opened, bundle, params_for(opened, onnxruntime, temporal, threads=1)) as native,
    ):  # fmt: skip
        native.set_vocabulary(vocabulary)
        flow = TimedFlow(segmenter._video._tracker._flow)
        segmenter._video._tracker._flow = flow  # type: ignore[assignment]  # in its place
        for _ in range(ROUNDS):
            segmenter.reset()
            native.reset()
            for number, rgb in enumerate(frames):
                before_s, started = flow.spent_s, time.perf_counter()
                expected = segmenter.segment(rgb)
                python_ms.append(1000 * (time.perf_counter() - started - (flow.spent_s - before_s)))
                given = flow.latest if flow.spent_s > before_s else None
                result = native.segment(rgb, flow=given)
                c_ms.append(result.total_ms)
                assert np.array_equal(result.labels, expected.labels), f"frame {number} differs"
    return python_ms, c_ms


def process_cost(command: list[str]) -> tuple[float, float]:
    """Seconds and resident megabytes (greatest) of a process."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    megabytes = 0.0
    while process.poll() is None:
        # Not ru_maxrss, which begins with the memory of this process.
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text()):
            megabytes = int(found.group(1)) / 1000
        time.sleep(POLL_S)
    assert process.returncode == 0, f"{command} failed"
    return time.perf_counter() - started, megabytes


def report(name: str, python: float, c: float, unit: str, *, digits: int = 2) -> None:
    """One line with the ratio."""
    sys.stdout.write(
        f"{name:44s} Python {python:8.{digits}f} {unit}   C {c:8.{digits}f} {unit}   ratio {c / python:.3f}\n"
    )


def main() -> None:
    """Measure and print."""
    library = Path(sys.argv[1]).resolve()
    bundle = Path(sys.argv[2]).resolve() if len(sys.argv) > 2 else ROOT / "bundles" / "tiny"
    onnxruntime = installed_onnxruntime()
    assert onnxruntime is not None, "not installed: onnxruntime"
    with tempfile.TemporaryDirectory() as scratch:
        vocabulary = write_vocabularies(bundle, Path(scratch))["many"]
        for name, temporal in WAYS.items():
            python_ms, c_ms = frame_times_ms(library, onnxruntime, bundle, vocabulary, temporal)
            report(
                f"a frame of {SIZE_HW[1]} x {SIZE_HW[0]}, {name}",
                float(np.median(python_ms)),
                float(np.median(c_ms)),
                "ms",
            )
        picture, labels = Path(scratch) / "picture.ppm", Path(scratch) / "labels"
        picture.write_bytes(b"P6 200 144 255\n" + bytes(200 * 144 * 3))
        program = Path(scratch) / "labels_program"
        run("gcc", "-std=c11", "-O1", *STRICT, f"-I{INCLUDE}", Path(__file__).with_name("labels.c"), library,
            f"-Wl,-rpath,{library.parent}", "-lm", "-o", program)  # fmt: skip
        of_c = [str(word) for word in (program, onnxruntime, bundle, vocabulary, picture, labels)]
        of_python = [sys.executable, "-c", PYTHON_START, str(bundle), str(vocabulary)]
        costs = [(process_cost(of_python), process_cost(of_c)) for _ in range(STARTS)]
        seconds = [[cost[language][0] for cost in costs] for language in (0, 1)]
        megabytes = [[cost[language][1] for cost in costs] for language in (0, 1)]
        report("start to the labels of one picture", float(np.median(seconds[0])), float(np.median(seconds[1])), "s")
        report(
            "resident memory of that process, at most",
            float(np.median(megabytes[0])),
            float(np.median(megabytes[1])),
            "MB",
            digits=0,
        )


if __name__ == "__main__":
    main()
