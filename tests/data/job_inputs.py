"""Folders of small videos and pictures for jobs, some broken, and segmenters that end their process."""

import os
import signal
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from nerve_runtime.frames import Frame
from nerve_stream import FrameSource, register_source
from nerve_stream.cli.options import OutputOptions
from nerve_stream.cli.plan import chosen_outputs
from nerve_stream.scaleout.inputs import find_inputs
from nerve_stream.scaleout.job import Job, JobInput, Places
from nerve_stream.sources.options import ReadOptions
from tests.data.clips import halves, write_clip
from tests.data.stream_doubles import DoubleSegmenter

KILLER_RED = 13
"""The red of the first pixel of a picture that ends the process of `DyingSegmenter`."""


def write_picture(path: Path, red: int = 40, size_hw: tuple[int, int] = (24, 32)) -> Path:
    """A picture whose first channel is `red` everywhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.full((*size_hw, 3), (80, 60, red), dtype=np.uint8)
    cv2.imwrite(str(path), picture)
    return path


def write_tree(folder: Path) -> Path:
    """Two clips and three pictures in nested folders, whose names are alike."""
    for place in ("a", "b/deep"):
        (folder / place).mkdir(parents=True)
    write_clip(folder / "a" / "clip.mp4", 3)
    write_clip(folder / "b" / "deep" / "clip.mp4", 2)
    write_picture(folder / "a" / "clip.png")
    write_picture(folder / "b" / "photo 1.png")
    cv2.imwrite(str(folder / "b" / "deep" / "other.png"), halves())
    return folder


def write_broken(folder: Path) -> list[Path]:
    """Five files that cannot be read: cut off, a text, empty, sound in place of pictures, and one that unpacks to gigabytes."""
    folder.mkdir(parents=True, exist_ok=True)
    cut = write_clip(folder / "cut.mp4", 4)
    cut.write_bytes(cut.read_bytes()[:600])
    (folder / "text.mp4").write_text("no film\n" * 40)
    (folder / "empty.png").write_bytes(b"")
    (folder / "wrong.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 50)
    bomb = cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1].tobytes()
    (folder / "bomb.png").write_bytes(bomb[:16] + (60_000).to_bytes(4, "big") * 2 + bomb[24:])
    return sorted(folder.iterdir())


class DyingSegmenter(DoubleSegmenter):
    """Ends its process by SIGKILL at a picture of the colour `KILLER_RED`."""

    def misbehave(self, frame: Frame) -> None:
        if frame.rgb[0, 0, 0] == KILLER_RED:
            os.kill(os.getpid(), signal.SIGKILL)


def hangs_for_ever() -> DoubleSegmenter:
    """A segmenter that hangs at the first frame, deaf to a stop."""
    return DoubleSegmenter(hang_at=0, deaf=True)


def _open_for_ever(_path: Path) -> FrameSource:
    time.sleep(600)
    raise AssertionError


def reads_what_hangs() -> DoubleSegmenter:
    """A worker in which a file that ends in .hang takes for ever to open."""
    register_source(".hang", _open_for_ever)
    return DoubleSegmenter()


def never_opens() -> DoubleSegmenter:
    """Its process dies when it is opened, as for lack of memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
    return DoubleSegmenter()


def job_for(
    source: Path | str, out: Path | str, opener: Callable[[], object] = DoubleSegmenter, **changes: object
) -> tuple[Job, list[JobInput]]:
    """A job that writes masks and JSON lines below `out`, and its inputs."""
    places = Places(masks=f"{out}/masks", jsonl=f"{out}/lines")
    outputs = chosen_outputs(OutputOptions(masks=Path("m"), jsonl=Path("l"), reproducible=True))
    job = Job(uuid.uuid4().hex, "key", opener, places, outputs, ReadOptions())  # type: ignore[arg-type]  # a double
    return replace(job, **changes), find_inputs([str(source)], places)  # type: ignore[arg-type]
