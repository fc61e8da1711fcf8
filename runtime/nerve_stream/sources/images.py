"""Images and folders of images as sources."""

import logging
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nerve_runtime import Frame, SourceError
from nerve_runtime.opencv import cv2
from nerve_stream.sources.base import FrameSource
from nerve_stream.sources.image_header import IMAGE_KINDS, image_size_hw, picture_count
from nerve_stream.sources.limits import refuse_too_large
from nerve_stream.sources.options import Part

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
IMAGE_FILE_LIMIT_BYTES = 500_000_000
IMAGES_PER_SECOND = 25  # pictures of a folder carry no time; they are counted as frames of an ordinary video

logger = logging.getLogger("nerve_runtime")


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode an image file to RGB uint8 (H, W, 3), upright; its size is checked before anything is decoded.

    Samples of 16 bit are divided by 256, grey becomes three equal channels, transparency is dropped.

    Raises:
        SourceError: it is no PNG, JPEG, BMP, WebP or TIFF image, is damaged, holds several pictures, or has more than
            50 megapixels.
    """
    try:
        if path.stat().st_size > IMAGE_FILE_LIMIT_BYTES:
            raise SourceError(f"image {path} is {path.stat().st_size} bytes, expected at most {IMAGE_FILE_LIMIT_BYTES}")
        content = path.read_bytes()
    except OSError as error:
        raise SourceError(f"image {path} cannot be read: {error.strerror or error}; check its rights") from error
    size_hw = image_size_hw(content)
    if size_hw is None:
        raise SourceError(f"image {path} is no {IMAGE_KINDS} image, or is cut off in its header")
    refuse_too_large(f"image {path}", size_hw)
    buffer = np.frombuffer(content, dtype=np.uint8)
    try:
        bgr = cv2.imdecode(buffer, cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise SourceError(f"image {path} cannot be decoded: {error.err}") from error
    if bgr is None:
        raise SourceError(
            f"image {path} cannot be decoded: its data are damaged, or its samples are not of 8 or 16 bit; "
            "copy it again, or convert it"
        )
    pictures = picture_count(content)
    if pictures > 1:
        raise SourceError(
            f"image {path} holds {pictures} pictures, expected one; save each as a file, or all as a video or animated PNG"
        )
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


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
