"""One benchmark, one segmenter, one protocol: labels of every picture against its truth, and a figure that says how."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nerve_bench.datasets import Dataset, Sample, open_dataset
from nerve_bench.datasets.pixel_counts import (
    PixelCountFile,
    class_iou,
    confusion,
    interval,
    pixel_counts,
    resampled_mious,
)
from nerve_bench.datasets.protocol import Choices, Protocol, make_protocol
from nerve_bench.datasets.runners import LabelsOf, Runner
from nerve_runtime.errors import SourceError


@dataclass(frozen=True, slots=True)
class Run:
    """How much of a benchmark is run, and where its state is kept.

    Attributes:
        state: file that a stopped run goes on from.
        limit: only so many pictures, the first ones; None for all.
        restart: begin anew even if there is a state.
    """

    state: Path
    limit: int | None = None
    restart: bool = False


def evaluate_benchmark(
    name: str, data: Path, runner: Runner, choices: Choices, run: Run, progress: Callable[..., Any]
) -> dict[str, Any]:
    """Find a benchmark under the folder of all data and evaluate a runner on it; see `evaluate`.

    Raises:
        SourceError: files are missing; says which, and what to download.
        UsageError: a choice makes no sense for this benchmark or runner, or the state is of another run.
    """
    dataset = open_dataset(name, data)
    protocol = make_protocol(name, choices, runner.defaults)
    return evaluate(dataset, runner, protocol, run, progress)


def evaluate(
    dataset: Dataset, runner: Runner, protocol: Protocol, run: Run, progress: Callable[..., Any]
) -> dict[str, Any]:
    """Segment the pictures of a data set and count all pixels in one confusion matrix at original resolution.

    Pictures that the state holds already are not segmented again; the record of a run that was stopped and went on is
    equal to that of one that was not, because counts are whole numbers.

    Args:
        dataset: pictures and truth.
        runner: what segments.
        protocol: how.
        run: how much, and where the state is kept.
        progress: wraps the pictures in a progress bar.

    Returns:
        The record: mIoU in percent with its interval, IoU of each class, protocol and runner.

    Raises:
        SourceError: a file cannot be read, or no pixel counts.
        UsageError: the state is of another run.
    """
    samples = dataset.samples[: run.limit]
    described = runner.described()
    header = {"folder": str(dataset.folder.resolve()), "protocol": protocol.as_json(), "runner": described}
    if run.restart:
        run.state.unlink(missing_ok=True)
    with PixelCountFile(run.state, header) as tally:
        waiting = [sample for sample in samples if sample.name not in tally.pictures]
        if waiting:
            with runner.opened(protocol) as labels_of:
                _count(dataset, waiting, labels_of, protocol, tally, progress)
        pictures = {sample.name: tally.pictures[sample.name] for sample in samples}
    return _record(dataset, pictures, protocol, described)


def _count(
    dataset: Dataset,
    samples: list[Sample],
    labels_of: LabelsOf,
    protocol: Protocol,
    tally: PixelCountFile,
    progress: Callable[..., Any],
) -> None:
    in_use, classes = protocol.labels_in_use(), len(protocol.label_names)
    for sample in progress(samples, f"evaluating on {dataset.benchmark.title}"):
        rgb, truth = dataset.read(sample)
        counts = pixel_counts(in_use[truth], labels_of(rgb), classes, protocol.ignore_value)
        tally.add(sample.name, counts)


def _record(dataset: Dataset, pictures: dict[str, Any], protocol: Protocol, runner: dict[str, Any]) -> dict[str, Any]:
    matrix = confusion(pictures, len(protocol.label_names))
    if not matrix.any():
        raise SourceError(f"no pixel of {len(pictures)} pictures in {dataset.folder} belongs to a class in use")
    ious = class_iou(matrix)
    per_class = zip(protocol.label_names, ious, strict=True)
    return {
        "bench": "evaluate",
        "dataset": dataset.name,
        "title": dataset.benchmark.title,
        "miou": round(float(np.nanmean(ious)), 3),
        "interval": interval(resampled_mious(pictures, len(matrix))),
        "pixel_accuracy": round(float(100 * np.trace(matrix) / matrix.sum()), 3),
        "n": len(pictures),
        "of": dataset.benchmark.pictures,
        "complete": len(pictures) == dataset.benchmark.pictures and not protocol.left_out,
        "class_iou": {name: None if np.isnan(iou) else round(float(iou), 2) for name, iou in per_class},
        "protocol": protocol.as_json(),
        "runner": runner,
    }
