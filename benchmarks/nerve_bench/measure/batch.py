"""Frames a second of one bundle with one to many frames in a run of its networks, in turns, and whether labels stay."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerve_runtime import Segmenter
from nerve_runtime.backends import BackendOptions
from nerve_runtime.bundle.manifest import load_manifest
from nerve_runtime.errors import UsageError

Frame = NDArray[np.uint8]
SIZES = (1, 2, 4, 8)
"""Numbers of frames in a run that are compared, as far as the bundle takes them."""
NETWORKS = ("attention", "scores")


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """`rounds` timed rounds after one that is not; in each every number of frames in a run labels all frames once."""

    rounds: int
    threads: int
    spinning: bool
    backend: str


def measure_batch(
    bundle: Path, classes: str, frames: Sequence[Frame], plan: BatchPlan, progress: Callable[..., Any]
) -> Iterator[dict[str, Any]]:
    """Time unrelated frames in runs of 1, 2, 4 and 8, up to the bundle's `max_batch`; one record for each.

    The numbers take turns within a round, from another one each time, so that a noisy neighbour hits all of them alike.

    Raises:
        UsageError: the bundle takes one frame in a run.
    """
    most = load_manifest(bundle).geometry.max_batch
    sizes = [size for size in SIZES if size <= most]
    if len(sizes) < 2:
        raise UsageError(
            f"{bundle} takes one frame in a run, so there is nothing to compare; build one for several: "
            f"nerve-build --max-batch {SIZES[-1]}"
        )
    options = BackendOptions(threads=plan.threads, spinning=plan.spinning)
    with Segmenter.open(bundle, classes, backend=plan.backend, backend_options=options) as segmenter:
        labels = {size: [result.labels for result in _labelled(segmenter, frames, size)[0]] for size in sizes}
        measured: dict[int, list[tuple[float, float]]] = {size: [] for size in sizes}
        for turn in progress(range(plan.rounds), "timing"):
            for place in range(len(sizes)):
                size = sizes[(turn + place) % len(sizes)]
                results, seconds = _labelled(segmenter, frames, size)
                shared_ms = sum(result.timings_ms[stage] for result in results for stage in NETWORKS)
                measured[size].append((1000 * seconds / len(frames), shared_ms / len(frames)))
        described = segmenter.backend
    for size in sizes:
        equal = [float((found == alone).mean()) for found, alone in zip(labels[size], labels[1], strict=True)]
        frame_ms, networks_ms = np.median(measured[size], axis=0)
        yield {
            "bench": "batch",
            "bundle": bundle.name,
            "backend": described,
            "onnxruntime": version("onnxruntime"),
            "batch": size,
            "fps": round(1000 / float(frame_ms), 2),
            "frame_ms": round(float(frame_ms), 3),
            "networks_ms": round(float(networks_ms), 3),
            "ratio_to_one": round(float(np.median([each[0] for each in measured[1]]) / frame_ms), 3),
            "agreement_percent": 100 * float(np.mean(equal)),
            "frames": len(frames),
            "n": plan.rounds,
        }


def _labelled(segmenter: Segmenter, frames: Sequence[Frame], size: int) -> tuple[list[Any], float]:
    """Results of all frames in runs of so many, and the seconds that they took."""
    started = time.perf_counter()
    results = [
        result
        for start in range(0, len(frames), size)
        for result in segmenter.segment_batch(frames[start : start + size])
    ]
    return results, time.perf_counter() - started
