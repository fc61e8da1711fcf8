"""Pixel counts of each picture of a run, kept in a file as they come: a run that was stopped goes on where it was.

The file has a line of JSON for the run and one for each picture that is done. A picture's line is whole or, being the
last, is thrown away; so any moment is a good one to stop, and what was counted is counted once.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nerve_runtime import Labels
from nerve_runtime.atomic import refuse_special, resource_errors
from nerve_runtime.errors import UsageError

Counts = NDArray[np.int64]
RESAMPLES = 2000
INTERVAL_PERCENT = (2.5, 97.5)
BOOTSTRAP_SEED = 8248


def pixel_counts(truth: Labels, found: Labels, classes: int, ignore: int) -> Counts:
    """Rows (true label, found label, pixels), int64 (k, 3), of the pairs that occur in a picture.

    Pixels whose truth is `ignore` are not counted; a found label that is no class counts as label `classes`, wrong
    whatever the truth.

    Args:
        truth: (H, W), below `classes` or `ignore`.
        found: (H, W).
        classes: how many there are.
        ignore: label of pixels that do not count.
    """
    counted = truth != ignore
    pairs = truth[counted].astype(np.int64) * (classes + 1) + np.minimum(found[counted], classes)
    pixels = np.bincount(pairs, minlength=1)
    occurring = np.flatnonzero(pixels)
    return np.stack([occurring // (classes + 1), occurring % (classes + 1), pixels[occurring]], axis=1)


class PixelCountFile:
    """The counts of one run, in a file. A context manager.

    State: the file, and the counts of all pictures in it.

    Args:
        path: the file; made if needed.
        run: what the run is, as JSON values; a file of another run is refused.

    Attributes:
        pictures: counts of each picture by its name.

    Raises:
        UsageError: the file is of another run, damaged, or no regular file.
        ResourceError: it cannot be written.
    """

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        self.path = path
        self.pictures: dict[str, Counts] = {}
        header = json.loads(json.dumps(run))
        refuse_special(path)
        with resource_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = self._read(header) if path.exists() else 0
            self._stream = path.open("ab")
            self._stream.truncate(kept)
        if not kept:
            self._append(header)

    def _read(self, header: dict[str, Any]) -> int:
        """Take over what was counted before; gives how many bytes of the file are whole lines."""
        content = self.path.read_bytes()
        kept = content.rfind(b"\n") + 1
        lines = content[:kept].splitlines()
        if not lines:
            return 0
        try:
            before, *pictures = (json.loads(line) for line in lines)
            self.pictures = {
                picture["picture"]: np.array(picture["pixels"], np.int64).reshape(-1, 3) for picture in pictures
            }
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{self.path} is not what a run left there ({error}); remove it, or add --restart"
            ) from error
        if before != header:
            other = ", ".join(_differences(before, header)) or "the form of the file"
            raise UsageError(
                f"{self.path} was begun by another run, which differs in: {other}; "
                "choose another --out, or add --restart to begin anew"
            )
        return kept

    def add(self, name: str, counts: Counts) -> None:
        """Count a picture, in memory and on disk."""
        self._append({"picture": name, "pixels": counts.tolist()})
        self.pictures[name] = counts

    def _append(self, line: Mapping[str, Any]) -> None:
        with resource_errors(self.path):
            self._stream.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())

    def __enter__(self) -> "PixelCountFile":
        """Return the file itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._stream.close()


def _differences(before: Any, now: Any, where: str = "") -> list[str]:
    """Names of the fields that differ between two JSON values."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [where]
    fields = {**before, **now}
    return [
        name
        for field in fields
        for name in _differences(before.get(field), now.get(field), f"{where}.{field}"[not where :])
    ]


def confusion(pictures: Mapping[str, Counts], classes: int) -> Counts:
    """All pictures in one matrix (classes, classes + 1): truth in rows, the last column what was given no class."""
    total = np.zeros((classes, classes + 1), np.int64)
    for counts in pictures.values():
        np.add.at(total, (counts[:, 0], counts[:, 1]), counts[:, 2])
    return total


def class_iou(matrix: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union of each class in percent, from `confusion`; NaN for a class that is nowhere."""
    hits = np.diag(matrix)
    return _iou(hits, matrix.sum(1) + matrix[:, : len(matrix)].sum(0) - hits)


def interval(draws: NDArray[np.float64]) -> list[float]:
    """The 95 % interval [low, high] of resampled figures."""
    return [round(float(bound), 3) for bound in np.percentile(draws, INTERVAL_PERCENT)]


def resampled_mious(pictures: Mapping[str, Counts], classes: int) -> NDArray[np.float64]:
    """Mean IoU in percent, (2000,), of as many pictures drawn with repetition each time (bootstrap).

    The draws are the same for the same number of pictures: differences of two runs on the same pictures are paired.
    """
    areas = np.zeros((len(pictures), 2, classes))
    for areas_of_one, counts in zip(areas, pictures.values(), strict=True):
        true, found, pixels = counts.T
        hit = true == found
        np.add.at(areas_of_one[0], true[hit], pixels[hit])
        np.add.at(areas_of_one[1], true, pixels)
        np.add.at(areas_of_one[1], found[~hit & (found < classes)], pixels[~hit & (found < classes)])
    times = np.random.default_rng(BOOTSTRAP_SEED).multinomial(
        len(areas), np.full(len(areas), 1 / len(areas)), RESAMPLES
    )
    hits, unions = np.moveaxis((times @ areas.reshape(len(areas), -1)).reshape(RESAMPLES, 2, classes), 1, 0)
    return np.asarray(np.nanmean(_iou(hits, unions), axis=1), np.float64)


def _iou(hits: NDArray[Any], unions: NDArray[Any]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        return np.asarray(100 * hits / unions, np.float64)
