"""Video files made with the ffmpeg binary, and what ffprobe says of their frames."""

import json
import subprocess
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import ffmpeg

PATTERN = "testsrc2=size={width}x{height}:rate={rate}:duration={seconds}"


@dataclass(frozen=True, slots=True)
class Probed:
    """One frame as ffprobe sees it: its time in seconds (None if it knows none) and its stored height and width."""

    time_s: Fraction | None
    size_hw: tuple[int, int]


def run_ffmpeg(*words: object) -> None:
    """Call ffmpeg with these words; its complaint is the error's message."""
    command = [ffmpeg.FFMPEG_PATH, "-v", "error", "-nostdin", "-y", "-bitexact", *map(str, words)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if ended.returncode:
        raise RuntimeError(f"{command}: {ended.stderr}")


def make_video(
    path: Path,
    *words: object,
    size_hw: tuple[int, int] = (48, 64),
    rate: object = 10,
    seconds: object = 2,
    filters: str = "null",
) -> Path:
    """A moving test pattern through filters and with these words for the output, such as a codec."""
    pattern = PATTERN.format(height=size_hw[0], width=size_hw[1], rate=rate, seconds=seconds)
    run_ffmpeg("-f", "lavfi", "-i", pattern, "-vf", filters, "-threads", "1", *words, path)
    return path


def probed(path: Path) -> list[Probed]:
    """Every frame of the first moving picture, in the order in which ffprobe shows them."""
    entries = "frame=best_effort_timestamp_time,width,height"
    command = [ffmpeg.FFPROBE_PATH, "-v", "error", "-select_streams", "v:0", "-show_entries", entries, "-of", "json"]
    ended = subprocess.run([*command, str(path)], capture_output=True, text=True, timeout=120, check=False)
    if not ended.stdout:
        raise RuntimeError(f"ffprobe said nothing of {path}, exit code {ended.returncode}: {ended.stderr}")
    return [
        Probed(
            Fraction(frame["best_effort_timestamp_time"]) if "best_effort_timestamp_time" in frame else None,
            (frame["height"], frame["width"]),
        )
        for frame in json.loads(ended.stdout).get("frames", [])
    ]


def decoded_rgb(path: Path, size_hw: tuple[int, int]) -> bytes:
    """All frames as RGB bytes as the ffmpeg command shows them: upright, none doubled or dropped."""
    command = [ffmpeg.FFMPEG_PATH, "-v", "error", "-nostdin", "-i", str(path), "-fps_mode", "passthrough"]
    command += ["-pix_fmt", "rgb24", "-s", f"{size_hw[1]}x{size_hw[0]}", "-f", "rawvideo", "-"]
    return subprocess.run(command, capture_output=True, timeout=120, check=True).stdout
