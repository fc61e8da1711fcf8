"""All eight benchmarks in one run, beside what others published; and what to download for those that are not here."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nerve_bench.datasets import BENCHMARKS, open_dataset
from nerve_bench.datasets.evaluate import Run, evaluate_benchmark
from nerve_bench.datasets.protocol import Choices
from nerve_bench.datasets.runners import Runner
from nerve_runtime.errors import SourceError, UsageError

OURS = "this run"

_COLUMNS = ("voc21", "context60", "coco-object", "voc20", "context59", "coco-stuff", "cityscapes", "ade20k")
_PUBLISHED: dict[str, tuple[float | None, ...]] = {
    "NERVE": (69.7, 37.7, 43.3, 90.1, 43.4, None, 34.1, 24.0),
    "CLIPer L/14, SD 2.1": (71.6, 39.0, 44.4, 90.3, 44.0, 29.7, 41.6, 24.5),
    "CLIPer without SD": (62.5, 34.8, 40.4, 88.7, 39.6, None, 37.9, 22.1),
    "Trident (adds SAM)": (70.8, 40.1, 42.2, 88.7, 44.3, 28.6, 47.6, 26.7),
    "ProxyCLIP": (61.3, 35.3, 37.5, 80.3, 39.1, 26.5, 38.1, 20.2),
    "LPOSS": (61.1, 34.6, 33.4, 78.8, 37.8, 25.9, 37.3, 21.8),
    "NACLIP + PAMR": (64.1, 35.0, 36.2, 83.0, 38.4, 25.7, 38.3, 19.1),
    "SCLIP": (59.6, 31.7, 33.5, 81.5, 34.5, 22.8, 32.3, 16.5),
    "MaskCLIP B/16": (43.4, 23.2, 20.6, 74.9, 26.4, 16.7, 24.9, 11.9),
}

PUBLISHED: Mapping[str, Mapping[str, float]] = {
    method: {name: figure for name, figure in zip(_COLUMNS, figures, strict=True) if figure is not None}
    for method, figures in _PUBLISHED.items()
}
"""mIoU of training-free methods in percent as published, each under its authors' protocol.

Source: method, section 1. NERVE's on ADE20K is quoted by a later paper; on COCO-Stuff none is at hand, nor one of CLIPer
without its diffusion part.
"""


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What is run.

    Attributes:
        data: folder of all data sets.
        out: folder of the state files, one a benchmark.
        choices: of the protocol, but for the words.
        classes_folder: class files NAME.txt of the benchmarks; those without one keep their own words. None: all do.
        limit: only so many pictures of each; None for all.
        restart: begin anew.
    """

    data: Path
    out: Path
    choices: Choices
    classes_folder: Path | None = None
    limit: int | None = None
    restart: bool = False


def reproduce(plan: Reproduction, runner: Runner, progress: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """Run every benchmark whose files are here.

    Yields:
        Per benchmark its record, as `evaluate` makes it, or what is missing; then our row and the published ones.

    Raises:
        SourceError: nothing is here at all; says for each data set what to download.
        UsageError: a choice makes no sense, or a state is of another run.
    """
    missing = missing_datasets(plan.data)
    if len(missing) == len(BENCHMARKS):
        lines = "\n".join(f"- {reason}" for reason in dict.fromkeys(missing.values()))
        raise SourceError(f"none of the eight benchmarks is in {plan.data}:\n{lines}")
    records = []
    for name in BENCHMARKS:
        if name in missing:
            yield {"bench": "reproduce", "dataset": name, "missing": missing[name]}
            continue
        choices = replace(plan.choices, classes_file=_classes_file(plan.classes_folder, name))
        run = Run(plan.out / f"{name}.state.jsonl", plan.limit, plan.restart)
        records.append(evaluate_benchmark(name, plan.data, runner, _fitting(choices, name), run, progress))
        yield records[-1]
    yield from comparison_rows(records)


def missing_datasets(data: Path) -> dict[str, str]:
    """What is missing, and what to download, for each benchmark that cannot be run."""
    reasons = {name: _what_is_missing(name, data) for name in BENCHMARKS}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _what_is_missing(name: str, data: Path) -> str | None:
    try:
        open_dataset(name, data)
    except SourceError as error:
        return str(error)
    return None


def _classes_file(folder: Path | None, name: str) -> Path | None:
    if folder is None:
        return None
    if not folder.is_dir():
        raise UsageError(f"--classes-folder {folder} is not a folder; expected one with files such as voc21.txt")
    path = folder / f"{name}.txt"
    return path if path.is_file() else None


def _fitting(choices: Choices, name: str) -> Choices:
    """Choices about the background hold for the benchmarks that have one."""
    if BENCHMARKS[name].background:
        return choices
    return replace(choices, background_rule=None, threshold=None)


def comparison_rows(records: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Our row, made of records of `evaluate`, and the published ones, which are marked."""
    ours = {record["dataset"]: record for record in records}
    yield {
        "bench": "reproduce",
        "row": OURS,
        "published": False,
        "miou": {name: record["miou"] for name, record in ours.items()},
        "complete": {name: record["complete"] for name, record in ours.items()},
        "n": {name: record["n"] for name, record in ours.items()},
    }
    for method, figures in PUBLISHED.items():
        yield {"bench": "reproduce", "row": method, "published": True, "miou": dict(figures)}


def comparison_table(records: Iterable[Mapping[str, Any]]) -> str:
    """The table for people, from records of `reproduce`: our row, then the published ones under a heading of their own.

    `*` marks a figure of a part of the pictures or classes.
    """
    lines = [_line("mIoU", (benchmark.title for benchmark in BENCHMARKS.values()))]
    published_before = False
    for record in records:
        if "row" in record:
            if record["published"] and not published_before:
                lines.append("as published, each under a protocol of its own:")
            published_before = record["published"]
            lines.append(_line(record["row"], (_cell(record, benchmark) for benchmark in BENCHMARKS)))
    return "\n".join(lines)


def _line(name: str, cells: Iterable[str]) -> str:
    return f"{name:<20}" + "".join(f"{cell:>7}" for cell in cells)


def _cell(record: Mapping[str, Any], benchmark: str) -> str:
    figure = record["miou"].get(benchmark)
    if figure is None:
        return "-"
    return f"{figure:.1f}" + ("" if record["published"] or record["complete"][benchmark] else "*")
