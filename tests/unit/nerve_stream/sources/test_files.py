"""Video files made with ffmpeg: counts and times agree with ffprobe, pixels with ffmpeg, parts with the whole."""

import random
import threading
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from nerve_runtime.errors import SourceError, UsageError
from nerve_runtime.frames import Frame
from nerve_stream.sources.opening import open_frames
from nerve_stream.sources.pictures import Timestamps
from tests.data.media import decoded_rgb, make_video, probed, run_ffmpeg
from tests.data.true_clips import CLIPS
from tests.unit.nerve_stream.sources.test_frames import write_image

H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")
WITHIN_S = Fraction(1, 1000)
SEEKABLE: dict[str, tuple[object, ...]] = {
    "b_frames.mp4": (*H264, "-bf", "3", "-g", "20"),
    "open_gop.mkv": (*H264, "-bf", "2", "-g", "25", "-x264-params", "open-gop=1"),
    "stream.ts": (*H264, "-bf", "2", "-g", "30"),
    "raw.h264": (*H264, "-bf", "2", "-g", "15"),
    "packed.avi": ("-c:v", "mpeg4", "-bf", "2", "-g", "12"),
    "late.mp4": (*H264, "-output_ts_offset", "5", "-g", "20"),
}


@pytest.mark.parametrize("kind", CLIPS)
def test_frames_times_and_sizes_are_those_of_ffprobe(tmp_path: Path, kind: str) -> None:
    path = CLIPS[kind](tmp_path)
    expected = probed(path)
    frames = list(open_frames(path, allow_partial=True))
    assert len(expected) > 1 or kind == "one_frame"
    assert len(frames) == len(expected)
    assert [frame.index for frame in frames] == list(range(len(frames)))
    known = [
        (frame.time_s, told.time_s) for frame, told in zip(frames, expected, strict=True) if told.time_s is not None
    ]
    assert all(abs(time_s - told_s) <= WITHIN_S for time_s, told_s in known)
    turned = kind in {"turned", "turned_odd", "turned_back"}
    shown = [frame.rgb.shape[1::-1] if turned else frame.rgb.shape[:2] for frame in frames]
    assert shown == [told.size_hw for told in expected]


@pytest.mark.parametrize(
    "kind",
    [
        "variable_rate",
        "odd",
        "gray",
        "gray_10_bit",
        "alpha",
        "turned",
        "turned_odd",
        "upside_down",
        "mirrored",
        "bt709",
    ],
)
def test_pixels_are_those_of_ffmpeg_upright(tmp_path: Path, kind: str) -> None:
    path = CLIPS[kind](tmp_path)
    frames = np.stack([frame.rgb for frame in open_frames(path)])
    expected = np.frombuffer(decoded_rgb(path, frames.shape[1:3]), dtype=np.uint8).reshape(frames.shape)
    # The libraries are of different versions; a step of rounding is all they may differ by.
    np.testing.assert_allclose(frames.astype(int), expected, atol=1)


def test_ten_bits_are_rounded_to_eight(tmp_path: Path) -> None:
    eight = make_video(tmp_path / "8.mkv", "-c:v", "ffv1", "-pix_fmt", "yuv444p", filters="gblur=8")
    ten = make_video(tmp_path / "10.mkv", "-c:v", "ffv1", "-pix_fmt", "yuv444p10le", filters="gblur=8")
    pairs = zip(open_frames(eight), open_frames(ten), strict=True)
    assert max(np.abs(one.rgb.astype(int) - other.rgb).max() for one, other in pairs) <= 4


def whole(path: Path) -> list[Frame]:
    return list(open_frames(path, allow_partial=True))


def same(got: list[Frame], wanted: list[Frame]) -> bool:
    """Equal in number, time, index and every pixel."""
    return [(frame.index, frame.time_s) for frame in got] == [(frame.index, frame.time_s) for frame in wanted] and all(
        (one.rgb == other.rgb).all() for one, other in zip(got, wanted, strict=True)
    )


@pytest.mark.parametrize("name", SEEKABLE)
def test_a_part_is_that_part_of_the_whole(tmp_path: Path, name: str) -> None:
    path = make_video(tmp_path / name, *SEEKABLE[name], rate=25, seconds=4)
    frames, source_of_chance = whole(path), random.Random(1)
    for _ in range(6):
        start_s = Fraction(source_of_chance.randrange(3900), 1000)
        begin_s = frames[0].time_s + start_s
        wanted = [frame for frame in frames if begin_s <= frame.time_s < begin_s + Fraction(1, 2)]
        part = list(open_frames(path, start_s=start_s, duration_s=0.5, allow_partial=True))
        assert same(part, wanted), start_s


@pytest.mark.parametrize("name", SEEKABLE)
def test_a_seek_goes_to_the_very_frame(tmp_path: Path, name: str) -> None:
    path = make_video(tmp_path / name, *SEEKABLE[name], rate=25, seconds=4)
    frames, source_of_chance = whole(path), random.Random(2)
    with open_frames(path, allow_partial=True) as source:
        reading = iter(source)
        for _ in range(8):
            time_s = frames[0].time_s + Fraction(source_of_chance.randrange(3800), 1000)
            source.seek(time_s)
            wanted = [frame for frame in frames if frame.time_s >= time_s][:2]
            assert same([next(reading), next(reading)], wanted), time_s


def test_a_seek_before_the_first_frame_and_behind_the_last(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", *H264)
    with open_frames(path, start_s=1) as source:
        source.seek(Fraction(0))
        assert next(iter(source)).time_s == 1  # no frame before the wanted part
    with open_frames(path) as source:
        source.seek(Fraction(100))
        assert list(source) == []


def test_every_third_frame_keeps_its_index_and_time(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", *H264, "-bf", "2")
    frames = whole(path)
    assert same(list(open_frames(path, every=3)), frames[::3])
    assert same(list(open_frames(path, start_s=0.5, every=3)), frames[5::3])


def test_a_folder_has_parts_too(tmp_path: Path) -> None:
    for number in range(10):
        write_image(tmp_path / f"{number}.png", np.full((4, 5, 3), number, dtype=np.uint8))
    frames = whole(tmp_path)
    assert same(list(open_frames(tmp_path, start_s=0.04, duration_s=0.2, every=2)), frames[1:6:2])
    with pytest.raises(UsageError, match=r"start 0\.4 s lies behind the end of .*, which is 0\.400 s long"):
        open_frames(tmp_path, start_s=0.4)
    with open_frames(tmp_path) as source, pytest.raises(UsageError, match=r"is no video file, .* cannot be sought"):
        source.seek(Fraction(0))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"start_s": -1}, "start is -1 s, expected a number of seconds of at least 0"),
        ({"start_s": float("inf")}, "start is inf s"),
        ({"duration_s": 0}, "duration is 0 s, expected a number of seconds above 0"),
        ({"duration_s": float("nan")}, "duration is nan s"),
        ({"every": 0}, "every is 0, expected a whole number of frames of at least 1"),
        ({"every": 1.5}, "every is 1.5"),
        ({"every": True}, "every is True"),
        ({"start_s": 9}, r"start 9 s lies behind the end of clip\.mp4, which is 1\.900 s long"),
    ],
)
def test_a_senseless_part_is_refused(tmp_path: Path, asked: dict[str, float], expected: str) -> None:
    path = make_video(tmp_path / "clip.mp4", *H264)
    with pytest.raises(UsageError, match=expected):
        open_frames(path, **asked)  # type: ignore[arg-type]


def times_of(*stamps: tuple[int | None, int | None]) -> list[Fraction | None]:
    """What Times makes of pictures with these presentation and packet times, in tenths of a second."""
    times = Timestamps()
    pictures = [SimpleNamespace(pts=shown, dts=packet, time_base=Fraction(1, 10)) for shown, packet in stamps]
    return [ticks_s and ticks_s * 10 for ticks_s in map(times.time_s, pictures)]


def test_of_two_times_the_one_that_goes_backwards_less_is_taken() -> None:
    assert times_of((1, 9), (2, 9), (3, 9)) == [1, 2, 3]
    assert times_of((9, 1), (9, 2), (9, 3)) == [9, 2, 3]
    assert times_of((None, 1), (None, 2)) == [1, 2]
    assert times_of((3, None), (None, None), (4, None)) == [3, None, 4]
    assert times_of((5, 5), (4, 6), (3, None)) == [5, 6, None]  # the last frames of AVI: worse than no time


@pytest.mark.parametrize("kind", ["cut.mp4", "cut.mkv"])
def test_a_file_that_was_cut_gives_what_ffprobe_finds_and_says_so(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    words = ("-movflags", "faststart") if kind == "cut.mp4" else ()
    path = make_video(tmp_path / kind, *H264, *words, seconds=6)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    expected = probed(path)
    frames = list(open_frames(path, allow_partial=True))
    assert 5 < len(frames) == len(expected) < 60
    assert all(
        abs(frame.time_s - told.time_s) <= WITHIN_S for frame, told in zip(frames, expected, strict=True) if told.time_s
    )
    assert kind == "cut.mkv" or "60 declared" in caplog.text


def test_a_picture_of_256_megapixels_is_refused_by_its_header(tmp_path: Path) -> None:
    header = "YUV4MPEG2 W16000 H16000 F25:1 Ip A1:1 Cmono\nFRAME\n"
    (tmp_path / "huge.y4m").write_bytes(header.encode() + bytes(1000))
    with pytest.raises(SourceError, match="is 16000 x 16000 pixels, expected at most 50000000 in all"):
        open_frames(tmp_path / "huge.y4m")


@pytest.mark.parametrize(("rate", "fps"), [("1000000:1", None), ("25:1", 25), ("0:0", 25), ("-25:1", 25)])
def test_a_nonsense_rate_is_not_believed(tmp_path: Path, rate: str, fps: int | None) -> None:
    frame = b"FRAME\n" + bytes(48 * 64)
    (tmp_path / "clip.y4m").write_bytes(f"YUV4MPEG2 W64 H48 F{rate} Ip A1:1 Cmono\n".encode() + frame * 3)
    with open_frames(tmp_path / "clip.y4m") as source:
        assert source.fps == fps
        assert len(list(source)) == 3


def test_closing_from_another_thread_ends_the_reading(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", *H264, seconds=20)
    source = open_frames(path)
    seen: list[Frame] = []
    first = threading.Event()

    def read() -> None:
        for frame in source:
            seen.append(frame)
            first.set()
            time.sleep(0.02)  # all 200 would take 4 s, and closing comes first on a busy machine too

    reader = threading.Thread(target=read)
    reader.start()
    first.wait(10)
    source.close()
    reader.join(3)
    assert not reader.is_alive()
    assert (0 < len(seen) < 200, source.state) == (True, "ended")


def resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def growth_while_reading(path: Path) -> tuple[int, int]:
    """Frames read, and bytes by which memory in use grew from the 300th frame to the end."""
    start_bytes, last = 0, 0
    for frame in open_frames(path):
        last = frame.index
        if last == 300:
            start_bytes = resident_bytes()
    return last + 1, resident_bytes() - start_bytes


@pytest.mark.slow
def test_ten_minutes_of_720p_are_read_in_constant_memory(tmp_path: Path) -> None:
    short = make_video(tmp_path / "short.mp4", *H264, "-preset", "ultrafast", size_hw=(720, 1280), rate=5, seconds=10)
    run_ffmpeg("-stream_loop", 59, "-i", short, "-c", "copy", tmp_path / "long.mp4")
    frames, grown_bytes = growth_while_reading(tmp_path / "long.mp4")
    assert frames == 3000
    assert grown_bytes < 8_000_000  # three frames; a leak of one frame in a hundred would be 75 MB
