"""The eight benchmarks of the field: which data set, which classes, which background; and their samples as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nerve_bench.datasets import class_words as words
from nerve_bench.datasets.label_files import read_label_file, read_picture
from nerve_bench.datasets.layouts import (
    ADE2016,
    CITYSCAPES_FINE,
    COCO2017,
    CONTEXT2010,
    VOC2012,
    Layout,
    Sample,
)
from nerve_runtime import IGNORE_LABEL
from nerve_runtime.errors import SourceError, UsageError

UNKNOWN = -1
"""In a table of label values: no label file may hold this one."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One of the field's benchmarks.

    Attributes:
        title: as it is called in tables.
        layout: where its files lie.
        classes: one string a class, "name, synonym", in the order of the labels, without the background.
        background: words for the background; empty where pixels of no class are ignored.
        pictures: how many pictures its validation split has.
        short_side_px: to what the field shrinks the short side of a picture before CLIP sees it.
        unlabelled_is_background: pixels that the label files leave out count as background, as in the field's own
            conversion of COCO-Object.

    Source: method, section 8, benchmark protocol of the field.
    """

    title: str
    layout: Layout
    classes: tuple[str, ...]
    background: tuple[str, ...]
    pictures: int
    short_side_px: int = 336
    unlabelled_is_background: bool = False

    @property
    def class_names(self) -> tuple[str, ...]:
        """The first word of each class."""
        return tuple(text.split(",")[0] for text in self.classes)


BENCHMARKS: dict[str, Benchmark] = {
    "voc21": Benchmark("VOC21", VOC2012, words.VOC, words.VOC_SCENERY, 1449),
    "context60": Benchmark("PC60", CONTEXT2010, words.CONTEXT, words.LITERAL_BACKGROUND, 5104),
    "coco-object": Benchmark(
        "Object",
        COCO2017,
        words.COCO_THINGS,
        words.COCO_SCENERY,
        5000,
        unlabelled_is_background=True,
    ),
    "voc20": Benchmark("VOC20", VOC2012, words.VOC, (), 1449),
    "context59": Benchmark("PC59", CONTEXT2010, words.CONTEXT, (), 5104),
    "coco-stuff": Benchmark("Stuff", COCO2017, (*words.COCO_THINGS, *words.COCO_STUFF), (), 5000),
    "cityscapes": Benchmark("City", CITYSCAPES_FINE, words.CITYSCAPES, (), 500, short_side_px=560),
    "ade20k": Benchmark("ADE", ADE2016, words.ADE20K, (), 2000),
}
"""By the names that commands use, in the order of the field's tables."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A benchmark whose files are here.

    Attributes:
        name: in `BENCHMARKS`.
        folder: of its data set.
        samples: pictures and label maps in order.
        labels: int16 (256,), the benchmark's label of each value of a label file, 255 to ignore; -1 may not occur.
    """

    name: str
    folder: Path
    samples: tuple[Sample, ...]
    labels: NDArray[np.int16]

    @property
    def benchmark(self) -> Benchmark:
        """What it is."""
        return BENCHMARKS[self.name]

    def read(self, sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """A picture, uint8 (H, W, 3) RGB, and its labels, uint8 (H, W): class i, or with a background 0 and class i + 1.

        Raises:
            SourceError: a file cannot be read, both are not of one size, or a label is none of the data set's.
        """
        rgb, values = read_picture(sample.picture), read_label_file(sample.truth)
        if rgb.shape[:2] != values.shape:
            raise SourceError(
                f"{sample.picture.name} is {rgb.shape[:2]} pixels and its label map {values.shape}, expected one size; "
                f"{sample.truth} belongs to another picture"
            )
        truth = self.labels[values]
        if (truth == UNKNOWN).any():
            odd = ", ".join(str(value) for value in np.unique(values[truth == UNKNOWN]))
            raise SourceError(
                f"{sample.truth} has the values {odd}, which no label map of {self.benchmark.layout.title} has; "
                "was it converted for another benchmark?"
            )
        return rgb, truth.astype(np.uint8)


def open_dataset(name: str, data: Path) -> Dataset:
    """Find a benchmark's files under the folder of all data; reads no picture yet.

    Raises:
        UsageError: there is no such benchmark.
        SourceError: files are missing; says which, and what to download from where.
    """
    if name not in BENCHMARKS:
        raise UsageError(f"the data set is {name!r}, expected one of: {', '.join(BENCHMARKS)}")
    if not data.is_dir():
        raise SourceError(f"there is no folder {data}; give the folder that holds the data sets")
    benchmark = BENCHMARKS[name]
    folder, found = benchmark.layout.open(data)
    labels = np.full(256, UNKNOWN, np.int16)
    for value, number in found.numbers.items():
        labels[value] = _label(number, benchmark)
    return Dataset(name, folder, found.samples, labels)


def _label(number: int, benchmark: Benchmark) -> int:
    """A class counted from 1, with 0 for none, as a label of the benchmark."""
    if number == IGNORE_LABEL:
        return 0 if benchmark.unlabelled_is_background else IGNORE_LABEL
    if number > len(benchmark.classes):
        number = 0  # a class of the data set that is none of this benchmark: stuff, for COCO-Object
    if benchmark.background:
        return number
    return number - 1 if number else IGNORE_LABEL


def class_lines(name: str) -> Sequence[str]:
    """The classes of a benchmark as a class file has them: "name = words", the background last."""
    benchmark = BENCHMARKS[name]
    lines = [f"{own} = {text}" for own, text in zip(benchmark.class_names, benchmark.classes, strict=True)]
    return lines + ([f"background = {', '.join(benchmark.background)}"] if benchmark.background else [])
