"""Writes scenes in the PASCAL VOC folder layout, so that tools made for VOC can read the world.

    JPEGImages/NAME.jpg  SegmentationClass/NAME.png  ImageSets/Segmentation/SPLIT.txt  classes.txt

Labels are stored as VOC does: 0 is background (unused here), class i of the world is i + 1, 255 is ignored.
"""

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nerve_bench.world.scenes import CLASS_NAMES, WORLD_PX, Scene, make_scene
from nerve_runtime import IGNORE_LABEL
from nerve_runtime.opencv import cv2, opencv_path
from nerve_stream.sinks import indexed_png

JPEG_QUALITY = 95
"""Of 100; VOC's own pictures are about as good."""


def write_voc(
    folder: Path, seeds_by_split: Mapping[str, Iterable[int]], *, size_px: int = WORLD_PX, close_up: bool | None = None
) -> int:
    """Draw scenes and write them as a VOC data set; the folder appears whole or not at all.

    Args:
        folder: folder to make; its parent is made too.
        seeds_by_split: seeds of each split, for instance `{"train": range(100), "val": SEEDS["validation"][:20]}`.
        size_px: side of the square pictures in pixels.
        close_up: object-centric pictures only (True), full scenes only (False), or the mix of the training (None).

    Returns:
        Number of scenes written. A progress bar moves on stderr.

    Raises:
        FileExistsError: the folder exists and is not empty.
        ValueError: there is no scene at all.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder; choose another name or remove it")
    splits = {split: list(seeds) for split, seeds in seeds_by_split.items()}
    if not any(splits.values()):
        raise ValueError(f"no scenes to write to {folder}: expected at least one seed, got {seeds_by_split!r}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        for split, seeds in splits.items():
            _write_split(unfinished, split, seeds, size_px, close_up)
        (unfinished / "classes.txt").write_text("".join(f"{name}\n" for name in CLASS_NAMES))
        unfinished.chmod(0o755)  # mkdtemp makes private folders
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return sum(map(len, splits.values()))


def _write_split(folder: Path, split: str, seeds: list[int], size_px: int, close_up: bool | None) -> None:
    from rich.console import Console
    from rich.progress import track

    lists = folder / "ImageSets" / "Segmentation"
    for needed in (folder / "JPEGImages", folder / "SegmentationClass", lists):
        needed.mkdir(parents=True, exist_ok=True)
    for seed in track(seeds, description=f"writing {split}", console=Console(stderr=True)):
        write_voc_scene(folder, scene_name(seed), make_scene(seed, size_px=size_px, close_up=close_up))
    (lists / f"{split}.txt").write_text("".join(f"{scene_name(seed)}\n" for seed in seeds))


def scene_name(seed: int) -> str:
    """Name of the scene with this seed in the lists and files of a VOC folder."""
    return f"scene_{seed:07d}"


def write_voc_scene(folder: Path, name: str, scene: Scene) -> None:
    """Write one picture and its labels into an existing VOC folder.

    Raises:
        OSError: the picture cannot be written.
    """
    picture = folder / "JPEGImages" / f"{name}.jpg"
    if not cv2.imwrite(opencv_path(picture), scene.rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
        raise OSError(f"cannot write {picture}; is its folder there and writable?")
    labels = folder / "SegmentationClass" / f"{name}.png"
    labels.write_bytes(indexed_png(voc_labels(scene.labels), voc_colors()))


def voc_labels(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Shift labels of the world as VOC stores them: class i becomes i + 1, 255 stays 255."""
    return np.where(labels == IGNORE_LABEL, IGNORE_LABEL, labels + 1).astype(np.uint8)


def voc_colors() -> NDArray[np.uint8]:
    """The colour map of PASCAL VOC: uint8 (256,3), RGB.

    The bits of a label are dealt out to red, green and blue in turn, the lowest bits to the strongest bits of colour.

    Source: development kit of the PASCAL VOC challenge, its function for label colours.
    """
    labels = np.arange(256)
    colors = np.zeros((256, 3), np.uint8)
    for place in range(8):
        for channel in range(3):
            colors[:, channel] |= (((labels >> (3 * place + channel)) & 1) << (7 - place)).astype(np.uint8)
    return colors
