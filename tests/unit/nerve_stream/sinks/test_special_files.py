"""Outputs that are no regular files: devices are refused, a pipe is written through, a link is followed."""

import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nerve_runtime.atomic import move_into_place, refuse_existing, temporary_beside, write_bytes_whole
from nerve_runtime.errors import ResourceError, UsageError
from nerve_stream.sinks import JsonLines, MaskFolder, OverlayVideo, ReaderGoneError, Sink
from tests.data.clips import halves
from tests.unit.nerve_stream.sinks.test_sinks import lines_in, masks_in, overlay_in, result, write_all

needs_devices = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full: a Linux device")


def device_in(folder: Path, name: str) -> Path:
    """A name in a folder that leads to a device, which no test may harm."""
    path = folder / name
    path.symlink_to("/dev/full")
    return path


def open_sink(path: Path) -> Sink:
    return OverlayVideo(path, fps=None, force=True) if path.suffix == ".mp4" else JsonLines(path, force=True)


@needs_devices
@pytest.mark.parametrize("name", ["out.jsonl", "out.mp4"])
def test_a_device_is_refused_also_with_force_and_stays_one(name: str, tmp_path: Path) -> None:
    device = device_in(tmp_path, name)
    with pytest.raises(UsageError, match=rf"output {device} is a device, expected a file name"):
        open_sink(device)
    assert stat.S_ISCHR(device.stat().st_mode)
    assert list(tmp_path.iterdir()) == [device]


@needs_devices
def test_no_way_of_writing_whole_files_replaces_a_device(tmp_path: Path) -> None:
    device, written = device_in(tmp_path, "out.json"), tmp_path / "new.json"
    written.write_bytes(b"{}")
    attempts: list[Callable[[], None]] = [
        lambda: refuse_existing(device, force=True, pipes=True),
        lambda: write_bytes_whole(device, b"{}"),
        lambda: move_into_place(written, device),
    ]
    for attempt in attempts:
        with pytest.raises(UsageError, match="is a device"):
            attempt()
    assert stat.S_ISCHR(device.stat().st_mode)


def read_in_background(pipe: Path) -> tuple[threading.Thread, list[str]]:
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(pipe.read_text().splitlines()), daemon=True)
    reader.start()
    return reader, lines


@pytest.mark.parametrize("force", [False, True])
def test_lines_are_written_through_a_pipe_which_stays_one(force: bool, tmp_path: Path) -> None:
    pipe = tmp_path / "lines.jsonl"
    os.mkfifo(pipe)
    reader, lines = read_in_background(pipe)
    write_all(JsonLines(pipe, force=force), frames=3)
    reader.join(5)
    assert [json.loads(line)["index"] for line in lines] == [0, 1, 2]
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_small_file_is_written_through_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "status.json"
    os.mkfifo(pipe)
    reader, lines = read_in_background(pipe)
    write_bytes_whole(pipe, b'{"ready": true}\n')
    reader.join(5)
    assert (lines, pipe.is_fifo()) == (['{"ready": true}'], True)


def test_a_video_refuses_a_pipe_which_it_cannot_go_back_in(tmp_path: Path) -> None:
    pipe = tmp_path / "out.mp4"
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match=r"out\.mp4 is a named pipe, expected a file name;"):
        OverlayVideo(pipe, fps=None, force=True)
    assert pipe.is_fifo()


def test_a_pipe_whose_reader_leaves_ends_with_that(tmp_path: Path) -> None:
    pipe = tmp_path / "lines.jsonl"
    os.mkfifo(pipe)
    reading = threading.Thread(target=lambda: os.close(os.open(pipe, os.O_RDONLY)), daemon=True)
    reading.start()
    sink = JsonLines(pipe)
    reading.join(5)
    with pytest.raises(ReaderGoneError, match="nobody reads"), sink:
        sink.write(halves(), result(0))
    assert ReaderGoneError.exit_code == 141


@pytest.mark.parametrize("sink_in", [overlay_in, lines_in])
def test_a_link_is_followed_and_its_target_is_replaced(sink_in: Callable[..., Sink], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    named = sink_in(tmp_path / "probe").path.name
    target, link = tmp_path / "elsewhere" / f"target{Path(named).suffix}", tmp_path / named
    target.write_bytes(b"old")
    link.symlink_to(target)
    with pytest.raises(UsageError, match="exists already"):
        sink_in(tmp_path)
    write_all(sink_in(tmp_path, force=True))
    assert link.is_symlink()
    assert link.resolve() == target
    assert target.stat().st_size > 100
    assert list((tmp_path / "elsewhere").iterdir()) == [target]


def test_a_link_to_nothing_yet_makes_its_target(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to(tmp_path / "target.json")
    write_bytes_whole(tmp_path / "link.json", b"{}")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "target.json").read_bytes() == b"{}"


def test_masks_follow_a_link_to_a_folder(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "masks").symlink_to(tmp_path / "disk")
    write_all(masks_in(tmp_path), frames=2)
    assert (tmp_path / "masks").is_symlink()
    assert len(list((tmp_path / "disk").glob("*.png"))) == 2


def test_masks_make_the_folder_that_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "masks").symlink_to(tmp_path / "disk")
    write_all(masks_in(tmp_path), frames=2)
    assert (tmp_path / "masks").is_symlink()
    assert len(list((tmp_path / "disk").glob("*.png"))) == 2


@pytest.mark.parametrize("name", ["out.jsonl", "out.mp4", "masks"])
def test_a_link_that_leads_to_itself_is_named_before_anything_is_written(name: str, tmp_path: Path) -> None:
    loop = tmp_path / name
    loop.symlink_to(loop)
    with pytest.raises(ResourceError, match=rf"cannot write {loop}: .*\(ELOOP\)"):
        MaskFolder(loop) if name == "masks" else open_sink(loop)
    assert list(tmp_path.iterdir()) == [loop]


def test_masks_refuse_what_is_no_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "masks")
    with pytest.raises(UsageError, match="expected a folder"):
        MaskFolder(tmp_path / "masks", force=True)
    assert (tmp_path / "masks").is_fifo()


def test_the_temporary_file_of_a_link_lies_beside_its_target(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out.json").symlink_to(tmp_path / "disk" / "out.json")
    assert temporary_beside(tmp_path / "out.json").parent == tmp_path / "disk"
