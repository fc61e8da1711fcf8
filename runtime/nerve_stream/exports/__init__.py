"""Results as files that annotation tools and training code read: COCO, YOLO, CVAT, Label Studio."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nerve_runtime import UsageError
from nerve_stream.exports.base import FileExport
from nerve_stream.exports.coco import CocoInstances, CocoPanoptic
from nerve_stream.exports.cvat import CvatImages
from nerve_stream.exports.label_studio import LabelStudioTasks
from nerve_stream.exports.yolo import YoloSegments
from nerve_stream.sinks.base import Sink

FORMATS: Mapping[str, type[FileExport | CocoPanoptic | YoloSegments]] = {
    "coco-instances": CocoInstances,
    "coco-panoptic": CocoPanoptic,
    "yolo": YoloSegments,
    "cvat": CvatImages,
    "label-studio": LabelStudioTasks,
}
"""What makes the sink of each format, of a path (a folder for `coco-panoptic` and `yolo`) and `force`.

Its `inside` names what is moved into that folder from a temporary name of its own.
"""
ALIASES = {"coco": "coco-instances"}
FOLDER_FORMATS = frozenset({"coco-panoptic", "yolo"})
PNG_FORMATS = frozenset({"coco-panoptic"})
"""Whose folder gets a PNG of each picture's name."""

__all__ = [
    "FOLDER_FORMATS",
    "FORMATS",
    "PNG_FORMATS",
    "CocoInstances",
    "CocoPanoptic",
    "CvatImages",
    "LabelStudioTasks",
    "YoloSegments",
    "export_sink",
    "parse_exports",
    "refuse_export",
]


def refuse_export(name: str, path: Path, *, force: bool) -> None:
    """Refuse the export of a format where it would replace something, before anything is opened.

    Raises:
        UsageError: what is written exists and `force` is false.
    """
    FORMATS[name].refuse(path, force=force)


def export_sink(name: str, path: Path, *, force: bool = False) -> Sink:
    """Open the export of a format; see the class of each.

    Raises:
        UsageError: what is written exists and `force` is false.
    """
    return FORMATS[name](path, force=force)


def parse_exports(texts: Sequence[str]) -> tuple[tuple[str, Path], ...]:
    """Formats and paths of texts such as `yolo=labels/`.

    Raises:
        UsageError: a text has no `=`, or no such format.
    """
    parsed = []
    for text in texts:
        name, equals, path = text.partition("=")
        name = ALIASES.get(name, name)
        if not equals or not path or name not in FORMATS:
            raise UsageError(
                f"--export {text} is not understood, expected FORMAT=PATH, FORMAT one of {', '.join(FORMATS)}"
            )
        parsed.append((name, Path(path)))
    return tuple(parsed)
