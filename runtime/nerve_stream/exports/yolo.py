"""YOLO's segmentation labels: a text file a picture, one polygon a line, and `data.yaml` with the class names.

Source: the dataset format of Ultralytics, `class x1 y1 x2 y2 ...` with coordinates as shares of width and height.
"""

import json
from pathlib import Path

from nerve_runtime import FrameResult
from nerve_runtime.atomic import refuse_existing, write_bytes_whole
from nerve_runtime.result import outlines
from nerve_stream.exports.segments import export_names, picture_name, segments
from nerve_stream.sinks.base import NewFiles, Sink, UInt8Array, refuse_filled_folder
from nerve_stream.sources.images import Picture

# Readers multiply by the size and then round or cut: a quarter of a pixel beyond its centre's whole number comes back
# as that number in both.
WITHIN_PIXEL = 0.25
LABELS = "labels"


class YoloSegments(Sink):
    """A folder with `data.yaml` and `labels/NAME.txt`: a line for each connected region, holes joined to its border.

    Classes count from 0 without the background. A pixel's coordinate is its column or row, divided by the picture's size.

    Args:
        path: the folder, made if needed.
        force: replace what is there.

    Raises:
        UsageError: the folder holds a `data.yaml`, or its `labels` text files, and `force` is false.
    """

    kind = "export"
    file_name = "data.yaml"
    inside = (LABELS, file_name)

    def __init__(self, path: Path, *, force: bool = False) -> None:
        self.refuse(path, force=force)
        self.path, self._new, self._names = path, NewFiles(path / LABELS), dict[int, str]()

    @staticmethod
    def refuse(path: Path, *, force: bool) -> None:
        """Refuse a folder with a `data.yaml`, or with labels that somebody may have drawn by hand, unless `force`."""
        refuse_existing(path / YoloSegments.file_name, force=force)
        refuse_filled_folder("labels", path / LABELS, force=force, suffix=".txt")

    def write(self, rgb: UInt8Array, result: FrameResult, picture: Picture | None = None) -> None:
        """Write the lines of one picture beside the folder."""
        self._names.update(export_names(result.class_names, has_background=result.has_background))
        first = min(self._names, default=0)
        lines = [
            f"{segment.label - first} {_shares(polygon.tolist(), result.labels.shape)}\n"
            for segment in segments(result)
            for polygon in outlines(segment.mask)
        ]
        stem = Path(picture_name(result.index, picture)).stem if picture is None else picture.stem
        self._new.write(f"{stem}.txt", "".join(lines).encode())

    def commit(self) -> None:
        """Move the files into the folder, then write `data.yaml`."""
        self._new.move()
        names = [f"  {number}: {_quoted(name)}\n" for number, (_, name) in enumerate(sorted(self._names.items()))]
        text = f"# Segmented by NERVE Deploy from class names.\npath: .\ntrain: images\nval: images\nnames:\n{''.join(names)}"
        write_bytes_whole(self.path / self.file_name, text.encode())

    def abort(self) -> None:
        """Delete what was not moved."""
        self._new.delete()


def _quoted(name: str) -> str:
    """A name as YAML reads it back; JSON's two escapes for an emoji would be two broken characters there."""
    text = json.dumps(name, ensure_ascii=False)
    # U+2028 ends a line in YAML, and U+FFFE the reading.
    return "".join(char if char.isprintable() else f"\\U{ord(char):08X}" for char in text)


def _shares(points: list[list[int]], shape: tuple[int, ...]) -> str:
    """Points x, y as shares of width and height; a polygon has three points at least."""
    points += [points[-1]] * (3 - len(points))
    height, width = shape
    return " ".join(f"{(x + WITHIN_PIXEL) / width:.7f} {(y + WITHIN_PIXEL) / height:.7f}" for x, y in points)
