"""What the formats of annotation tools have in common: regions of a frame, and the name of its picture."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nerve_runtime import FrameResult
from nerve_stream.redaction import readable
from nerve_stream.sinks.masks import mask_name
from nerve_stream.sources.images import Picture

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Segment:
    """All pixels of a class in a frame, or one instance of it.

    Attributes:
        label: the class.
        name: of the class.
        mask: bool (H, W), not empty.
        confidence: mean of its pixels, 0 to 1.
        instance: its number, None where a segment is a whole class.
    """

    label: int
    name: str
    mask: BoolArray
    confidence: float
    instance: int | None = None

    @property
    def area(self) -> int:
        """Its number of pixels."""
        return int(np.count_nonzero(self.mask))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, width and height in pixels."""
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        left, top = int(columns[0]), int(rows[0])
        return left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1


def segments(result: FrameResult) -> Iterator[Segment]:
    """The instances of a frame where they are numbered, else its classes in the order of their labels.

    Neither the background nor pixels without label are in any.
    """
    if result.instances is not None:
        for one in result.instances.instances:
            yield Segment(one.label, one.name, result.instances.mask(one.number), one.confidence, one.number)
        return
    for label in np.unique(result.labels).tolist():
        if label == result.ignore_label or (label == 0 and result.has_background):
            continue
        mask = result.labels == label
        confidence = float(result.confidence[mask].mean()) / 255.0
        yield Segment(label, result.class_names[label], np.asarray(mask), round(confidence, 4))


def export_names(class_names: tuple[str, ...], *, has_background: bool) -> dict[int, str]:
    """The classes that can be in an export, by label."""
    return {label: name for label, name in enumerate(class_names) if label or not has_background}


def picture_name(index: int, picture: Picture | None) -> str:
    """File name of a frame's picture: its own, or for a frame of a video that of its mask."""
    return mask_name(index) if picture is None else readable(picture.path.name)
