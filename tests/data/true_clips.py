"""Videos as they come from phones, cutters, broken muxers and old cameras, each made with ffmpeg in a given folder."""

from collections.abc import Callable
from pathlib import Path

from tests.data.media import make_video, run_ffmpeg

H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")
ODD_HW = (47, 63)


def _odd(folder: Path, name: str = "odd.mp4") -> Path:
    height, width = ODD_HW
    return make_video(folder / name, "-c:v", "libx264", "-pix_fmt", "yuv444p", filters=f"crop={width}:{height}:exact=1")


def _variable_rate(folder: Path) -> Path:
    return make_video(folder / "clip.mp4", *H264, "-fps_mode", "vfr", filters="select='not(mod(n,3))+eq(n,4)'")


def _turned(folder: Path, degrees: int, *, odd: bool = False) -> Path:
    straight = _odd(folder, "straight.mp4") if odd else make_video(folder / "straight.mp4", *H264)
    run_ffmpeg("-display_rotation", degrees, "-i", straight, "-c", "copy", folder / "turned.mp4")
    return folder / "turned.mp4"


def _mirrored(folder: Path) -> Path:
    straight = make_video(folder / "straight.mp4", *H264)
    run_ffmpeg("-display_hflip", "-i", straight, "-c", "copy", folder / "mirrored.mp4")
    return folder / "mirrored.mp4"


def _size_change(folder: Path) -> Path:
    parts = [make_video(folder / f"{height}.h264", *H264, size_hw=(height, 64)) for height in (48, 96)]
    (folder / "joined.h264").write_bytes(b"".join(part.read_bytes() for part in parts))
    return folder / "joined.h264"


def _edit_list(folder: Path) -> Path:
    """Cut without encoding anew: the file holds frames that are not to be shown."""
    long = make_video(folder / "long.mp4", *H264, "-bf", "2", "-g", "10")
    run_ffmpeg("-ss", "0.55", "-i", long, "-c", "copy", folder / "cut.mp4")
    return folder / "cut.mp4"


def _negative_times(folder: Path) -> Path:
    early = ("-output_ts_offset", "-0.75", "-avoid_negative_ts", "disabled")
    return make_video(folder / "early.mkv", *H264, "-bf", "2", *early)


def _backward_times(folder: Path) -> Path:
    """Every fourth presentation time lies before the one of the frame before."""
    straight = make_video(folder / "straight.mkv", *H264, "-bf", "0")
    damage = "setts=pts=if(eq(mod(N\\,4)\\,3)\\,TS-150\\,TS):dts=TS"
    run_ffmpeg("-i", straight, "-c", "copy", "-bsf:v", damage, folder / "backward.nut")
    return folder / "backward.nut"


CLIPS: dict[str, Callable[[Path], Path]] = {
    "b_frames": lambda folder: make_video(folder / "clip.mp4", *H264, "-bf", "3"),
    "variable_rate": _variable_rate,
    "odd": _odd,
    "one_frame": lambda folder: make_video(folder / "clip.mp4", *H264, "-frames:v", "1"),
    "one_pixel": lambda folder: make_video(
        folder / "clip.mkv", "-c:v", "ffv1", "-pix_fmt", "bgr0", filters="scale=1:1"
    ),
    "gray": lambda folder: make_video(folder / "clip.mp4", "-c:v", "libx264", "-pix_fmt", "gray"),
    "gray_10_bit": lambda folder: make_video(folder / "clip.mp4", "-c:v", "libx264", "-pix_fmt", "gray10le"),
    "10_bit": lambda folder: make_video(folder / "clip.mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p10le"),
    "alpha": lambda folder: make_video(folder / "clip.mov", "-c:v", "png", "-pix_fmt", "rgba"),
    "turned": lambda folder: _turned(folder, 90),
    "turned_back": lambda folder: _turned(folder, -90),
    "turned_odd": lambda folder: _turned(folder, 90, odd=True),
    "upside_down": lambda folder: _turned(folder, 180),
    "mirrored": _mirrored,
    "bt709": lambda folder: make_video(
        folder / "clip.mp4", *H264, "-colorspace", "bt709", filters="scale=out_color_matrix=bt709"
    ),
    "size_change": _size_change,
    "interlaced": lambda folder: make_video(
        folder / "clip.mp4", *H264, "-x264-params", "tff=1", seconds=3, filters="interlace"
    ),
    "interlaced_mpeg2": lambda folder: make_video(
        folder / "clip.mpg", "-c:v", "mpeg2video", "-flags", "+ildct+ilme", rate=50, filters="interlace"
    ),
    "edit_list": _edit_list,
    "late_start": lambda folder: make_video(folder / "clip.mp4", *H264, "-bf", "2", "-output_ts_offset", "3"),
    "negative_times": _negative_times,
    "backward_times": _backward_times,
    "no_times": lambda folder: make_video(folder / "clip.h264", *H264, "-bf", "2"),
    "avi_with_b_frames": lambda folder: make_video(folder / "clip.avi", "-c:v", "mpeg4", "-bf", "2"),
    "flv": lambda folder: make_video(folder / "clip.flv", *H264),
    "vp9": lambda folder: make_video(folder / "clip.webm", "-c:v", "libvpx-vp9", "-cpu-used", "8", seconds=1),
    "gif": lambda folder: make_video(folder / "clip.gif", seconds=1),
}
