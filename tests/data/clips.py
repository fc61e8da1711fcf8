"""Makes small video files, some of them broken on purpose."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

RED, BLUE = (220, 20, 20), (20, 20, 220)


def halves(size_hw: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    """A picture whose left half is red and whose right half is blue."""
    picture = np.empty((*size_hw, 3), dtype=np.uint8)
    picture[:, : size_hw[1] // 2] = RED
    picture[:, size_hw[1] // 2 :] = BLUE
    return picture


def write_clip(
    path: Path,
    frames: int = 6,
    size_hw: tuple[int, int] = (48, 64),
    times_s: Sequence[Fraction] | None = None,
    codec: str = "libx264",
) -> Path:
    """A clip of the same picture, 10 frames a second unless `times_s` says otherwise."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=10)
        stream.height, stream.width = size_hw
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(halves(size_hw), "rgb24")
            time_s = times_s[index] if times_s else Fraction(index, 10)
            frame.pts, frame.time_base = int(time_s * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """A tenth of a second of silence and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turn_by_quarter(path: Path) -> None:
    """Say in an MP4's header that its picture is to be shown turned 90 degrees clockwise, as a phone does."""
    content = bytearray(path.read_bytes())
    one = 0x10000
    straight = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 0x40000000)
    turned = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 0x40000000)
    track = content.index(b"tkhd")
    at = content.index(straight, track)
    content[at : at + len(straight)] = turned
    path.write_bytes(bytes(content))


def damage_middle(path: Path) -> None:
    """Overwrite the middle of a file's picture data, keeping its headers."""
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    length = struct.unpack_from(">I", content, start - 8)[0]
    first, last = start + length // 4, start + length * 3 // 4
    content[first:last] = bytes(last - first)
    path.write_bytes(bytes(content))
