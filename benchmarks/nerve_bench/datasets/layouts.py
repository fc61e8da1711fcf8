"""Where the data sets keep their validation pictures and labels, and what to fetch where they are not.

Every label file is translated to one numbering: 0 is background, or what belongs to no class; classes count from 1;
255 (`IGNORE_LABEL`, as in all five data sets) is not counted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nerve_runtime import IGNORE_LABEL
from nerve_runtime.errors import SourceError


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture and its label map.

    Attributes:
        name: unique in the data set; the picture's file without its suffix.
        picture: its file.
        truth: its label map.
    """

    name: str
    picture: Path
    truth: Path


@dataclass(frozen=True, slots=True)
class DatasetFiles:
    """A data set that is here: its samples in order, and what each value of its label files means."""

    samples: tuple[Sample, ...]
    numbers: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Layout:
    """A folder layout.

    Attributes:
        title: the data set's name.
        homes: where its folder may lie under the folder of all data; the first is where it belongs.
        find: reads the layout; raises SourceError naming the first thing that is missing.
        fetch: what to download, from where, and how it becomes this layout.
    """

    title: str
    homes: tuple[str, ...]
    find: Callable[[Path], DatasetFiles]
    fetch: str

    def folder(self, data: Path) -> Path:
        """The data set's folder under `data`.

        Raises:
            SourceError: there is none; says what to download.
        """
        for home in self.homes:
            if (data / home).is_dir():
                return data / home
        looked = ", ".join(str(data / home) for home in self.homes)
        raise SourceError(f"{self.title} is not there, looked for: {looked}. {self.fetch}")

    def open(self, data: Path) -> tuple[Path, DatasetFiles]:
        """The data set's folder under `data` and what is in it.

        Raises:
            SourceError: something is missing; says what and what to download.
        """
        folder = self.folder(data)
        try:
            return folder, self.find(folder)
        except SourceError as error:
            raise SourceError(f"{self.title} is not complete: {error}. {self.fetch}") from error


def _voc(folder: Path) -> DatasetFiles:
    names = _listed(folder / "ImageSets/Segmentation/val.txt")
    samples = [_sample(folder / "JPEGImages", name, folder / "SegmentationClass" / f"{name}.png") for name in names]
    return DatasetFiles(_complete(samples), _straight(20))


def _context(folder: Path) -> DatasetFiles:
    names = _listed(folder / "ImageSets/SegmentationContext/val.txt")
    truths = folder / "SegmentationClassContext"
    samples = [_sample(folder / "JPEGImages", name, truths / f"{name}.png") for name in names]
    return DatasetFiles(_complete(samples), _straight(59))


ABSENT_COCO_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
"""Category numbers from 1 to 182 that COCO never used."""
COCO_PICTURES = ("images/val2017", "val2017")
COCO_TRUTHS = (
    ("annotations/val2017", "_labelTrainIds.png", True),
    ("stuffthingmaps_trainIds/val2017", "_labelTrainIds.png", True),
    ("stuffthingmaps_trainIds/val2017", ".png", True),
    ("stuffthingmaps/val2017", ".png", False),
    ("annotations/val2017", ".png", False),
)
"""Folder and suffix of COCO's label maps, and whether they hold train ids (0 to 170) or category numbers less one."""


def _coco(folder: Path) -> DatasetFiles:
    home = next((folder / name for name in COCO_PICTURES if (folder / name).is_dir()), None)
    if home is None:
        raise SourceError(f"there is no {' or '.join(COCO_PICTURES)} in {folder}")
    pictures = _globbed(home, "*.jpg")
    for truths, suffix, trained in COCO_TRUTHS:
        if (folder / truths / f"{pictures[0].stem}{suffix}").is_file():
            samples = [Sample(path.stem, path, folder / truths / f"{path.stem}{suffix}") for path in pictures]
            return DatasetFiles(_complete(samples), _train_ids(171) if trained else _coco_categories())
    looked = ", ".join(f"{truths}/{pictures[0].stem}{suffix}" for truths, suffix, _ in COCO_TRUTHS)
    raise SourceError(f"there are no label maps in {folder}, looked for: {looked}")


def _coco_categories() -> dict[int, int]:
    """Category numbers less one, as the published maps have them, to classes in order."""
    used = [category for category in range(1, 183) if category not in ABSENT_COCO_IDS]
    return {category - 1: number for number, category in enumerate(used, start=1)} | {IGNORE_LABEL: IGNORE_LABEL}


CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Label ids of the 19 classes that are evaluated, in the order of their train ids; the others are ignored."""
CITYSCAPES_ALL_IDS = 34


def _cityscapes(folder: Path) -> DatasetFiles:
    suffix = "_leftImg8bit.png"
    pictures = _globbed(folder / "leftImg8bit/val", f"*/*{suffix}")
    for kind, numbers in (("labelTrainIds", _train_ids(19)), ("labelIds", _cityscapes_ids())):
        samples = []
        for path in pictures:
            name = path.name.removesuffix(suffix)
            samples.append(Sample(name, path, folder / "gtFine/val" / path.parent.name / f"{name}_gtFine_{kind}.png"))
        if samples[0].truth.is_file():
            return DatasetFiles(_complete(samples), numbers)
    raise SourceError(f"there is no {samples[0].truth}, nor one that ends in labelTrainIds.png")


def _cityscapes_ids() -> dict[int, int]:
    numbers = dict.fromkeys((*range(CITYSCAPES_ALL_IDS), IGNORE_LABEL), IGNORE_LABEL)
    return numbers | {label: number for number, label in enumerate(CITYSCAPES_IDS, start=1)}


def _ade20k(folder: Path) -> DatasetFiles:
    pictures = _globbed(folder / "images/validation", "*.jpg")
    samples = [Sample(path.stem, path, folder / "annotations/validation" / f"{path.stem}.png") for path in pictures]
    return DatasetFiles(_complete(samples), _straight(150))


def _straight(classes: int) -> dict[int, int]:
    """Files that count as we do: 0 for none, classes from 1."""
    return {value: value for value in (*range(classes + 1), IGNORE_LABEL)}


def _train_ids(classes: int) -> dict[int, int]:
    """Files that count classes from 0."""
    return {value: value + 1 for value in range(classes)} | {IGNORE_LABEL: IGNORE_LABEL}


def _listed(path: Path) -> list[str]:
    """Names in a list file, in its order."""
    if not path.is_file():
        raise SourceError(f"there is no {path}")
    names = path.read_text(encoding="utf-8").split()
    if not names:
        raise SourceError(f"{path} names no picture")
    return names


def _globbed(folder: Path, pattern: str) -> list[Path]:
    """Files in the order of their paths."""
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise SourceError(f"there is no {folder / pattern}")
    return paths


def _sample(pictures: Path, name: str, truth: Path) -> Sample:
    return Sample(name, pictures / f"{name}.jpg", truth)


def _complete(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """The samples, all of whose files are there."""
    absent = [path for sample in samples for path in _absent((sample.picture, sample.truth))]
    if absent:
        raise SourceError(f"{len(absent)} of {2 * len(samples)} files are missing, the first is {absent[0]}")
    return tuple(samples)


def _absent(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if not path.is_file()]


VOC2012 = Layout(
    "PASCAL VOC 2012",
    ("VOCdevkit/VOC2012", "VOC2012"),
    _voc,
    "Download the training/validation data, VOCtrainval_11-May-2012.tar (2 GB), from "
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ and unpack it in the folder of --data: it makes VOCdevkit/VOC2012 with JPEGImages, "
    "SegmentationClass and ImageSets/Segmentation/val.txt",
)
CONTEXT2010 = Layout(
    "PASCAL Context",
    ("VOCdevkit/VOC2010", "VOC2010"),
    _context,
    "Download VOCtrainval_03-May-2010.tar (1.3 GB) from http://host.robots.ox.ac.uk/pascal/VOC/voc2010/ and unpack it "
    "here, and trainval_merged.json from the Detail API (https://github.com/zhanghang1989/detail-api) into "
    "VOCdevkit/VOC2010; then run mmsegmentation's tools/dataset_converters/pascal_context.py on both: it makes "
    "SegmentationClassContext/*.png (0 background, 1 to 59 classes) and ImageSets/SegmentationContext/val.txt",
)
COCO2017 = Layout(
    "COCO-Stuff 164k",
    ("coco_stuff164k", "coco"),
    _coco,
    "Download val2017.zip (1 GB) from https://cocodataset.org/#download and stuffthingmaps_trainval2017.zip (660 MB) "
    "from https://github.com/nightrome/cocostuff and unpack them in the folder of --data as coco_stuff164k/images/val2017/*.jpg and "
    "coco_stuff164k/stuffthingmaps/val2017/*.png; maps converted to train ids (annotations/val2017/*_labelTrainIds.png) "
    "are read as well. COCO-Object needs nothing else",
)
CITYSCAPES_FINE = Layout(
    "Cityscapes",
    ("cityscapes", "Cityscapes"),
    _cityscapes,
    "Register at https://www.cityscapes-dataset.com/downloads/ , download leftImg8bit_trainvaltest.zip (11 GB) and "
    "gtFine_trainvaltest.zip (241 MB) and unpack them in the folder of --data as cityscapes/leftImg8bit/val/*/ and cityscapes/gtFine/val/*/ ; "
    "labelIds as published or labelTrainIds as the official scripts make them, either will do",
)
ADE2016 = Layout(
    "ADE20K, scene parsing challenge of 2016",
    ("ADEChallengeData2016", "ade/ADEChallengeData2016"),
    _ade20k,
    "Download ADEChallengeData2016.zip (923 MB) from http://sceneparsing.csail.mit.edu/ and unpack it in the folder of --data: it makes "
    "ADEChallengeData2016 with images/validation and annotations/validation",
)
