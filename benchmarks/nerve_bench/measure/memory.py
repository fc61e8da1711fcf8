"""Memory of each way to run a bundle: peak and steady resident set, each runner in a fresh process of its own.

The measured process imports nothing but what its runner needs, so frames come to it in a file. `python -m
nerve_bench.measure.memory` is that process.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerve_runtime.errors import CompatibilityError, ResourceError, UsageError

RUNNERS = ("reference", "ort", "openvino", "ort-cuda", "rtx", "tensorrt")
"""What can run a bundle. `reference` is eager PyTorch; rtx and tensorrt run the bundle's engines."""
STATUS = Path("/proc/self/status")
BYTES_OF_KB = 1024
LONGEST_S = 1800.0
Frames = Sequence[NDArray[np.uint8]]


def measure_memory(
    bundle: Path,
    runners: Sequence[str],
    classes: str,
    frames: Frames,
    threads: int,
    progress: Callable[..., Any],
    weights: dict[str, str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield one record a runner: resident bytes before and after opening, while running (median), and at the peak.

    Args:
        bundle: an installed bundle.
        runners: some of `RUNNERS`.
        classes: class list, as on a command line.
        frames: uint8 (H,W,3) each; each is segmented by itself.
        threads: of one run, 0 lets the library choose.
        progress: wraps the runners in a progress bar.
        weights: where the reference's weights lie, by role, where the preset does not carry them.

    Raises:
        UsageError: a runner is unknown.
        CompatibilityError: a runner cannot work here, or this system does not tell a process's peak.
        ResourceError: a process was killed.
    """
    _check(runners)
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    with tempfile.TemporaryDirectory(prefix="nerve-memory-") as folder:
        pictures = Path(folder) / "frames.npy"
        np.save(pictures, np.stack(frames))
        for runner in progress(runners, "measuring memory"):
            job = {
                "runner": runner,
                "bundle": str(bundle),
                "classes": classes,
                "frames": str(pictures),
                "threads": threads,
                "weights": weights or {},
            }
            found = _measured_apart(job)
            yield {"bench": "memory", **found, "bundle_bytes": size, "threads": threads or "default", "n": len(frames)}


def _check(runners: Sequence[str]) -> None:
    unknown = [runner for runner in runners if runner not in RUNNERS]
    if unknown:
        raise UsageError(f"--runners names {', '.join(unknown)}, expected of: {', '.join(RUNNERS)}")
    if not STATUS.exists():
        raise CompatibilityError(f"there is no {STATUS} here, which tells a process's peak memory; measure on Linux")


def _measured_apart(job: dict[str, Any]) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "nerve_bench.measure.memory", json.dumps(job)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=LONGEST_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ResourceError(f"measuring {job['runner']} took over {LONGEST_S:.0f} s; use fewer frames") from error
    if ended.returncode < 0:
        raise ResourceError(
            f"measuring {job['runner']} was killed by signal {-ended.returncode}, most likely for memory"
        )
    if ended.returncode:
        said = ended.stderr.strip().splitlines() or ["it said nothing"]
        raise CompatibilityError(f"runner {job['runner']} cannot run here: {said[-1]}")
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """What the measured process does: open the runner, run the frames, say its memory."""
    frames = np.load(job["frames"])
    before = resident_bytes()
    segment, backend = _opened(job)
    opened = resident_bytes()
    levels, times = [], []
    for frame in frames:
        started = time.perf_counter()
        segment(frame)
        times.append(1000 * (time.perf_counter() - started))
        levels.append(resident_bytes())
    steady = levels[len(levels) // 2 :]
    return {
        "runner": job["runner"],
        "backend": backend,
        "start_bytes": before,
        "opened_bytes": opened,
        "steady_bytes": int(np.median(steady)),
        "peak_bytes": peak_bytes(),
        "p50_ms": round(float(np.median(times)), 2),
    }


def _opened(job: dict[str, Any]) -> tuple[Callable[[NDArray[np.uint8]], object], str]:
    """A function that segments one frame, and what computes it, in words."""
    if job["runner"] == "reference":
        return _reference(job)
    from nerve_runtime import Segmenter
    from nerve_runtime.backends import BackendOptions

    runner = job["runner"]
    if runner == "openvino":
        import nerve_bench.measure.openvino  # noqa: F401  # registers the back end
    segmenter = Segmenter.open(
        job["bundle"],
        job["classes"],
        backend=runner.partition("-")[0],
        backend_options=BackendOptions("cuda" if runner == "ort-cuda" else "cpu", job["threads"]),
        templates="single",
        cache_dir=None,
    )
    return segmenter.segment, segmenter.backend


def _reference(job: dict[str, Any]) -> tuple[Callable[[NDArray[np.uint8]], object], str]:
    import torch

    from nerve_export.parity.reference import open_reference
    from nerve_export.presets.files import bundle_preset
    from nerve_ref.pipeline import segment, working_frame
    from nerve_ref.templates import TEMPLATE_SETS
    from nerve_ref.text import parse_classes, text_bank
    from nerve_ref.weights.files import WeightChoice
    from nerve_runtime.bundle.manifest import load_manifest

    if job["threads"]:
        torch.set_num_threads(job["threads"])
    given: dict[str, Any] = {role: Path(path) for role, path in job["weights"].items()}
    weights = WeightChoice(**given)
    bundle = Path(job["bundle"])
    manifest = load_manifest(bundle)
    models, params = open_reference(manifest, bundle_preset(bundle, manifest.preset), weights)
    bank = text_bank(models.clip, models.tokenizer, parse_classes(job["classes"]), TEMPLATE_SETS["single"])

    def run(frame: NDArray[np.uint8]) -> object:
        return segment(models, working_frame(torch.from_numpy(frame), params.size_hw), bank, params)

    return run, f"torch {torch.__version__}, eager"


def resident_bytes() -> int:
    """Resident memory of this process now."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """The most that was resident since this process began.

    Not getrusage: its peak outlives exec, so that a child would show the peak of the process that started it.
    """
    return _status("VmHWM")


def _status(field: str) -> int:
    for line in STATUS.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * BYTES_OF_KB
    raise CompatibilityError(f"{STATUS} has no line {field}; measure on a Linux that has one")


if __name__ == "__main__":
    print(json.dumps(run_job(json.loads(sys.argv[1]))))  # noqa: T201 - its one line is the answer
