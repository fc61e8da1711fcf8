"""Outputs that are the same in every run: nothing in them says how long it took."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from nerve_runtime import FrameResult
from nerve_stream.sinks import JsonLines, OverlayVideo
from tests.data.running_command import json_lines
from tests.data.stream_doubles import blank, labelled


def _written(folder: Path, total_ms: float, *, reproducible: bool) -> tuple[bytes, bytes]:
    folder.mkdir()
    with (
        OverlayVideo(folder / "o.mp4", (64, 96), fps=Fraction(10), reproducible=reproducible) as video,
        JsonLines(folder / "l.jsonl", timings=not reproducible) as lines,
    ):
        for index in range(3):
            frame = blank(index % 2, (64, 96))
            result: FrameResult = replace(labelled(frame, total_ms=total_ms), index=index, time_s=Fraction(index, 10))
            for sink in (video, lines):
                sink.write(frame.rgb, result)
    return (folder / "o.mp4").read_bytes(), (folder / "l.jsonl").read_bytes()


def test_reproducible_outputs_do_not_depend_on_the_time_a_frame_took(tmp_path: Path) -> None:
    slow = _written(tmp_path / "slow", 900.0, reproducible=True)
    assert slow == _written(tmp_path / "fast", 1.0, reproducible=True)
    assert all("timings_ms" not in line for line in json_lines(tmp_path / "slow" / "l.jsonl"))


def test_usual_outputs_say_what_a_frame_took(tmp_path: Path) -> None:
    slow, fast = (_written(tmp_path / f"{ms}", ms, reproducible=False) for ms in (900.0, 1.0))
    assert slow[0] != fast[0]
    assert slow[1] != fast[1]
