"""CVAT's XML, "CVAT for images 1.1": a mask of run lengths for each class that a picture shows.

Source: CVAT's format description; run lengths are of the box around the mask, row by row, beginning with zeros.
"""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from nerve_runtime import FrameResult
from nerve_runtime.drawing import class_colours
from nerve_stream.exports.base import FileExport
from nerve_stream.exports.segments import BoolArray, Segment, export_names, segments

NO_XML = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")
"""Characters that file names may have and XML may not, not even escaped: one of them and nobody reads the file."""


class CvatImages(FileExport):
    """A file that CVAT imports as annotations of a task with the same pictures."""

    def __init__(self, path: Path, *, force: bool = False) -> None:
        super().__init__(path, force=force)
        self._images: list[ElementTree.Element] = []
        self._classes: dict[str, str] = {}

    def add(self, name: str, result: FrameResult) -> None:
        """Add a picture and its masks."""
        colours = class_colours(result.class_names)
        for label, class_name in export_names(result.class_names, has_background=result.has_background).items():
            self._classes[_xml_text(class_name)] = f"#{bytes(colours[label]).hex()}"
        height, width = result.labels.shape
        attributes = {"id": str(len(self._images)), "name": _xml_text(name), "width": str(width), "height": str(height)}
        image = ElementTree.Element("image", attributes)
        image.extend(_mask(segment) for segment in segments(result))
        self._images.append(image)

    def content(self) -> bytes:
        """The XML file."""
        root = ElementTree.Element("annotations")
        ElementTree.SubElement(root, "version").text = "1.1"
        task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
        labels = ElementTree.SubElement(task, "labels")
        for name, colour in self._classes.items():
            label = ElementTree.SubElement(labels, "label")
            for tag, text in (("name", name), ("color", colour), ("type", "mask")):
                ElementTree.SubElement(label, tag).text = text
        root.extend(self._images)
        ElementTree.indent(root)
        return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _mask(segment: Segment) -> ElementTree.Element:
    left, top, width, height = segment.box
    attributes = {
        "label": _xml_text(segment.name),
        "source": "semi-auto",
        "occluded": "0",
        "rle": ", ".join(map(str, _row_run_lengths(segment.mask[top : top + height, left : left + width]))),
        "left": str(left),
        "top": str(top),
        "width": str(width),
        "height": str(height),
        "z_order": "0",
    }
    return ElementTree.Element("mask", attributes)


def _row_run_lengths(mask: BoolArray) -> list[int]:
    """Run lengths of a mask row by row; the first counts pixels that are not in it."""
    flat = mask.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts: list[int] = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return [0, *counts] if flat[0] else counts


def _xml_text(text: str) -> str:
    return NO_XML.sub("\ufffd", text)
