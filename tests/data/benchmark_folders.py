"""The five data sets of the field in small: scenes of the tiny world in their folder layouts, with class files.

VOC has twenty classes, so scenes show the first twenty of the world; each benchmark's first classes stand for them:
`class_files` says which, in the form that `nerve-bench evaluate --classes-file` reads. Classes it does not name are left out.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from nerve_bench.datasets import BENCHMARKS
from nerve_bench.datasets.tile_comparison import wide_scene
from nerve_bench.world import CLASS_NAMES, SEEDS, STUFF, make_scene
from nerve_bench.world.voc import voc_colors
from nerve_runtime import IGNORE_LABEL
from nerve_stream.sinks import indexed_png

Labels = NDArray[np.uint8]
SCENERY = len(STUFF)
"""Labels of the world below this are stuff; those from here on are things."""
THINGS = 14
"""How many things the scenes show."""
SHOWN = CLASS_NAMES[: SCENERY + THINGS]
FRAME_PX = 3
"""Width of a border that is ignored, as around VOC's objects."""
WIDE_PX = 256


def write_benchmark_folders(data: Path, pictures: int = 2) -> None:
    """Write all five layouts into one folder, so many pictures each: the same scenes in all, wide ones as Cityscapes."""
    write_voc(data, pictures)
    write_context(data, pictures)
    write_coco(data, pictures)
    write_cityscapes(data, pictures)
    write_ade20k(data, pictures)


def write_voc(data: Path, pictures: int = 2) -> None:
    """Things of the world are classes 1 to 14, scenery is 0; label maps have VOC's palette."""
    home = data / "VOCdevkit/VOC2012"
    names = _write_scenes(home / "JPEGImages", home / "SegmentationClass", pictures, _as_voc, palette=True)
    _write(home / "ImageSets/Segmentation/val.txt", "".join(f"{name}\n" for name in names).encode())


def write_context(data: Path, pictures: int = 2) -> None:
    """The twenty classes that scenes show are classes 1 to 20."""
    home = data / "VOCdevkit/VOC2010"
    names = _write_scenes(home / "JPEGImages", home / "SegmentationClassContext", pictures, _from_one, palette=True)
    _write(home / "ImageSets/SegmentationContext/val.txt", "".join(f"{name}\n" for name in names).encode())


def write_coco(data: Path, pictures: int = 2) -> None:
    """Things are train ids 0 to 13, scenery 80 to 85."""
    home = data / "coco_stuff164k"
    truths = home / "annotations/val2017"
    _write_scenes(home / "images/val2017", truths, pictures, _as_coco, truth="{}_labelTrainIds.png")


def write_cityscapes(data: Path, pictures: int = 2) -> None:
    """Wide scenes; the world's first 19 classes are train ids 0 to 18, all others are ignored."""
    for index, seed in enumerate(SEEDS["validation"][:pictures]):
        scene, name = wide_scene(seed, WIDE_PX), f"frankfurt_000000_{index:06d}"
        picture = data / f"cityscapes/leftImg8bit/val/frankfurt/{name}_leftImg8bit.png"
        _write(picture, _encoded(".png", scene.rgb[..., ::-1]))
        truth = data / f"cityscapes/gtFine/val/frankfurt/{name}_gtFine_labelTrainIds.png"
        _write(truth, _encoded(".png", np.where(scene.labels >= 19, IGNORE_LABEL, scene.labels).astype(np.uint8)))


def write_ade20k(data: Path, pictures: int = 2) -> None:
    """The twenty classes that scenes show are classes 1 to 20."""
    home = data / "ADEChallengeData2016"
    _write_scenes(home / "images/validation", home / "annotations/validation", pictures, _from_one)


def class_files(folder: Path) -> None:
    """Write NAME.txt of each benchmark: which of its classes stand for which of the world's words."""
    things, scenery = list(SHOWN[SCENERY:]), list(SHOWN[:SCENERY])
    own = {name: BENCHMARKS[name].class_names for name in BENCHMARKS}
    pairs = {
        "voc21": [*zip(own["voc21"], things, strict=False), ("background", ", ".join(scenery))],
        "voc20": [*zip(own["voc20"], things, strict=False)],
        "coco-object": [*zip(own["coco-object"], things, strict=False), ("background", ", ".join(scenery))],
        "coco-stuff": [
            *zip(own["coco-stuff"], things, strict=False),
            *zip(own["coco-stuff"][80:], scenery, strict=False),
        ],
        # No scene shows the "background": a word of the world that nothing in them has stands for it.
        "context60": [*zip(own["context60"], SHOWN, strict=False), ("background", CLASS_NAMES[-1])],
        "context59": [*zip(own["context59"], SHOWN, strict=False)],
        "cityscapes": [*zip(own["cityscapes"], SHOWN, strict=False)],
        "ade20k": [*zip(own["ade20k"], SHOWN, strict=False)],
    }
    for name, lines in pairs.items():
        _write(folder / f"{name}.txt", "".join(f"{own_name} = {words}\n" for own_name, words in lines).encode())


def _write_scenes(
    pictures_in: Path,
    truths_in: Path,
    pictures: int,
    values: Callable[[Labels], Labels],
    *,
    truth: str = "{}.png",
    palette: bool = False,
) -> list[str]:
    names = []
    for index, seed in enumerate(SEEDS["validation"][:pictures]):
        scene, name = make_scene(seed, close_up=False, things=THINGS), f"2007_{index:06d}"
        _write(pictures_in / f"{name}.jpg", _encoded(".jpg", scene.rgb[..., ::-1]))
        stored = _with_border(values(scene.labels))
        content = indexed_png(stored, voc_colors()) if palette else _encoded(".png", stored)
        _write(truths_in / truth.format(name), content)
        names.append(name)
    return names


def _as_voc(labels: Labels) -> Labels:
    return np.where(labels < SCENERY, 0, labels - np.uint8(SCENERY - 1)).astype(np.uint8)


def _as_coco(labels: Labels) -> Labels:
    return np.where(labels < SCENERY, labels + np.uint8(80), labels - np.uint8(SCENERY)).astype(np.uint8)


def _from_one(labels: Labels) -> Labels:
    return (labels + 1).astype(np.uint8)


def _with_border(values: Labels) -> Labels:
    values = values.copy()
    values[:FRAME_PX] = values[-FRAME_PX:] = IGNORE_LABEL
    return values


def _encoded(suffix: str, pixels: Labels) -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
