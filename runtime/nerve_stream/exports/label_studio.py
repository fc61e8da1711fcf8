"""Label Studio's tasks: a JSON list with a prediction for each picture, a brush mask for each class that it shows.

Source: the import format of Label Studio (`predictions` of type `brushlabels`, value format `rle`), whose run lengths are
those of the package rle-pack: a head of the number of values, the bits of a value and four widths of lengths, then blocks.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from nerve_runtime import FrameResult
from nerve_stream.exports.base import FileExport
from nerve_stream.exports.segments import BoolArray, Segment, segments

CHANNELS = 4
"""A mask is stored as the values of an RGBA picture, 255 in all channels where it is set."""
LENGTH_BITS = (3, 4, 8, 16)
LONGEST_RUN = 1 << LENGTH_BITS[-1]


class LabelStudioTasks(FileExport):
    """A file to import into a project whose labelling interface has `<Image name="image"/>` and `<BrushLabels name="label"/>`.

    `data.image` is the picture's file name: put before it the address under which Label Studio finds the pictures.
    """

    def __init__(self, path: Path, *, force: bool = False) -> None:
        super().__init__(path, force=force)
        self._tasks: list[dict[str, Any]] = []

    def add(self, name: str, result: FrameResult) -> None:
        """Add a task with one prediction."""
        seen = list(segments(result))
        height, width = result.labels.shape
        prediction = {
            "model_version": "nerve-deploy",
            "score": round(float(np.mean([segment.confidence for segment in seen])), 4) if seen else 0.0,
            "result": [_region(segment, number, width, height) for number, segment in enumerate(seen)],
        }
        self._tasks.append({"data": {"image": name}, "predictions": [prediction]})

    def content(self) -> bytes:
        """The JSON file."""
        return (json.dumps(self._tasks, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _region(segment: Segment, number: int, width: int, height: int) -> dict[str, Any]:
    return {
        "id": f"nerve-{number}",
        "type": "brushlabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": segment.confidence,
        "value": {"format": "rle", "rle": list(packed_run_lengths(segment.mask)), "brushlabels": [segment.name]},
    }


def packed_run_lengths(mask: BoolArray) -> bytes:
    """A mask (H, W) as the bytes of rle-pack: blocks of a bit 1, two bits for the width, the length - 1, and the value."""
    flat = mask.ravel()
    ends = np.concatenate([np.flatnonzero(np.diff(flat)) + 1, [flat.size]])
    lengths = np.diff(np.concatenate([[0], ends])) * CHANNELS
    bits = [f"{flat.size * CHANNELS:032b}", f"{8 - 1:05b}", *(f"{width - 1:04b}" for width in LENGTH_BITS)]
    for end, length in zip(ends.tolist(), lengths.tolist(), strict=True):
        value = f"{255 if flat[end - 1] else 0:08b}"
        bits += (_block(part, value) for part in _parts(length))
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def _parts(length: int) -> list[int]:
    """A run in pieces that the widest length can tell."""
    full, rest = divmod(length, LONGEST_RUN)
    return [LONGEST_RUN] * full + ([rest] if rest else [])


def _block(length: int, value: str) -> str:
    index = next(index for index, bits in enumerate(LENGTH_BITS) if length <= 1 << bits)
    return f"1{index:02b}{length - 1:0{LENGTH_BITS[index]}b}{value}"
