"""COCO's two forms: `instances` (run lengths of each segment) and `panoptic` (a PNG of segment numbers a picture).

Source: the format descriptions of COCO's data page, "Object Detection" and "Panoptic Segmentation".
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from nerve_runtime import FrameResult
from nerve_runtime.atomic import refuse_existing, write_bytes_whole
from nerve_runtime.opencv import cv2
from nerve_runtime.result import run_lengths
from nerve_stream.exports.base import FileExport
from nerve_stream.exports.segments import Segment, export_names, picture_name, segments
from nerve_stream.redaction import readable
from nerve_stream.sinks.base import NewFiles, Sink, UInt8Array, refuse_filled_folder
from nerve_stream.sources.images import Picture

INFO = {"description": "Segmented by NERVE Deploy from class names; not checked by a person"}


def category_id(label: int) -> int:
    """The category of a label: label + 1, since 0 is none in COCO."""
    return label + 1


class _Pictures:
    """The lists that both forms begin with."""

    def __init__(self) -> None:
        self.images: list[dict[str, Any]] = []
        self._names: dict[int, str] = {}

    def add(self, name: str, result: FrameResult) -> int:
        """Add a picture and return its number."""
        height, width = result.labels.shape
        self._names.update(export_names(result.class_names, has_background=result.has_background))
        self.images.append({"id": len(self.images) + 1, "file_name": name, "height": height, "width": width})
        return len(self.images)

    def categories(self, **more: int) -> list[dict[str, Any]]:
        """The classes."""
        return [{"id": category_id(label), "name": name, **more} for label, name in sorted(self._names.items())]


class CocoInstances(FileExport):
    """A file as `instances_val2017.json`: an annotation for each class that a picture shows.

    `iscrowd` is 1, which COCO has for pixels of several things of a class, unless instances are numbered: then each is an
    annotation, whose `track_id` follows it from frame to frame. `score` is the mean confidence.
    """

    def __init__(self, path: Path, *, force: bool = False) -> None:
        super().__init__(path, force=force)
        self._pictures, self._annotations = _Pictures(), list[dict[str, Any]]()

    def add(self, name: str, result: FrameResult) -> None:
        """Add a picture and its annotations."""
        image_id = self._pictures.add(name, result)
        self._annotations += [
            self._annotation(image_id, segment, number) for number, segment in enumerate(segments(result))
        ]

    def _annotation(self, image_id: int, segment: Segment, number: int) -> dict[str, Any]:
        annotation = {
            "id": len(self._annotations) + number + 1,
            "image_id": image_id,
            "category_id": category_id(segment.label),
            "segmentation": run_lengths(segment.mask),
            "area": segment.area,
            "bbox": list(segment.box),
            "iscrowd": int(segment.instance is None),
            "score": segment.confidence,
        }
        return annotation if segment.instance is None else {**annotation, "track_id": segment.instance}

    def content(self) -> bytes:
        """The JSON file."""
        return _json({"info": INFO, "images": self._pictures.images, "annotations": self._annotations,
                      "categories": self._pictures.categories()})  # fmt: skip


class CocoPanoptic(Sink):
    """A folder with `panoptic.json` and a PNG for each picture, whose pixels are R + 256 G + 65536 B = segment number.

    Pixels of number 0 are in no segment: the background, and pixels without label. All classes are `isthing` 0.

    Args:
        path: the folder, made if needed.
        force: replace what is there.

    Raises:
        UsageError: the folder is a file, or it holds PNG files or a `panoptic.json` and `force` is false.
    """

    kind = "export"
    file_name = "panoptic.json"
    inside = (file_name,)

    def __init__(self, path: Path, *, force: bool = False) -> None:
        self.refuse(path, force=force)
        self.path, self._new = path, NewFiles(path)
        self._pictures, self._annotations = _Pictures(), list[dict[str, Any]]()

    @staticmethod
    def refuse(path: Path, *, force: bool) -> None:
        """Refuse a folder with PNG files or a `panoptic.json`, unless `force`."""
        refuse_filled_folder("PNG files", path, force=force)
        refuse_existing(path / CocoPanoptic.file_name, force=force)

    def write(self, rgb: UInt8Array, result: FrameResult, picture: Picture | None = None) -> None:
        """Write the PNG of one picture beside the folder."""
        name = picture_name(result.index, picture)
        png = f"{Path(name).stem}.png" if picture is None else f"{picture.stem}.png"
        numbers = np.zeros(result.labels.shape, dtype=np.int32)
        infos = []
        for number, segment in enumerate(segments(result), start=1):
            numbers[segment.mask] = number
            infos.append({"id": number, "category_id": category_id(segment.label), "area": segment.area,
                          "bbox": list(segment.box), "iscrowd": 0})  # fmt: skip
        image_id = self._pictures.add(name, result)
        self._annotations.append({"image_id": image_id, "file_name": readable(png), "segments_info": infos})
        bgr = np.stack([numbers >> 16 & 255, numbers >> 8 & 255, numbers & 255], axis=-1).astype(np.uint8)
        self._new.write(png, cv2.imencode(".png", bgr)[1].tobytes())

    def commit(self) -> None:
        """Move the PNGs into the folder, then write `panoptic.json`."""
        self._new.move()
        content = {"info": INFO, "images": self._pictures.images, "annotations": self._annotations,
                   "categories": self._pictures.categories(isthing=0)}  # fmt: skip
        write_bytes_whole(self.path / self.file_name, _json(content))

    def abort(self) -> None:
        """Delete what was not moved."""
        self._new.delete()


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n").encode()
