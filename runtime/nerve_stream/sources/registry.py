"""Which files are videos or frame files, by their suffix; a program registers its own kinds here."""

from collections.abc import Callable
from pathlib import Path

from nerve_runtime import UsageError
from nerve_stream.sources.base import FrameSource
from nerve_stream.sources.images import IMAGE_SUFFIXES

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".flv", ".ogv", ".wmv"}
    | {".mxf", ".dv", ".nut", ".y4m", ".gif", ".apng", ".ivf", ".obu", ".h264", ".264", ".hevc", ".265", ".mjpeg"}
)

SourceOpener = Callable[[Path], FrameSource]
"""Opens a file of a registered suffix."""

_OPENERS: dict[str, SourceOpener] = {}


def register_source(suffix: str, opener: SourceOpener) -> None:
    """Let `open_frames` and `nerve-segment` of this process open files of a suffix of your own.

    Args:
        suffix: with its dot, such as ".npy"; upper and lower case are the same.
        opener: called with the file's path; a `FrameSource` subclass with that `__init__` will do. `start_s`,
            `duration_s` and `every` are applied to the frames it gives. See `nerve_stream.sources.base` for an example.

    Raises:
        UsageError: the suffix has no dot, or is read by another source.
    """
    key = suffix.lower()
    if not (key.startswith(".") and key == Path(f"name{key}").suffix):
        raise UsageError(f"suffix is {suffix!r}, expected a dot and what follows it, such as '.npy'")
    if key in VIDEO_SUFFIXES | IMAGE_SUFFIXES or _OPENERS.setdefault(key, opener) is not opener:
        raise UsageError(f"files ending in {key} are read by another source; choose another suffix")


def registered_opener(path: Path) -> SourceOpener | None:
    """The opener registered for a path's suffix, None if there is none."""
    return _OPENERS.get(path.suffix.lower())


def video_suffixes() -> frozenset[str]:
    """Suffixes of files that are a source of their own: videos, and what was registered."""
    return VIDEO_SUFFIXES | _OPENERS.keys()
