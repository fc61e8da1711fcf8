"""A ten-minute 720p file through nerve-segment: memory has to stay level, and SIGTERM has to leave a playable overlay.

Makes the file with the ffmpeg binary, runs the command as a user does, and prints one JSON line for each of two runs.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import ffmpeg
import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
MEBIBYTE = 2**20
GROWTH_LIMIT_MIB = 30.0
"""Of ten minutes: the index of the overlay's MP4 takes 1.5 MB, the rest is the decoder's and the allocator's noise."""
WARM_SHARE = 0.2
WINDOW_SHARE = 0.1
SAMPLE_S = 1.0
EXIT_LIMIT_S = 5.0


def make_video(path: Path, seconds: int, size_hw: tuple[int, int], fps: int) -> None:
    """Write a moving test picture, H.264."""
    height, width = size_hw
    source = f"testsrc2=size={width}x{height}:rate={fps}:duration={seconds}"
    words = ["-y", "-loglevel", "error", "-f", "lavfi", "-i", source, "-c:v", "libx264", "-preset", "ultrafast"]
    subprocess.run([str(ffmpeg.FFMPEG_PATH), *words, "-pix_fmt", "yuv420p", str(path)], check=True)


def started(video: Path, bundle: Path, overlay: Path, words: list[str]) -> "subprocess.Popen[bytes]":
    """nerve-segment as a user calls it, with all outputs that grow with the video."""
    lines = overlay.with_suffix(".jsonl")
    outputs = ["--overlay", str(overlay), "--jsonl", str(lines), "--force", "--json"]
    classes = ["--classes", "ladybug; grass; sky; zebra; water", "--bundle", str(bundle)]
    command = [sys.executable, str(ROOT / "runtime" / "segment.py"), str(video), *classes, *outputs, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def watched(process: "subprocess.Popen[bytes]", until_s: float | None) -> tuple[list[float], float]:
    """Resident memory in MiB, a sample a second, and the seconds it ran; at `until_s` it is told to end."""
    seen, started_s, told_s = psutil.Process(process.pid), time.monotonic(), None
    samples: list[float] = []
    while process.poll() is None:
        time.sleep(SAMPLE_S if told_s is None else 0.02)
        try:
            samples.append(seen.memory_info().rss / MEBIBYTE)
        except psutil.NoSuchProcess:
            break
        if until_s is not None and told_s is None and time.monotonic() - started_s >= until_s:
            process.send_signal(signal.SIGTERM)
            told_s = time.monotonic()
    return samples, time.monotonic() - (started_s if told_s is None else told_s)


def growth_mib(samples: list[float]) -> float:
    """Median of the last tenth less that of the first tenth after warm-up."""
    rss, count = np.array(samples), len(samples)
    window, warm = max(1, int(WINDOW_SHARE * count)), int(WARM_SHARE * count)
    return float(np.median(rss[-window:]) - np.median(rss[warm : warm + window]))


def frames_of(path: Path) -> int:
    """How many frames of a video can be decoded."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def whole_run(video: Path, bundle: Path, folder: Path, words: list[str]) -> dict[str, Any]:
    """The file from beginning to end."""
    overlay = folder / "whole.mp4"
    process = started(video, bundle, overlay, words)
    samples, seconds = watched(process, None)
    output = process.stdout.read().decode() if process.stdout else ""
    summary = json.loads(output.splitlines()[-1])
    grown = growth_mib(samples)
    return {
        "run": "whole",
        "exit_code": process.returncode,
        "seconds": round(seconds, 1),
        "frames": summary["frames"],
        "fps": summary["fps"],
        "overlay_frames": frames_of(overlay),
        "rss_peak_mib": round(max(samples), 1),
        "rss_growth_mib": round(grown, 2),
        "ok": process.returncode == 0 and grown <= GROWTH_LIMIT_MIB and frames_of(overlay) == summary["frames"],
    }


def ended_run(video: Path, bundle: Path, folder: Path, after_s: float, words: list[str]) -> dict[str, Any]:
    """The file until SIGTERM."""
    overlay = folder / "ended.mp4"
    process = started(video, bundle, overlay, words)
    _, seconds = watched(process, after_s)
    frames = frames_of(overlay) if overlay.exists() else 0
    return {
        "run": "ended",
        "exit_code": process.returncode,
        "seconds_to_exit": round(seconds, 2),
        "overlay_frames": frames,
        "left_behind": sorted(path.name for path in folder.iterdir() if ".tmp" in path.name),
        "ok": process.returncode == 128 + signal.SIGTERM and seconds <= EXIT_LIMIT_S and frames > 0,
    }


def main() -> int:
    """Both runs; 1 if one is not as it has to be."""
    parser = argparse.ArgumentParser(prog="python -m tests.long_video", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the video and the overlays go")
    parser.add_argument("--bundle", type=Path, default=ROOT / "bundles" / "tiny", help="default: bundles/tiny")
    parser.add_argument("--seconds", type=int, default=600, help="length of the video (default: 600)")
    parser.add_argument("--size", type=int, nargs=2, default=(720, 1280), metavar=("H", "W"), help="of the video")
    parser.add_argument("--end-after", type=float, default=20.0, help="seconds until SIGTERM (default: 20)")
    arguments, words = parser.parse_known_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    video = arguments.folder / "long.mp4"
    make_video(video, arguments.seconds, tuple(arguments.size), 25)
    ended = ended_run(video, arguments.bundle, arguments.folder, arguments.end_after, words)
    print(json.dumps(ended), flush=True)  # noqa: T201 - the result of a script
    whole = whole_run(video, arguments.bundle, arguments.folder, words)
    print(json.dumps(whole), flush=True)  # noqa: T201
    return 0 if ended["ok"] and whole["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
