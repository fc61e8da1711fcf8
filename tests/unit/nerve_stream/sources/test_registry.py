import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from nerve_runtime import Frame, UsageError
from nerve_stream import FrameSource, expand_sources, open_frames, register_source
from nerve_stream.sources import base, registry


@pytest.fixture(autouse=True)
def _empty_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_OPENERS", {})


class Counted(FrameSource):
    """Ten frames a second, as many as the file's name says; the level of a pixel is the number of its frame."""

    fps = Fraction(10)

    def __init__(self, path: Path) -> None:
        self.name, self.count, self.size_hw = path.name, int(path.stem), (2, 3)

    def read_frames(self) -> Iterator[Frame]:
        for index in range(self.count or 0):
            yield Frame(np.full((2, 3, 3), index, dtype=np.uint8), index, 5 + index / self.fps)


def counted(tmp_path: Path, frames: int) -> Path:
    path = tmp_path / f"{frames}.count"
    path.write_bytes(b"x")
    return path


def example() -> str:
    """The example in the docstring of `sources.base`."""
    lines = (base.__doc__ or "").splitlines()
    begin, end = lines.index("    from fractions import Fraction"), lines.index("        run_segment()")
    return textwrap.dedent("\n".join(lines[begin : end + 1]))


def test_the_example_of_the_docstring_segments_a_numpy_file_from_the_command_line(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "segment_arrays.py").write_text(example(), encoding="utf-8")
    np.save(tmp_path / "frames.npy", np.zeros((7, 24, 32, 3), dtype=np.uint8))
    options = [
        "--bundle",
        str(bundle),
        "--backend",
        "fake",
        "--classes",
        "red; sky",
        "--masks",
        "masks",
        "--every",
        "3",
    ]
    command = [sys.executable, "segment_arrays.py", "frames.npy", *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    masks = sorted(path.name for path in (tmp_path / "masks").glob("*.png"))
    assert masks == ["frame_000000.png", "frame_000003.png", "frame_000006.png"]


def test_a_part_of_a_registered_source_is_chosen_by_its_own_times(tmp_path: Path) -> None:
    register_source(".COUNT", Counted)
    path = counted(tmp_path, 10)
    with open_frames(path, start_s=0.2, duration_s=0.5, every=2) as frames:
        assert [(frame.index, frame.time_s) for frame in frames] == [
            (2, Fraction(52, 10)),
            (4, Fraction(54, 10)),
            (6, Fraction(56, 10)),
        ]
    with open_frames(path) as frames:
        assert (frames.count, frames.fps, frames.size_hw) == (10, Fraction(10), (2, 3))
        assert len(list(frames)) == 10


def test_a_start_behind_the_end_of_a_registered_source_is_refused(tmp_path: Path) -> None:
    register_source(".count", Counted)
    with (
        open_frames(counted(tmp_path, 10), start_s=1) as frames,
        pytest.raises(UsageError, match=r"start 1 s lies behind the end of 10\.count, which is 0\.900 s long"),
    ):
        list(frames)


def test_a_folder_of_registered_files_is_expanded_as_one_of_videos(tmp_path: Path) -> None:
    files = [counted(tmp_path, frames) for frames in (2, 10)]
    assert expand_sources([str(tmp_path)]) == [str(tmp_path)]
    register_source(".count", Counted)
    assert expand_sources([str(tmp_path)]) == [str(path) for path in files]


@pytest.mark.parametrize("suffix", [".mp4", ".PNG", ".count"])
def test_a_suffix_that_is_read_already_is_not_registered_again(suffix: str) -> None:
    register_source(".count", lambda path: Counted(path))
    with pytest.raises(
        UsageError, match=rf"files ending in \{suffix.lower()} are read by another source; choose another"
    ):
        register_source(suffix, Counted)


@pytest.mark.parametrize("suffix", ["npy", "", ".", ".tar.gz"])
def test_what_is_no_suffix_is_not_registered(suffix: str) -> None:
    with pytest.raises(UsageError, match=r"suffix is '.*', expected a dot and what follows it, such as '\.npy'"):
        register_source(suffix, Counted)
