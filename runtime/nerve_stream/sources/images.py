"""Images and folders of images as sources."""

import logging
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from nerve_runtime import Frame, SourceError
from nerve_runtime.images import read_image
from nerve_stream.sources.base import FrameSource
from nerve_stream.sources.options import Part

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
IMAGES_PER_SECOND = 25  # pictures of a folder carry no time; they are counted as frames of an ordinary video

logger = logging.getLogger("nerve_runtime")


def files_ending_in(suffixes: frozenset[str], folder: Path) -> list[Path]:
    """The files of a folder that end in one of the suffixes, in natural order."""
    paths = [path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.is_file()]
    return sorted(paths, key=natural_order)


def natural_order(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sort key that puts frame_2 before frame_10."""
    parts = re.split(r"(\d+)", path.name.casefold())
    numbered = [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
    return numbered, path.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture(Frame):
    """A frame that is an image file of its own.

    Attributes:
        path: the file.
        stem: name for what is made of it, without suffix: the file's own name, or the whole name where files of the
            folder differ in their suffix alone.
    """

    path: Path
    stem: str


class Images(FrameSource):
    """Pictures of files, 25 a second; `index` is the picture's number in the folder, a damaged one has its own too.

    A damaged picture of several is skipped, with a warning in the log, and counted in `skipped`.

    Raises:
        SourceError: none of them can be decoded.
        UsageError: the part starts behind the last picture.
    """

    _closed = False

    def __init__(self, name: str, paths: list[Path], part: Part) -> None:
        self.name = name
        self.fps = Fraction(IMAGES_PER_SECOND)
        first, behind = _range_of(part, len(paths))
        if first >= len(paths):
            raise part.refuse_beyond(name, Fraction(len(paths), IMAGES_PER_SECOND))
        stems = output_stems(paths)
        self._paths = list(zip(paths, stems, strict=True))[first:behind]
        self._first_index, self._every = first, part.every
        self.count = math.ceil(len(self._paths) / part.every)
        self._pictures = self._readable()
        frame = next(self._pictures, None)
        if frame is None:
            raise SourceError(f"source {name} holds no image that can be decoded, of {len(self._paths)}")
        self._first = frame
        self.size_hw = (frame.rgb.shape[0], frame.rgb.shape[1])

    def _readable(self) -> Iterator[Frame]:
        for number, (path, stem) in enumerate(self._paths[:: self._every]):
            if self._closed:
                return
            index = self._first_index + number * self._every
            try:
                rgb = read_image(path)
            except SourceError as error:
                if len(self._paths) == 1:
                    raise
                logger.warning("skipped: %s", error)
                self.skipped += 1
                continue
            yield Picture(rgb, index, Fraction(index, IMAGES_PER_SECOND), path=path, stem=stem)

    def read_frames(self) -> Iterator[Frame]:
        """Give the pictures in order; see FrameSource."""
        yield self._first
        yield from self._pictures

    def close(self) -> None:
        """Read no further picture."""
        super().close()
        self._closed = True


def output_stems(paths: list[Path]) -> list[str]:
    """Names for what is made of each file of one folder, without suffix, all different.

    >>> output_stems([Path("a.jpg"), Path("b.jpg"), Path("b.png")])
    ['a', 'b.jpg', 'b.png']
    """
    times = Counter(path.stem.casefold() for path in paths)
    stems = [path.name if times[path.stem.casefold()] > 1 else path.stem for path in paths]
    unique = len({stem.casefold() for stem in stems}) == len(stems)
    return stems if unique else [path.name for path in paths]


def _range_of(part: Part, count: int) -> tuple[int, int]:
    """Numbers of the first wanted picture and of the one behind the last."""
    first = math.ceil(part.begin_s * IMAGES_PER_SECOND)
    if part.length_s is None:
        return first, count
    return first, math.ceil((part.begin_s + part.length_s) * IMAGES_PER_SECOND)
