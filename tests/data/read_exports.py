"""Read exports with the libraries of others and write each mask: `python read_exports.py FOLDER OUT.npz`.

Runs in an environment of its own (requirements/readers.txt), which has none of our packages. FOLDER holds an export of
each format by its name; the masks of OUT.npz are called FORMAT|number of the picture|class.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import datumaro
import numpy as np
import supervision
from label_studio_sdk.converter import brush
from pycocotools.coco import COCO

Masks = Iterator[tuple[int, str, np.ndarray]]


def picture_number(name: str) -> int:
    """Pictures are called `street 3.jpg`."""
    return int(Path(name).stem.rpartition(" ")[2])


def coco_instances(path: Path, folder: Path) -> Masks:
    """By pycocotools."""
    coco = COCO(str(path))
    for annotation in coco.anns.values():
        picture = coco.imgs[annotation["image_id"]]["file_name"]
        yield picture_number(picture), coco.cats[annotation["category_id"]]["name"], coco.annToMask(annotation)


def coco_panoptic(path: Path, folder: Path) -> Masks:
    """By datumaro."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").mkdir()
    shutil.copytree(path, folder / "annotations" / "panoptic_default")
    shutil.copy(path / "panoptic.json", folder / "annotations" / "panoptic_default.json")
    write_pictures(folder / "images", path.with_name("label-studio"))
    yield from of_datumaro(folder, "coco_panoptic")


def cvat(path: Path, folder: Path) -> Masks:
    """By datumaro."""
    (folder / "images").mkdir(parents=True)
    shutil.copy(path, folder / "annotations.xml")
    write_pictures(folder / "images", path.with_name("label-studio"))
    yield from of_datumaro(folder, "cvat")


def yolo(path: Path, folder: Path) -> Masks:
    """By supervision."""
    folder.mkdir()
    write_pictures(folder, path.with_name("label-studio"))
    dataset = supervision.DetectionDataset.from_yolo(
        str(folder), str(path / "labels"), str(path / "data.yaml"), force_masks=True
    )
    for name, _, detections in dataset:
        for class_number in np.unique(detections.class_id):
            mask = detections.mask[detections.class_id == class_number].any(axis=0)
            yield picture_number(name), dataset.classes[class_number], mask


def label_studio(path: Path, folder: Path) -> Masks:
    """By Label Studio's own package."""
    for task in json.loads(path.read_text()):
        for region in task["predictions"][0]["result"]:
            values = brush.decode_rle(region["value"]["rle"])
            mask = values.reshape(region["original_height"], region["original_width"], 4)[..., 3]
            yield picture_number(task["data"]["image"]), region["value"]["brushlabels"][0], mask


def of_datumaro(folder: Path, kind: str) -> Masks:
    """All masks of a dataset."""
    dataset = datumaro.Dataset.import_from(str(folder), kind)
    names = dataset.categories()[datumaro.AnnotationType.label]
    for item in dataset:
        for annotation in item.annotations:
            yield picture_number(item.id), names[annotation.label].name, annotation.image


def write_pictures(folder: Path, label_studio_file: Path) -> None:
    """Black pictures of the right sizes, for readers that look at them; empty exports have none."""
    for task in json.loads(label_studio_file.read_text()):
        region = task["predictions"][0]["result"][0]
        size = region["original_height"], region["original_width"], 3
        cv2.imwrite(str(folder / task["data"]["image"]), np.zeros(size, dtype=np.uint8))


READERS = {
    "coco-instances": coco_instances,
    "coco-panoptic": coco_panoptic,
    "cvat": cvat,
    "yolo": yolo,
    "label-studio": label_studio,
}


def main(folder: Path, out: Path) -> None:
    """Read all formats."""
    masks = {}
    for name, read in READERS.items():
        for picture, class_name, mask in read(folder / name, folder / f"read-{name}"):
            masks[f"{name}|{picture}|{class_name}"] = np.asarray(mask).astype(bool)
    np.savez_compressed(out, allow_pickle=False, **masks)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
