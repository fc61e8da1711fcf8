"""From what a user names to an open source."""

import re
from pathlib import Path

from nerve_runtime import SourceError
from nerve_runtime.images import is_animated_png, looks_like_image
from nerve_stream.redaction import readable, redacted
from nerve_stream.sources.addresses import is_address, parse_address
from nerve_stream.sources.base import FrameSource
from nerve_stream.sources.decoding.inputs import CameraInput
from nerve_stream.sources.images import IMAGE_SUFFIXES, Images, files_ending_in
from nerve_stream.sources.live import open_live
from nerve_stream.sources.options import LiveOptions, Part, Seconds
from nerve_stream.sources.registry import registered_opener, video_suffixes
from nerve_stream.sources.selected import SelectedFrames
from nerve_stream.sources.video_file import VideoFile

SNIFFED_BYTES = 1 << 16
CAMERA_DEVICE = re.compile(r"/dev/video(\d+)")
DEFAULT_LIVE = LiveOptions()


def open_frames(
    source: str | Path | int,
    *,
    allow_partial: bool = False,
    start_s: Seconds = 0.0,
    duration_s: Seconds | None = None,
    every: int = 1,
    live: LiveOptions = DEFAULT_LIVE,
) -> FrameSource:
    """Open a video file, an image, a folder of images, a camera, a stream, or a file of a registered suffix.

    Args:
        source: a path, a camera's number or /dev/videoN, or the URL of a stream (rtsp, rtsps, rtmp, http, https, udp,
            tcp, srt).
        allow_partial: go on with a warning when frames of a video are missing or damaged, instead of a SourceError at
            the end. Damaged pictures of a folder are skipped and counted in any case.
        start_s: seconds after the first frame where to begin; times and indices stay the source's own.
        duration_s: seconds to read from there, None for all; of a live source from its first frame on.
        every: give the first of so many frames; the others are decoded but not converted.
        live: timeouts and patience for cameras and streams.

    Raises:
        SourceError: it does not exist, does not answer, holds no pictures, or is larger than 50 megapixels.
        UsageError: a start behind the end or for a live source, a time or a count that makes no sense.
    """
    part = Part(start_s, duration_s, every)
    try:
        return _opened(source, part, live, allow_partial=allow_partial)
    except OSError as error:
        raise SourceError(
            f"source {redacted(str(source))} cannot be read: {error.strerror or error}; check its path and rights"
        ) from error


def _opened(source: str | Path | int, part: Part, live: LiveOptions, *, allow_partial: bool) -> FrameSource:
    text = str(source)
    if is_address(text):
        return open_live(parse_address(text, live), part, live)
    path = Path(source) if not isinstance(source, int) else None
    if path is None or (text.isdecimal() and not path.exists()):
        return open_live(CameraInput(int(text), live.open_timeout_s, live.read_timeout_s), part, live)
    if (device := CAMERA_DEVICE.fullmatch(text)) is not None:
        return open_live(CameraInput(int(device[1]), live.open_timeout_s, live.read_timeout_s), part, live)
    return _opened_path(path, part, allow_partial=allow_partial)


def _opened_path(path: Path, part: Part, *, allow_partial: bool) -> FrameSource:
    refuse_unreadable(path)
    if path.is_dir():
        return Images(readable(path.name) or "folder", _images_of(path), part)
    opener = registered_opener(path)
    if opener is not None:
        return SelectedFrames(opener(path), part=part)
    if is_picture(path):
        return Images(readable(path.name), [path], part)
    return VideoFile(path, part, allow_partial=allow_partial)


def refuse_unreadable(path: Path) -> None:
    """Refuse what is no file to read frames from, without decoding anything.

    Raises:
        SourceError: it does not exist, is a device or a pipe, is empty, or is a folder without pictures.
    """
    if not path.exists():
        raise SourceError(
            f"source {redacted(str(path))} does not exist; expected a video, an image, a folder of images, "
            "a camera number or the URL of a stream"
        )
    if path.is_dir():
        _images_of(path)
    elif not path.is_file():
        raise SourceError(f"source {path} is a device or pipe, expected a plain file; for a camera give its number")
    elif path.stat().st_size == 0:
        raise SourceError(f"source {path} is empty (0 bytes); copy it again")


def is_picture(path: Path) -> bool:
    """Whether a file is one picture by its first bytes: no video, and no animated PNG."""
    if not path.is_file() or registered_opener(path) is not None:
        return False
    try:
        with path.open("rb") as stream:
            start = stream.read(SNIFFED_BYTES)
    except OSError:  # whoever opens it says why
        return False
    return looks_like_image(start) and not is_animated_png(start)


def _images_of(folder: Path) -> list[Path]:
    paths = files_ending_in(IMAGE_SUFFIXES, folder)
    if paths:
        return paths
    videos = len(files_ending_in(video_suffixes(), folder))
    instead = f"; it holds {videos} videos, which are sources of their own: name them" if videos else ""
    raise SourceError(
        f"folder {folder} holds no image, expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}{instead}"
    )
