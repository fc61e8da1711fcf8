"""Results as files that annotation tools and training code read: COCO, YOLO, CVAT, Label Studio."""

from collections.abc import Callable, Mapping
from pathlib import Path

from nerve_stream.exports.coco import CocoInstances, CocoPanoptic
from nerve_stream.exports.cvat import CvatImages
from nerve_stream.exports.label_studio import LabelStudioTasks
from nerve_stream.exports.yolo import YoloSegments
from nerve_stream.sinks.base import Sink

FORMATS: Mapping[str, Callable[..., Sink]] = {
    "coco-instances": CocoInstances,
    "coco-panoptic": CocoPanoptic,
    "yolo": YoloSegments,
    "cvat": CvatImages,
    "label-studio": LabelStudioTasks,
}
"""What makes the sink of each format, of a path (a folder for `coco-panoptic` and `yolo`) and `force`."""
FOLDER_FORMATS = frozenset({"coco-panoptic", "yolo"})

__all__ = [
    "FOLDER_FORMATS",
    "FORMATS",
    "CocoInstances",
    "CocoPanoptic",
    "CvatImages",
    "LabelStudioTasks",
    "YoloSegments",
    "export_sink",
]


def export_sink(name: str, path: Path, *, force: bool = False) -> Sink:
    """Open the export of a format; see the class of each.

    Raises:
        UsageError: what is written exists and `force` is false.
    """
    return FORMATS[name](path, force=force)
