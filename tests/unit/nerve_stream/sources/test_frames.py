import io
import logging
import os
import resource
import struct
import subprocess
import sys
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from nerve_runtime.errors import SourceError, UsageError
from nerve_runtime.frames import Frame, resize_frame
from nerve_runtime.images import read_image, reading
from nerve_stream.sources import images
from nerve_stream.sources.images import Picture
from nerve_stream.sources.opening import open_frames
from nerve_stream.sources.options import Part
from nerve_stream.sources.video_file import VideoFile
from tests.data.clips import BLUE, RED, damage_middle, halves, turn_by_quarter, write_clip, write_sound

CODEC_TOLERANCE = 6  # H.264 at its default quality moves a flat colour by a few steps


def write_image(path: Path, rgb: np.ndarray[Any, Any]) -> Path:
    assert cv2.imwrite(str(path), rgb[..., ::-1])
    return path


def test_a_video_gives_rgb_frames_in_order_with_its_own_times(tmp_path: Path) -> None:
    times_s = [Fraction(0), Fraction(1, 10), Fraction(1, 2), Fraction(7, 10)]
    with open_frames(write_clip(tmp_path / "clip.mp4", 4, times_s=times_s)) as source:
        assert (source.count, source.size_hw, source.name) == (4, (48, 64), "clip.mp4")
        got = list(source)
    assert [frame.index for frame in got] == [0, 1, 2, 3]
    assert [frame.time_s for frame in got] == times_s
    np.testing.assert_allclose(got[2].rgb[24, 8], RED, atol=CODEC_TOLERANCE)
    np.testing.assert_allclose(got[2].rgb[24, 56], BLUE, atol=CODEC_TOLERANCE)


def test_a_phone_video_is_turned_upright(tmp_path: Path) -> None:
    turn_by_quarter(write_clip(tmp_path / "clip.mp4", 2))
    with open_frames(tmp_path / "clip.mp4") as source:
        assert source.size_hw == (64, 48)
        rgb = next(iter(source)).rgb
    np.testing.assert_allclose(rgb[8, 24], RED, atol=CODEC_TOLERANCE)  # left became top: clockwise
    np.testing.assert_allclose(rgb[56, 24], BLUE, atol=CODEC_TOLERANCE)


def test_a_change_of_size_within_a_stream_is_seen(tmp_path: Path) -> None:
    parts = [write_clip(tmp_path / f"{n}.mjpeg", 2, size, codec="mjpeg") for n, size in enumerate([(48, 64), (64, 80)])]
    joined = tmp_path / "joined.mjpeg"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    source = VideoFile(joined, Part(), allow_partial=False)  # by its bytes it would be taken for a picture
    assert [frame.rgb.shape[:2] for frame in source] == [(48, 64)] * 2 + [(64, 80)] * 2


def broken_sources(folder: Path) -> dict[str, tuple[Path, str]]:
    whole = write_clip(folder / "whole.mp4", 3).read_bytes()
    contents = {
        "empty.mp4": (b"", r"is empty \(0 bytes\)"),
        "text.mp4": (b"hello world " * 200, "is no video that can be read"),
        "text.txt": (b"hello world\n" * 200, "is a text, a playlist or another kind that is not read"),
        "cut.mp4": (whole[: len(whole) // 2], "is no video that can be read, or is cut off"),
        "list.m3u8": (
            b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nwhole.mp4\n",
            "is a text, a playlist or another kind",
        ),
        "cut.png": (b"\x89PNG\r\n\x1a\n\0\0", "is no PNG, JPEG, BMP, WebP or TIFF image, or is cut off in its header"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    empty = folder / "folder"
    empty.mkdir()
    reasons = {name: (folder / name, reason) for name, (_, reason) in contents.items()}
    return reasons | {
        "sound": (write_sound(folder / "sound.wav"), "holds no moving picture"),
        "folder": (empty, "holds no image, expected files ending in"),
        "null": (Path("/dev/null"), "is a device or pipe"),
        "none": (folder / "none.mp4", "does not exist"),
    }


KINDS = ("empty.mp4", "text.mp4", "text.txt", "cut.mp4", "list.m3u8", "cut.png", "sound", "folder", "null", "none")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_video_is_refused_for_its_own_reason(tmp_path: Path, kind: str) -> None:
    path, reason = broken_sources(tmp_path)[kind]
    with pytest.raises(SourceError, match=reason):
        open_frames(path)


def test_a_damaged_video_ends_in_an_error_with_both_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    damage_middle(write_clip(tmp_path / "clip.mp4", 30, codec="mpeg4"))
    seen: list[Frame] = []
    source = open_frames(tmp_path / "clip.mp4")
    with pytest.raises(SourceError, match=r"is damaged: \d+ frames decoded, 30 declared, \d+ packets") as refused:
        seen.extend(source)
    assert 0 < len(seen) < 30
    assert f"{len(seen)} frames decoded" in str(refused.value)
    assert "is damaged near frame" in caplog.text


def test_a_damaged_video_may_be_kept_in_part(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    damage_middle(write_clip(tmp_path / "clip.mp4", 30, codec="mpeg4"))
    with caplog.at_level(logging.WARNING):
        seen = list(open_frames(tmp_path / "clip.mp4", allow_partial=True))
    assert 0 < len(seen) < 30
    assert "30 declared" in caplog.text


def test_a_video_of_which_nothing_decodes_is_refused_at_once(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 5, codec="mpeg4")
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    content[start : start + struct.unpack_from(">I", content, start - 8)[0] - 8] = bytes(
        struct.unpack_from(">I", content, start - 8)[0] - 8
    )
    path.write_bytes(bytes(content))
    with pytest.raises(SourceError, match="is damaged: 0 frames decoded of 5"):
        open_frames(path)


def test_a_source_is_read_once(tmp_path: Path) -> None:
    source = open_frames(write_clip(tmp_path / "clip.mp4", 2))
    assert len(list(source)) == 2
    with pytest.raises(UsageError, match=r"clip\.mp4 was read or closed already"):
        iter(source)
    source.close()


def test_a_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        write_image(tmp_path / f"frame_{number}.png", np.full((4, 5, 3), number, dtype=np.uint8))
    (tmp_path / "notes.txt").write_text("not a picture", encoding="utf-8")
    with open_frames(tmp_path) as source:
        assert (source.count, source.size_hw, source.fps) == (3, (4, 5), Fraction(25))
        got = list(source)
    assert [int(frame.rgb[0, 0, 0]) for frame in got] == [1, 2, 10]
    assert [frame.time_s for frame in got] == [0, Fraction(1, 25), Fraction(2, 25)]


def test_a_damaged_picture_of_a_folder_is_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "13":
        write_image(tmp_path / f"{name}.png", halves())
    (tmp_path / "2.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    source = open_frames(tmp_path)
    assert [(frame.index, frame.path.name) for frame in source if isinstance(frame, Picture)] == [
        (0, "1.png"),
        (2, "3.png"),
    ]
    assert source.skipped == 1
    assert "skipped: image" in caplog.text
    (tmp_path / "1.png").unlink()
    (tmp_path / "3.png").unlink()
    with pytest.raises(SourceError, match=r"2\.png cannot be decoded"):
        open_frames(tmp_path)
    (tmp_path / "1.png").write_bytes((tmp_path / "2.png").read_bytes())
    with pytest.raises(SourceError, match="holds no image that can be decoded, of 2"):
        open_frames(tmp_path)


def test_an_image_is_a_source_of_one_frame(tmp_path: Path) -> None:
    picture = halves()
    (frame,) = open_frames(str(write_image(tmp_path / "picture.png", picture)))
    np.testing.assert_array_equal(frame.rgb, picture)
    assert (frame.index, frame.time_s) == (0, Fraction(0))


def png_of(width: int, height: int) -> bytes:
    """A black 1-bit PNG, small whatever its size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    row = bytes(1 + (width + 7) // 8)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    packed, squeeze = io.BytesIO(), zlib.compressobj(9)
    for _ in range(height):
        packed.write(squeeze.compress(row))
    packed.write(squeeze.flush())
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed.getvalue()) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png_of(16_000, 16_000))
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SourceError, match="is 16000 x 16000 pixels, expected at most 50000000 in all"):
        open_frames(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 100_000


DECODE_THE_BOMB = """
import sys, numpy
from nerve_runtime.opencv import cv2
cv2.imdecode(numpy.fromfile(sys.argv[1], dtype=numpy.uint8), cv2.IMREAD_COLOR)
"""


def test_opencv_itself_refuses_the_bomb_too(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_of(16_000, 4_000))
    # In a process of its own: OpenCV reads its limit once, when it is imported first.
    environment = {**os.environ, "PYTHONPATH": str(Path(images.__file__).parents[2])}
    environment.pop("OPENCV_IO_MAX_IMAGE_PIXELS", None)
    command = [sys.executable, "-c", DECODE_THE_BOMB, str(tmp_path / "bomb.png")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "CV_IO_MAX_IMAGE_PIXELS" in ended.stderr


def test_an_image_file_may_not_be_endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "IMAGE_FILE_LIMIT_BYTES", 10)
    with pytest.raises(SourceError, match="expected at most 10"):
        read_image(write_image(tmp_path / "picture.png", halves()))


def test_shrinking_averages_and_growing_interpolates() -> None:
    checks = np.kron(np.indices((4, 4)).sum(axis=0) % 2, np.ones((1, 1)))[..., None].repeat(3, axis=2) * 200
    assert (resize_frame(checks.astype(np.uint8), (2, 2)) == 100).all()
    ramp = resize_frame(np.array([[[0] * 3, [100] * 3]], dtype=np.uint8), (1, 4))
    assert ramp[0, :, 0].tolist() == [0, 25, 75, 100]


def test_an_axis_that_shrinks_is_averaged_while_the_other_grows() -> None:
    stripes = np.zeros((1, 8, 3), dtype=np.uint8)
    stripes[:, ::2] = 200
    assert (resize_frame(stripes, (3, 4)) == 100).all()
    assert resize_frame(stripes, (1, 8)) is stripes


@pytest.mark.parametrize("suffix", [".tif", ".tiff"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiff_pictures_are_read_and_16_bit_becomes_8(
    suffix: str, dtype: type[np.unsignedinteger[Any]], channels: int, tmp_path: Path
) -> None:
    path = tmp_path / f"picture{suffix}"
    values = np.arange(12, dtype=dtype).reshape(3, 4) * (20 if dtype is np.uint8 else 5000)
    bgr = values if channels == 1 else np.dstack([values, values // 2, values // 3])
    assert cv2.imwrite(str(path), bgr)
    with open_frames(path) as frames:
        rgb = next(iter(frames)).rgb
    in_8_bit = bgr if dtype is np.uint8 else bgr / 256
    expected = np.dstack([in_8_bit] * 3) if channels == 1 else in_8_bit[..., ::-1]
    np.testing.assert_allclose(rgb, expected, atol=0 if dtype is np.uint8 else 1)  # OpenCV cuts grey and rounds colour


def test_a_picture_of_float_samples_is_refused_with_what_to_do(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "depth.tif"), np.zeros((4, 4), dtype=np.float32))
    with pytest.raises(SourceError, match=r"samples are not of 8 or 16 bit; copy it again, or convert it"):
        read_image(tmp_path / "depth.tif")


def animated(path: Path) -> Path:
    pictures = [Image.fromarray(np.full((8, 10, 3), level, dtype=np.uint8)) for level in (10, 120, 240)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100)
    return path


def test_an_animated_png_gives_all_its_frames(tmp_path: Path) -> None:
    with open_frames(animated(tmp_path / "moving.png")) as frames:
        levels = [(frame.index, int(frame.rgb.mean())) for frame in frames]
    assert levels == [(0, 10), (1, 120), (2, 240)]


@pytest.mark.parametrize("name", ["moving.webp", "pages.tif"])
def test_other_pictures_in_one_file_are_refused_with_what_to_do(name: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"holds 3 pictures, expected one; save each as a file, or all as a video"):
        read_image(animated(tmp_path / name))
