"""What video files and streams have in common: finding the moving picture, its frames' pixels and times."""

from fractions import Fraction
from typing import Any

import av.error
import numpy as np
from av.sidedata.sidedata import Type
from av.stream import Disposition
from numpy.typing import NDArray

from nerve_runtime import SourceError
from nerve_runtime.images import refuse_too_large
from nerve_runtime.opencv import IMAGE_PIXELS_LIMIT

# An allow-list: playlists name other files, and a live one makes opening wait for ever; even plain text has a demuxer.
# The last five hold sound only and are opened to say so.
READ_FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,av1,obu,ivf,mjpeg,flv,ogg,asf,mxf,dv,nut,yuv4mpegpipe,"
    "gif,apng,wav,mp3,flac,aac,aiff"
)
FASTEST_FPS = 1000  # a header that declares more is not believed
UNKNOWN_FPS = Fraction(25)  # for pictures without a time in a source without a rate


def picture_stream(container: Any, where: str) -> Any:
    """The first moving picture of an opened container, told never to decode more than 50 megapixels.

    Raises:
        SourceError: it holds none, or its header declares more than that.
    """
    if not container.streams:
        raise SourceError(f"{where} is no video that can be read, or is cut off: it holds no stream")
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise SourceError(f"{where} holds no moving picture ({len(container.streams)} other streams)")
    stream = streams[0]
    refuse_too_large(where, (stream.height, stream.width))
    if stream.codec_context is None:
        raise SourceError(f"{where} holds a moving picture of a kind that this build of FFmpeg cannot decode")
    stream.codec_context.options = {"max_pixels": str(IMAGE_PIXELS_LIMIT)}
    return stream


def declared_fps(stream: Any) -> Fraction | None:
    """Frames a second on average as the container says, None where it says nothing or nonsense."""
    rate = stream.average_rate
    return Fraction(rate) if rate is not None and 0 < rate <= FASTEST_FPS else None


class Timestamps:
    """Presentation times of decoded pictures in seconds, by the source's own clock.

    A picture has two: the one it should be shown at, and that of its packet. AVI knows no other than the second; a broken
    muxer writes nonsense for either. So that of the two is taken which has gone backwards less often so far. That is
    what FFmpeg calls the best effort timestamp, and what ffprobe and players show.
    """

    def __init__(self) -> None:
        self._faulty_shown = self._faulty_packet = 0
        self.begin_again()

    def begin_again(self) -> None:
        """Forget the last picture, after a seek."""
        self._last_shown: int | None = None
        self._last_packet: int | None = None
        self._last_given: int | None = None

    def time_s(self, picture: Any) -> Fraction | None:
        """The time of the next picture, None where there is none; ask once for each."""
        shown, packet = picture.pts, picture.dts
        self._faulty_packet += _not_after(packet, self._last_packet)
        self._faulty_shown += _not_after(shown, self._last_shown)
        self._last_packet = packet if packet is not None else _either(shown, self._last_packet)
        self._last_shown = shown if shown is not None else _either(packet, self._last_shown)
        trusted = shown is not None and (packet is None or self._faulty_shown <= self._faulty_packet)
        if packet is None and self._faulty_shown > self._faulty_packet and _not_after(shown, self._last_given):
            return None  # the last frames of such a file, for which no packet is left
        ticks = shown if trusted else packet
        self._last_given = _either(ticks, self._last_given)
        return ticks * picture.time_base if ticks is not None and picture.time_base else None


def _not_after(ticks: int | None, last: int | None) -> bool:
    return ticks is not None and last is not None and ticks <= last


def _either(ticks: int | None, last: int | None) -> int | None:
    return ticks if ticks is not None else last


class RgbConverter:
    """Makes the decoded pictures of one source RGB, turned and mirrored by quarter turns as they are to be shown.

    The matrix that says how is looked up once for each angle: PyAV's frame and its table of side data hold each other,
    and 720p pictures then lay in memory by the hundred until Python looked for such circles, 340 MB instead of 3.
    """

    def __init__(self) -> None:
        self._matrices: dict[int, NDArray[np.int32] | None] = {}

    def rgb(self, picture: Any, where: str) -> NDArray[np.uint8]:
        """Pixels (H, W, 3).

        Args:
            picture: as PyAV decoded it.
            where: the picture in words, for a message.

        Raises:
            SourceError: it is larger than 50 megapixels, or its pixels are of a kind that cannot be made RGB.
        """
        refuse_too_large(where, (picture.height, picture.width))
        try:
            rgb = picture.to_ndarray(format="rgb24")
        except (av.error.FFmpegError, ValueError) as error:
            raise SourceError(
                f"{where} has pixels of the kind {picture.format.name}, no RGB can be made of it"
            ) from error
        matrix = self._matrix(picture)
        return np.ascontiguousarray(rgb if matrix is None else _displayed(rgb, matrix))

    def _matrix(self, picture: Any) -> NDArray[np.int32] | None:
        angle = picture.rotation
        if angle not in self._matrices:
            content = picture.side_data.get(Type.DISPLAYMATRIX)
            self._matrices[angle] = None if content is None else np.frombuffer(bytes(content), dtype=np.int32)
        return self._matrices[angle]


def _displayed(rgb: NDArray[np.uint8], matrix: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Apply a display matrix: nine fixed-point numbers, (x, y) goes to (m0 x + m3 y, m1 x + m4 y).

    Source: ISO/IEC 14496-12, section 6.2.2.
    """
    x_of_x, y_of_x, _, x_of_y, y_of_y = (int(number) for number in matrix[:5])
    if abs(x_of_y) > abs(x_of_x):
        rgb, x_of_x, y_of_y = rgb.swapaxes(0, 1), x_of_y, y_of_x
    rgb = rgb[:, ::-1] if x_of_x < 0 else rgb
    return rgb[::-1] if y_of_y < 0 else rgb
